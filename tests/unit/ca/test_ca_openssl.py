"""What OpenSSL makes of our chains: accepted at root and twin, and every foreign name refused by the constraints.

The leaves that must be refused could not come from our own issuer, so they are signed with the authority's key directly,
as a thief of that key would.
"""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca import der
from ca.issuance import Issued, LeafRequest, issue_x509
from ca.root import Reason, Revoked, cross_sign, make_crl, make_root
from tests.unit.ca.material import DAY, HOME, NOW, SUFFIX, WEB, Domain, make_domain, seeded, spki
from trustfed.spiffe.x509svid import pem

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
URI = x509.UniformResourceIdentifier
ID = URI(str(WEB))


@dataclass
class OpenSsl:
    folder: Path

    def verify(
        self, anchor: bytes, leaf: bytes, untrusted: Sequence[bytes] = (), *options: str, crl: bytes = b""
    ) -> str:
        """OK, or the reason that `openssl verify` gives."""
        files = {"anchor": pem([anchor]), "leaf": pem([leaf]), "untrusted": pem(untrusted), "crl": crl}
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
        arguments = ["-attime", str(int(NOW.timestamp())), "-x509_strict", "-CAfile", "anchor", *options]
        arguments += ["-untrusted", "untrusted"] if untrusted else []
        arguments += ["-CRLfile", "crl"] if crl else []
        done = subprocess.run(
            ["openssl", "verify", *arguments, "leaf"], cwd=self.folder, capture_output=True, text=True, timeout=20
        )
        return "OK" if done.returncode == 0 else done.stderr


@pytest.fixture
def openssl(tmp_path: Path) -> OpenSsl:
    return OpenSsl(tmp_path)


def subject_of(domain: Domain) -> x509.Name:
    return x509.load_der_x509_certificate(domain.issuer.twin).subject


async def stolen(domain: Domain, *names: x509.GeneralName) -> bytes:
    """A leaf with any names, signed by the authority's own key."""
    issuer = domain.issuer.signer
    key = ec.generate_private_key(ec.SECP256R1())
    tbs = (
        x509.CertificateBuilder()
        .issuer_name(subject_of(domain))
        .subject_name(x509.Name([]))
        .serial_number(7)
        .not_valid_before(NOW - timedelta(seconds=10))
        .not_valid_after(NOW + timedelta(hours=1))
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(issuer.authority_key, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
        .tbs_certificate_bytes
    )
    (signature,) = await domain.keys.sign(domain.issuer.key_name, [tbs])
    return der.signed(tbs, signature)


async def issued(domain: Domain, *dns_names: str) -> Issued:
    request = LeafRequest(WEB, spki(), 3600, dns_names=dns_names, chain="root")
    (result,) = await issue_x509(domain.issuer, [request], domain.keys, domain.recorder, now=NOW, randomness=seeded())
    assert isinstance(result, Issued)
    return result


async def test_root_chain_and_twin_are_accepted(openssl: OpenSsl, domain: Domain) -> None:
    leaf, *behind = (await issued(domain, f"web.{SUFFIX}")).chain
    assert openssl.verify(domain.root.certificate, leaf, behind) == "OK"
    assert openssl.verify(domain.issuer.twin, leaf) == "OK"
    assert openssl.verify(domain.issuer.twin, leaf, behind) == "OK"
    assert openssl.verify(domain.root.certificate, leaf, behind, "-purpose", "sslserver") == "OK"
    assert openssl.verify(domain.root.certificate, leaf, behind, "-purpose", "sslclient") == "OK"


async def test_another_twin_is_no_anchor(openssl: OpenSsl, domain: Domain) -> None:
    other = await make_domain()
    leaf = (await issued(domain)).chain[0]
    assert "error" in openssl.verify(other.issuer.twin, leaf)


OUTSIDE: dict[str, tuple[x509.GeneralName, ...]] = {
    "another domain's URI": (URI("spiffe://prod-eu/ns/shop/sa/web"),),
    "a domain whose name ours begins with": (URI("spiffe://prod-us/a"),),
    "a domain below ours": (URI(f"spiffe://a.{HOME}/a"),),
    "another domain's URI beside ours": (ID, URI("spiffe://prod-eu/a")),
    "DNS outside the suffixes": (ID, x509.DNSName("www.example.org")),
    "DNS above the suffix": (ID, x509.DNSName("example.com")),
    "a single label": (ID, x509.DNSName("localhost")),
    "an IPv4 address": (ID, x509.IPAddress(ipaddress.ip_address("10.0.0.1"))),
    "an IPv6 address": (ID, x509.IPAddress(ipaddress.ip_address("::1"))),
    "an e-mail address": (ID, x509.RFC822Name("admin@west.example.com")),
    "an e-mail address at the host that is named": (ID, x509.RFC822Name("a@invalid")),
}


@pytest.mark.parametrize("suffixes", [(), (SUFFIX,)], ids=["no suffixes", "one suffix"])
async def test_names_outside_are_refused_at_the_root(openssl: OpenSsl, suffixes: tuple[str, ...]) -> None:
    domain = await make_domain(suffixes=suffixes)
    assert domain.issuer.intermediate is not None
    behind = [domain.issuer.intermediate]
    assert openssl.verify(domain.root.certificate, await stolen(domain, ID), behind) == "OK"
    for what, names in OUTSIDE.items():
        answer = openssl.verify(domain.root.certificate, await stolen(domain, *names), behind)
        assert "subtree violation" in answer, what
    inside = openssl.verify(domain.root.certificate, await stolen(domain, ID, x509.DNSName(SUFFIX)), behind)
    assert (inside == "OK") == bool(suffixes)


async def test_an_intermediate_signs_no_ca(openssl: OpenSsl, domain: Domain) -> None:
    """Path length 0: a leaf behind a CA that the authority's key signed is refused at root and at twin."""
    sub_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sub")])
    base = (
        x509.CertificateBuilder()
        .not_valid_before(NOW - timedelta(seconds=10))
        .not_valid_after(NOW + timedelta(hours=1))
        .serial_number(8)
    )
    sub_tbs = (
        base.issuer_name(subject_of(domain))
        .subject_name(name)
        .public_key(sub_key.public_key())
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(sub_key, hashes.SHA256())
        .tbs_certificate_bytes
    )
    (signature,) = await domain.keys.sign(domain.issuer.key_name, [sub_tbs])
    sub = der.signed(sub_tbs, signature)
    leaf = (
        base.issuer_name(name)
        .subject_name(x509.Name([]))
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .add_extension(x509.SubjectAlternativeName([ID]), critical=True)
        .sign(sub_key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    assert domain.issuer.intermediate is not None
    for anchor, behind in ((domain.root.certificate, [sub, domain.issuer.intermediate]), (domain.issuer.twin, [sub])):
        assert openssl.verify(anchor, leaf, behind) != "OK"


async def test_rollover_chains_verify_under_either_root(openssl: OpenSsl, domain: Domain) -> None:
    await domain.keys.create("root-2")
    new = await make_root("acme", 2, "root-2", domain.keys, now=NOW, randomness=seeded(2))
    new_by_old = await cross_sign(domain.root, new.certificate, domain.keys, now=NOW, randomness=seeded(3))
    old_by_new = await cross_sign(new, domain.root.certificate, domain.keys, now=NOW, randomness=seeded(4))
    late = await make_domain(root=new, keys=domain.keys, authority="a2")
    for issuing, own, other, cross in (
        (domain, domain.root.certificate, new.certificate, old_by_new),
        (late, new.certificate, domain.root.certificate, new_by_old),
    ):
        leaf, *behind = (await issued(issuing)).chain
        assert openssl.verify(own, leaf, behind) == "OK"
        assert "error" in openssl.verify(other, leaf, behind)
        assert openssl.verify(other, leaf, [*behind, cross]) == "OK"


async def test_revoked_intermediate_is_refused(openssl: OpenSsl, domain: Domain) -> None:
    assert domain.issuer.intermediate is not None
    leaf, *behind = (await issued(domain)).chain
    serial = x509.load_der_x509_certificate(behind[0]).serial_number
    for revoked in ([], [Revoked(serial, NOW - DAY, Reason.CA_COMPROMISE)]):
        data = await make_crl(domain.root, revoked, 1, domain.keys, now=NOW, next_update=NOW + DAY)
        text = x509.load_der_x509_crl(data).public_bytes(Encoding.PEM)
        answer = openssl.verify(domain.root.certificate, behind[0], (), "-crl_check", crl=text)
        assert ("revoked" in answer) if revoked else (answer == "OK")
    assert leaf
