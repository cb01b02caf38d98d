"""The root's certificates, requests to it, and its CRL."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ca.authority import authority_subject, check_csr, make_authority_csr, make_twin, new_authority_id
from ca.keys.memory import MemoryKeys
from ca.root import IntermediateRequest, Reason, Revoked, Root, cross_sign, make_crl, make_root, sign_intermediate
from tests.unit.ca.material import DAY, HOME, NOW, OTHER, SUFFIX, Domain, MemoryRecorder, make_domain, seeded
from trustfed.errors import Denied, Invalid, NotFound, Unavailable
from trustfed.spiffe.ids import TrustDomain


def parsed(certificate: bytes | None) -> x509.Certificate:
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate)


def critical(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> bool:
    return certificate.extensions.get_extension_for_class(kind).critical


async def two_roots() -> tuple[MemoryKeys, Root, Root]:
    keys = MemoryKeys()
    roots = []
    for version in (1, 2):
        await keys.create(f"root-{version}")
        made = await make_root("acme", version, f"root-{version}", keys, now=NOW, randomness=seeded(version))
        roots.append(made)
    return keys, roots[0], roots[1]


async def test_root_is_self_signed_with_room_for_a_cross_certificate() -> None:
    _, root, other = await two_roots()
    certificate = parsed(root.certificate)
    certificate.verify_directly_issued_by(certificate)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and basic.value.ca and basic.value.path_length == 2
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.key_cert_sign and usage.value.crl_sign and not usage.value.digital_signature
    assert certificate.not_valid_before_utc == NOW - timedelta(seconds=10)
    assert certificate.subject != parsed(other.certificate).subject


@pytest.mark.parametrize(("name", "version"), [("", 1), ("a\nb", 1), ("x" * 41, 1), ("acme", 0), ("acme", -1)])
async def test_root_refuses_bad_names_and_versions(name: str, version: int) -> None:
    with pytest.raises(Invalid):
        await make_root(name, version, "root-1", MemoryKeys(), now=NOW, randomness=seeded())


async def test_root_needs_its_key_and_a_sane_life() -> None:
    keys = MemoryKeys()
    with pytest.raises(NotFound):
        await make_root("acme", 1, "root-1", keys, now=NOW, randomness=seeded())
    await keys.create("root-1")
    for lifetime in (timedelta(0), timedelta(days=-1), timedelta(days=20_000)):
        with pytest.raises(Invalid):
            await make_root("acme", 1, "root-1", keys, now=NOW, randomness=seeded(), lifetime=lifetime)


async def test_cross_certificates_carry_the_other_key() -> None:
    keys, old, new = await two_roots()
    cross = parsed(await cross_sign(old, new.certificate, keys, now=NOW, randomness=seeded()))
    cross.verify_directly_issued_by(parsed(old.certificate))
    assert cross.public_key() == parsed(new.certificate).public_key()
    assert cross.subject == parsed(new.certificate).subject
    assert cross.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 1
    with pytest.raises(Invalid):
        await cross_sign(old, old.certificate, keys, now=NOW, randomness=seeded())
    with pytest.raises(Invalid):
        await cross_sign(old, cross.public_bytes(Encoding.DER), keys, now=NOW, randomness=seeded())
    with pytest.raises(Invalid):
        await cross_sign(old, b"nonsense", keys, now=NOW, randomness=seeded())


async def test_intermediate_and_twin_share_subject_and_key(domain: Domain) -> None:
    issuer = domain.issuer
    twin, signed = parsed(issuer.twin), parsed(issuer.intermediate)
    twin.verify_directly_issued_by(twin)
    signed.verify_directly_issued_by(parsed(domain.root.certificate))
    assert twin.subject == signed.subject and twin.public_key() == signed.public_key()
    for certificate in (twin, signed):
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert basic.ca and basic.path_length == 0
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.UniformResourceIdentifier(HOME.id)]
    assert critical(signed, x509.NameConstraints)
    with pytest.raises(x509.ExtensionNotFound):
        twin.extensions.get_extension_for_class(x509.NameConstraints)


async def test_intermediate_ends_with_the_root_and_is_recorded_before_it_is_signed() -> None:
    recorder, keys = MemoryRecorder(), MemoryKeys()
    await keys.create("root-1")
    await keys.create("k")
    root = await make_root("acme", 1, "root-1", keys, now=NOW, randomness=seeded(), lifetime=2 * DAY)
    csr = await make_authority_csr(HOME, "a1", "k", keys)
    request = IntermediateRequest(HOME, "a1", csr, (), NOW + 9 * DAY, crl_url="https://hub.example/root.crl")
    signed = parsed(await sign_intermediate(root, request, keys, recorder, now=NOW, randomness=seeded()))
    assert signed.not_valid_after_utc == NOW + 2 * DAY
    (draft,) = recorder.batches[0]
    assert draft.kind == "ca.issued" and int(draft.key, 16) == signed.serial_number
    assert draft.facts()["trust_domain"] == HOME.name
    recorder.fail = True
    with pytest.raises(Unavailable):
        await sign_intermediate(root, request, keys, recorder, now=NOW, randomness=seeded())
    with pytest.raises(Invalid):
        await sign_intermediate(root, request, keys, recorder, now=NOW + 3 * DAY, randomness=seeded())


REFUSED_REQUESTS = {
    "ends in the past": {"not_after": NOW},
    "ends after a century": {"not_after": NOW + 36_500 * DAY},
    "wildcard suffix": {"dns_suffixes": ("*.example.com",)},
    "empty suffix": {"dns_suffixes": ("",)},
    "suffix with leading dot": {"dns_suffixes": (".example.com",)},
    "suffix in upper case": {"dns_suffixes": ("Example.com",)},
    "suffix is an address": {"dns_suffixes": ("10.0.0.1",)},
    "suffix with NUL": {"dns_suffixes": ("a\0.example.com",)},
    "too many suffixes": {"dns_suffixes": tuple(f"s{n}.example.com" for n in range(33))},
    "CRL address with a space": {"crl_url": "http://hub/a b"},
    "CRL address is a file": {"crl_url": "file:///etc/passwd"},
}


@pytest.mark.parametrize("fault", REFUSED_REQUESTS)
async def test_intermediate_refuses(fault: str, domain: Domain) -> None:
    csr = await make_authority_csr(HOME, "a1", domain.issuer.key_name, domain.keys)
    fields = {"dns_suffixes": (SUFFIX,), "not_after": NOW + DAY, **REFUSED_REQUESTS[fault]}
    request = IntermediateRequest(HOME, "a1", csr, **fields)  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        await sign_intermediate(domain.root, request, domain.keys, domain.recorder, now=NOW, randomness=seeded())
    assert not domain.recorder.batches


@pytest.mark.parametrize("name", ["10.0.0.1", ".prod", "prod.", "a..b", "x" * 64, "1"])
async def test_intermediate_refuses_domains_that_no_constraint_can_name(name: str, domain: Domain) -> None:
    trust_domain = TrustDomain(name)
    csr = await make_authority_csr(trust_domain, "a1", domain.issuer.key_name, domain.keys)
    request = IntermediateRequest(trust_domain, "a1", csr, (), NOW + DAY)
    with pytest.raises(Invalid, match="name constraint"):
        await sign_intermediate(domain.root, request, domain.keys, domain.recorder, now=NOW, randomness=seeded())


def test_subjects_are_unique_and_fit() -> None:
    long = [TrustDomain("a" * 200 + end) for end in ("b", "c")]
    subjects = {
        authority_subject(td, a) for td in (HOME, OTHER, *long) for a in ("a1", "a2", new_authority_id(seeded()))
    }
    assert len(subjects) == 12
    assert authority_subject(HOME, "a1").rfc4514_string() == "CN=prod-us-west authority a1"
    for bad in ("", "A", "a b", "x" * 21, "a\n"):
        with pytest.raises(Invalid):
            authority_subject(HOME, bad)


async def test_csr_proves_possession() -> None:
    keys = MemoryKeys()
    made = await keys.create("k")
    csr = await make_authority_csr(HOME, "a1", "k", keys)
    assert x509.load_der_x509_csr(csr).is_signature_valid
    assert check_csr(csr, HOME, "a1") == made


async def test_csr_of_another_authority_or_domain_is_denied() -> None:
    keys = MemoryKeys()
    await keys.create("k")
    csr = await make_authority_csr(HOME, "a1", "k", keys)
    with pytest.raises(Denied):
        check_csr(csr, HOME, "a2")
    with pytest.raises(Denied):
        check_csr(csr, OTHER, "a1")


def request_with(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *extensions: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(authority_subject(HOME, "a1"))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


P256 = ec.generate_private_key(ec.SECP256R1())
PLAIN = request_with(P256)
REFUSED_CSRS = {
    "empty": b"",
    "not DER": b"-----BEGIN CERTIFICATE REQUEST-----",
    "truncated": PLAIN[:-1],
    "trailing byte": PLAIN + b"\0",
    "oversize": bytes(5000),
    "signature flipped": PLAIN[:-1] + bytes((PLAIN[-1] ^ 1,)),
    "asks to be a CA of any depth": request_with(P256, x509.BasicConstraints(True, None)),
    "asks for a name": request_with(P256, x509.SubjectAlternativeName([x509.DNSName("evil.example")])),
    "P-224": request_with(ec.generate_private_key(ec.SECP224R1())),
    "P-521": request_with(ec.generate_private_key(ec.SECP521R1())),
    "RSA": request_with(rsa.generate_private_key(65537, 2048)),
}


@pytest.mark.parametrize("fault", REFUSED_CSRS)
def test_csr_refuses(fault: str) -> None:
    with pytest.raises(Invalid):
        check_csr(REFUSED_CSRS[fault], HOME, "a1")


async def test_signature_by_another_key_gets_nowhere(domain: Domain) -> None:
    """A key store that lost and remade the root's key signs nothing in the old one's name."""
    keys = MemoryKeys()
    await keys.create("root-1")
    await keys.create("k")
    request = IntermediateRequest(HOME, "a1", await make_authority_csr(HOME, "a1", "k", keys), (), NOW + DAY)
    with pytest.raises(Unavailable, match="another key"):
        await sign_intermediate(domain.root, request, keys, MemoryRecorder(), now=NOW, randomness=seeded())


async def test_crl_lists_serials_with_reasons(domain: Domain) -> None:
    serial = parsed(domain.issuer.intermediate).serial_number
    revoked = [Revoked(serial, NOW, Reason.CA_COMPROMISE), Revoked(7, NOW, Reason.UNSPECIFIED)]
    data = await make_crl(domain.root, revoked, 3, domain.keys, now=NOW, next_update=NOW + 7 * DAY)
    crl = x509.load_der_x509_crl(data)
    key = parsed(domain.root.certificate).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(key)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
    entry = crl.get_revoked_certificate_by_serial_number(serial)
    assert entry is not None
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.ca_compromise
    assert crl.get_revoked_certificate_by_serial_number(8) is None
    empty = await make_crl(domain.root, [], 4, domain.keys, now=NOW, next_update=NOW + 7 * DAY)
    assert len(x509.load_der_x509_crl(empty)) == 0


async def test_crl_refuses(domain: Domain) -> None:
    twice = [Revoked(7, NOW, Reason.UNSPECIFIED)] * 2
    for revoked, number, end in (([], 0, NOW + DAY), ([], 1, NOW), (twice, 1, NOW + DAY)):
        with pytest.raises(Invalid):
            await make_crl(domain.root, revoked, number, domain.keys, now=NOW, next_update=end)


async def test_roots_other_than_certificates_of_ours_are_refused(domain: Domain) -> None:
    fake = Root(1, b"nonsense", "root-1")
    with pytest.raises(Invalid):
        await make_crl(fake, [], 1, domain.keys, now=NOW, next_update=NOW + DAY)


async def test_twin_refuses_a_past_end(domain: Domain) -> None:
    with pytest.raises(Invalid):
        await make_twin(HOME, "a1", domain.issuer.key_name, domain.keys, not_after=NOW, now=NOW, randomness=seeded())


async def test_two_domains_never_share_a_subject() -> None:
    one, two = await make_domain(), await make_domain(trust_domain=OTHER)
    common = [parsed(d.issuer.twin).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value for d in (one, two)]
    assert common[0] != common[1]
