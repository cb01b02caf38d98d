"""Every field of a leaf that is not what was meant is refused, whoever wrote it: one vector per fault."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from cryptography.x509.oid import NameOID

from ca.authority import authority_subject
from ca.lint import Meant, lint_leaf
from ca.profiles import X509_SVID
from ca.publickeys import key_id
from tests.unit.ca.material import HOME, NOW, OTHER, SUFFIX, WEB, Domain, spki
from trustfed.errors import Invalid
from trustfed.spiffe.ids import SpiffeId

KEY = ec.generate_private_key(ec.SECP256R1())
SERIAL = 0x1234567890ABCDEF
MEANT = Meant(WEB, KEY.public_key(), spki(KEY), (f"web.{SUFFIX}",), SERIAL, None, 3600, X509_SVID, NOW)
URI = x509.UniformResourceIdentifier


def usage(**changes: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
        " encipher_only decipher_only"
    )
    return x509.KeyUsage(**{**dict.fromkeys(names.split(), False), "digital_signature": True, **changes})


@dataclass
class Leaf:
    """A leaf as pyca's builder writes it: an independent second writer."""

    issuer: x509.Name
    authority_key: bytes
    subject: x509.Name = field(default_factory=lambda: x509.Name([]))
    serial: int = SERIAL
    begin: datetime = NOW - timedelta(seconds=10)
    end: datetime = NOW + timedelta(hours=1)
    key: ec.EllipticCurvePrivateKey = KEY
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    extensions: dict[str, tuple[x509.ExtensionType, bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.extensions = {
            "ku": (usage(), True),
            "eku": (x509.ExtendedKeyUsage([Eku.SERVER_AUTH, Eku.CLIENT_AUTH]), False),
            "bc": (x509.BasicConstraints(False, None), True),
            "aki": (x509.AuthorityKeyIdentifier(self.authority_key, None, None), False),
            "ski": (x509.SubjectKeyIdentifier(key_id(KEY.public_key())), False),
            "san": (x509.SubjectAlternativeName([URI(str(WEB)), x509.DNSName(f"web.{SUFFIX}")]), True),
        }

    def build(self) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .issuer_name(self.issuer)
            .subject_name(self.subject)
            .serial_number(self.serial)
            .not_valid_before(self.begin)
            .not_valid_after(self.end)
            .public_key(self.key.public_key())
        )
        for extension, critical in self.extensions.values():
            builder = builder.add_extension(extension, critical)
        return builder.sign(ec.generate_private_key(ec.SECP256R1()), self.digest)  # type: ignore[arg-type]


def fields(**changes: Any) -> Callable[[Leaf], None]:
    def change(leaf: Leaf) -> None:
        for name, value in changes.items():
            setattr(leaf, name, value)

    return change


def extension(name: str, value: x509.ExtensionType | None, critical: bool = False) -> Callable[[Leaf], None]:
    def change(leaf: Leaf) -> None:
        if value is None:
            del leaf.extensions[name]
        else:
            leaf.extensions[name] = (value, critical)

    return change


def names(*values: x509.GeneralName) -> Callable[[Leaf], None]:
    return extension("san", x509.SubjectAlternativeName(values), True)


ID, DNS = URI(str(WEB)), x509.DNSName(f"web.{SUFFIX}")
FAULTS: dict[str, Callable[[Leaf], None]] = {
    "another serial": fields(serial=SERIAL + 1),
    "an issuer of another name": fields(issuer=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evil")])),
    "a subject": fields(subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web")])),
    "begins in the future": fields(begin=NOW + timedelta(seconds=1)),
    "begins before the authority": fields(begin=NOW - timedelta(seconds=11)),
    "ends after the authority": fields(end=NOW + timedelta(days=1, seconds=1)),
    "lives longer than asked": fields(end=NOW + timedelta(hours=1, seconds=1)),
    "has ended": fields(begin=NOW - timedelta(seconds=10), end=NOW),
    "another public key": fields(key=ec.generate_private_key(ec.SECP256R1())),
    "signed with SHA-512": fields(digest=hashes.SHA512()),
    "no key usage": extension("ku", None),
    "key usage not critical": extension("ku", usage(), False),
    "may sign certificates": extension("ku", usage(key_cert_sign=True), True),
    "may sign CRLs": extension("ku", usage(crl_sign=True), True),
    "may agree on keys": extension("ku", usage(key_agreement=True), True),
    "no digital signature": extension("ku", usage(digital_signature=False, key_encipherment=True), True),
    "any extended use": extension("eku", x509.ExtendedKeyUsage([Eku.ANY_EXTENDED_KEY_USAGE])),
    "server only": extension("eku", x509.ExtendedKeyUsage([Eku.SERVER_AUTH])),
    "also code signing": extension("eku", x509.ExtendedKeyUsage([Eku.SERVER_AUTH, Eku.CLIENT_AUTH, Eku.CODE_SIGNING])),
    "no extended key usage": extension("eku", None),
    "a CA": extension("bc", x509.BasicConstraints(True, None), True),
    "basic constraints not critical": extension("bc", x509.BasicConstraints(False, None), False),
    "no basic constraints": extension("bc", None),
    "another authority's key id": extension("aki", x509.AuthorityKeyIdentifier(bytes(20), None, None)),
    "another subject key id": extension("ski", x509.SubjectKeyIdentifier(bytes(20))),
    "no subject key id": extension("ski", None),
    "one extension more": extension("extra", x509.OCSPNoCheck()),
    "an unknown extension": extension(
        "extra", x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    ),
    "names not critical": extension("san", x509.SubjectAlternativeName([ID, DNS]), False),
    "no names": extension("san", None),
    "another ID": names(URI("spiffe://prod-us-west/ns/shop/sa/admin"), DNS),
    "the ID in another domain": names(URI("spiffe://prod-us/ns/shop/sa/web"), DNS),
    "two IDs": names(ID, URI("spiffe://prod-us-west/b"), DNS),
    "the same ID twice": names(ID, ID, DNS),
    "DNS before the ID": names(DNS, ID),
    "no ID": names(DNS),
    "a DNS name more": names(ID, DNS, x509.DNSName(f"b.{SUFFIX}")),
    "a DNS name less": names(ID),
    "a DNS name outside": names(ID, x509.DNSName("evil.example")),
    "an IP address": names(ID, DNS, x509.IPAddress(ipaddress.ip_address("10.0.0.1"))),
    "an e-mail address": names(ID, DNS, x509.RFC822Name("a@west.example.com")),
    "an other name": names(ID, DNS, x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")),
}


def lint(domain: Domain, leaf: Leaf, meant: Meant = MEANT) -> None:
    certificate = leaf.build()
    lint_leaf(certificate.public_bytes(Encoding.DER), certificate.tbs_certificate_bytes, domain.issuer.signer, meant)


def make(domain: Domain) -> Leaf:
    signer = domain.issuer.signer
    assert signer.authority_key.key_identifier is not None
    return Leaf(authority_subject(HOME, "a1"), signer.authority_key.key_identifier)


async def test_accepts_the_same_leaf_from_another_writer(domain: Domain) -> None:
    lint(domain, make(domain))


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_refuses(fault: str, remembered: bool, domain: Domain) -> None:
    if remembered:
        lint(domain, make(domain))
    leaf = make(domain)
    FAULTS[fault](leaf)
    with pytest.raises(Invalid):
        lint(domain, leaf)


@pytest.mark.parametrize("remembered", [False, True])
async def test_refuses_what_was_not_meant(remembered: bool, domain: Domain) -> None:
    if remembered:
        lint(domain, make(domain))
    outside = ("web.east.example.com",)
    for meant in (
        replace(MEANT, spiffe_id=SpiffeId.of(OTHER, WEB.path)),
        replace(MEANT, ttl=3599),
        replace(MEANT, not_after_limit=NOW + timedelta(minutes=59)),
        replace(MEANT, dns_names=outside),
        replace(MEANT, spki=spki()),
        replace(MEANT, serial=SERIAL + 1),
        replace(MEANT, serial=-SERIAL),
        replace(MEANT, now=NOW + timedelta(seconds=1)),
    ):
        with pytest.raises(Invalid):
            lint(domain, make(domain), meant)
    leaf = make(domain)
    names(ID, x509.DNSName(outside[0]))(leaf)
    with pytest.raises(Invalid, match="suffixes"):  # the writer and the request agree, the domain's suffixes do not
        lint(domain, leaf, replace(MEANT, dns_names=outside))


async def test_refuses_bytes_that_are_not_the_certificates(domain: Domain) -> None:
    one, two = make(domain).build(), make(domain)
    two.serial += 1
    signer = domain.issuer.signer
    with pytest.raises(Invalid, match="bytes to sign"):
        lint_leaf(one.public_bytes(Encoding.DER), two.build().tbs_certificate_bytes, signer, MEANT)
    part = one.tbs_certificate_bytes
    for cut in (b"", part[:-1], part + b"\0"):
        with pytest.raises(Invalid, match="bytes to sign"):
            lint_leaf(one.public_bytes(Encoding.DER), cut, signer, MEANT)
    for data in (b"", b"nonsense", one.public_bytes(Encoding.DER)[:-1]):
        with pytest.raises(Invalid):
            lint_leaf(data, one.tbs_certificate_bytes, signer, MEANT)


@pytest.mark.parametrize("serial", [1, 0x7F, 0xFF, 0x1FFF, (1 << 128) - 1])
async def test_accepts_the_next_leaf_for_names_that_it_remembers(serial: int, domain: Domain) -> None:
    """Another serial, key, and time: the same names. Each is read anew, and nothing of the first leaf's is expected."""
    lint(domain, make(domain))
    for _ in range(2):
        key, leaf = ec.generate_private_key(ec.SECP256R1()), make(domain)
        leaf.serial, leaf.key, leaf.end = serial, key, NOW + timedelta(minutes=30)
        leaf.extensions["ski"] = (x509.SubjectKeyIdentifier(key_id(key.public_key())), False)
        meant = replace(MEANT, serial=serial, public_key=key.public_key(), spki=spki(key), ttl=1800)
        lint(domain, leaf, meant)
        with pytest.raises(Invalid):
            lint(domain, leaf)
        leaf.extensions["ski"] = (x509.SubjectKeyIdentifier(key_id(KEY.public_key())), False)
        with pytest.raises(Invalid, match="subject key id"):
            lint(domain, leaf, meant)


async def test_what_it_remembers_is_bounded(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ca.lint._REMEMBERED", 3)
    for number in range(10):
        leaf = make(domain)
        leaf.extensions["san"] = (x509.SubjectAlternativeName([URI(f"{WEB}-{number}"), DNS]), True)
        lint(domain, leaf, replace(MEANT, spiffe_id=SpiffeId.of(HOME, f"{WEB.path}-{number}")))
        assert len(domain.issuer.signer._good) <= 3


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
async def test_every_bit_of_the_signed_bytes_matters(remembered: bool, domain: Domain) -> None:
    """Flip each bit of a good leaf: lint refuses every one, so no field goes unread."""
    if remembered:
        lint(domain, make(domain))
    certificate = make(domain).build()
    data, tbs = certificate.public_bytes(Encoding.DER), certificate.tbs_certificate_bytes
    start = data.index(tbs)
    for bit in range(8 * start, 8 * (start + len(tbs))):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        changed = bytes(flipped)
        with pytest.raises(Invalid):
            lint_leaf(changed, changed[start : start + len(tbs)], domain.issuer.signer, MEANT)


def test_home_is_not_a_prefix_of_other() -> None:
    assert HOME.name.startswith(OTHER.name)  # the names above would catch a prefix comparison
