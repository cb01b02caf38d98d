"""Makes certificates with any fault wanted, the same bytes every time.

Keys come from their name, ECDSA nonces from RFC 6979.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOME = "prod-us-west"
PEER = "prod-eu-north"

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True)
class Vector:
    """One input: a good one has no `error`, a bad one names its fault and a part of the message that must refuse it."""

    name: str
    fault: str
    files: dict[str, bytes]  # suffix -> content, such as ".pem"
    error: str = ""
    extra: dict[str, str] = field(default_factory=dict)


def key(name: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """The private key that belongs to a name: no secret, ever."""
    number = int.from_bytes(hashlib.sha256(f"trustfed vectors: {name}".encode()).digest()[:31], "big")
    return ec.derive_private_key(number, curve or ec.SECP256R1())


def rsa_number(name: str, bits: int) -> int:
    """An odd number of exactly so many bits; nobody knows its factors, and no vector needs them."""
    seed = b"".join(hashlib.sha256(f"{name} {at}".encode()).digest() for at in range(bits // 256 + 1))
    number = int.from_bytes(seed, "big") >> (len(seed) * 8 - bits)
    return number | 1 << (bits - 1) | 1


def rsa_key(name: str, bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, rsa_number(name, bits)).public_key()


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def usage(*names: str) -> x509.KeyUsage:
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: name in names for name in every.split()})


def name(common_name: str | None) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


@dataclass(frozen=True)
class Draft:
    """A certificate to be. The defaults make a good leaf of HOME; `replace` and `but` make it bad."""

    subject: str | None = "workload"
    issuer: str | None = "authority one"
    public_key: PublicKey = field(default_factory=lambda: key("leaf").public_key())
    signer: ec.EllipticCurvePrivateKey = field(default_factory=lambda: key("authority one"))
    names: Sequence[x509.GeneralName] = field(default_factory=lambda: [uri(f"spiffe://{HOME}/payments/api")])
    names_critical: bool = False
    constraints: x509.BasicConstraints | None = field(default_factory=lambda: x509.BasicConstraints(False, None))
    key_usage: x509.KeyUsage | None = field(default_factory=lambda: usage("digital_signature"))
    key_usage_critical: bool = True
    purposes: Sequence[x509.ObjectIdentifier] = (Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH)
    not_before: datetime = NOW - DAY
    not_after: datetime = NOW + DAY
    more: Sequence[tuple[x509.ExtensionType, bool]] = ()
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)

    def but(self, **changes: object) -> Draft:
        return replace(self, **changes)  # type: ignore[arg-type]

    def der(self) -> bytes:
        return self.certificate().public_bytes(Encoding.DER)

    def certificate(self) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.subject))
            .issuer_name(name(self.issuer))
            .public_key(self.public_key)
            .serial_number(_serial(self.subject, self.issuer))
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
        )
        if self.constraints is not None:
            builder = builder.add_extension(self.constraints, critical=True)
        if self.key_usage is not None:
            builder = builder.add_extension(self.key_usage, critical=self.key_usage_critical)
        if self.purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(self.purposes), critical=False)
        if self.names:
            builder = builder.add_extension(x509.SubjectAlternativeName(self.names), critical=self.names_critical)
        for extension, critical in self.more:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.signer, self.digest, ecdsa_deterministic=True)


def authority(common_name: str = "authority one", **changes: object) -> Draft:
    """A good self-signed authority of HOME with the key of its name."""
    own = key(common_name)
    draft = Draft(
        subject=common_name,
        issuer=common_name,
        public_key=own.public_key(),
        signer=own,
        names=(uri(f"spiffe://{HOME}"),),
        constraints=x509.BasicConstraints(ca=True, path_length=None),
        key_usage=usage("key_cert_sign", "crl_sign"),
        purposes=(),
        not_before=NOW - 10 * DAY,
        not_after=NOW + 10 * DAY,
    )
    return draft.but(**changes)


def resigned(certificate: x509.Certificate, signer: ec.EllipticCurvePrivateKey, old: bytes, new: bytes) -> bytes:
    """Change bytes inside a certificate, the same number of them, and sign it anew: for what no builder would make."""
    tbs = certificate.tbs_certificate_bytes
    assert len(old) == len(new) and tbs.count(old) == 1
    tbs = tbs.replace(old, new)
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
    signature = signer.sign(tbs, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return tlv(0x30, tbs + algorithm + tlv(0x03, b"\0" + signature))


def tlv(tag: int, content: bytes) -> bytes:
    """DER: tag, length, content."""
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def pem(*certificates: bytes) -> bytes:
    text = ""
    for der in certificates:
        body = base64.encodebytes(der).decode().replace("\n", "")
        lines = [body[at : at + 64] for at in range(0, len(body), 64)]
        text += "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
    return text.encode()


def unpem(data: bytes) -> list[bytes]:
    blocks = data.decode().split("-----BEGIN CERTIFICATE-----")[1:]
    return [base64.b64decode(block.split("-----END")[0]) for block in blocks]


def _serial(subject: str | None, issuer: str | None) -> int:
    return int.from_bytes(hashlib.sha256(f"{subject} by {issuer}".encode()).digest()[:8], "big") >> 1 | 1
