"""CA certificates, CRLs and requests whose key lives behind the key port: pyca encodes, the key store signs.

pyca's builders want a private key object. The to-be-signed bytes name the algorithm but not the key, so they are taken
from a build with a key that is thrown away at once, and the real key signs exactly those bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ca import der
from ca.keys.port import KeyStore
from ca.profiles import NOT_BEFORE_BACKDATE, SERIAL_BITS, CaProfile
from ca.publickeys import CertifiedKey, key_id
from ca.record import Randomness
from trustfed.errors import Invalid, Unavailable
from trustfed.spiffe.ids import TrustDomain

_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class CaFields:
    """What one CA certificate says. `not_after` is an instant; NotBefore is `now` less the backdate."""

    subject: x509.Name
    public_key: CertifiedKey
    issuer: x509.Name
    issuer_key_id: bytes
    not_after: datetime
    trust_domain: TrustDomain | None = None
    constraints: x509.NameConstraints | None = None
    crl_url: str = ""


def new_serial(randomness: Randomness) -> int:
    """A positive serial of 128 random bits (RFC 5280 §4.1.2.2 allows 20 octets; this takes at most 17)."""
    return int.from_bytes(randomness(SERIAL_BITS // 8), "big") or 1


def whole_seconds(at: datetime) -> datetime:
    """The instant in UTC, cut to whole seconds, as a certificate can hold it. Raises Invalid without a time zone."""
    if at.tzinfo is None:
        raise Invalid(f"the time {at} has no time zone", hint="pass an aware datetime")
    return at.astimezone(UTC).replace(microsecond=0)


def ca_tbs(profile: CaProfile, fields: CaFields, serial: int, now: datetime) -> bytes:
    """The TBSCertificate of a CA certificate. Raises Invalid when its end is past or beyond the profile's bound."""
    now, not_after = whole_seconds(now), whole_seconds(fields.not_after)
    if not_after <= now:
        raise Invalid(f"the {profile.name} certificate would have ended at {not_after}", hint="choose a later end")
    if not_after - now > profile.max_lifetime:
        raise Invalid(
            f"the {profile.name} certificate would live until {not_after}",
            hint=f"at most {profile.max_lifetime.days} days",
        )
    builder = (
        x509.CertificateBuilder()
        .subject_name(fields.subject)
        .issuer_name(fields.issuer)
        .public_key(fields.public_key)
        .serial_number(serial)
        .not_valid_before(now - NOT_BEFORE_BACKDATE)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=profile.path_length), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_id(fields.public_key)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(fields.issuer_key_id, None, None), critical=False)
    )
    if profile.uri_san != (fields.trust_domain is not None) or profile.constrained != (fields.constraints is not None):
        raise AssertionError(f"profile {profile.name} and its fields disagree")
    if fields.trust_domain is not None:
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(fields.trust_domain.id)])
        builder = builder.add_extension(san, critical=False)
    if fields.constraints is not None:
        builder = builder.add_extension(fields.constraints, critical=True)
    if fields.crl_url:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(fields.crl_url)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    return builder.sign(_throwaway(), hashes.SHA256()).tbs_certificate_bytes


def crl_tbs(builder: x509.CertificateRevocationListBuilder) -> bytes:
    """The TBSCertList of a CRL builder."""
    return builder.sign(_throwaway(), hashes.SHA256()).tbs_certlist_bytes


async def sign_with(keys: KeyStore, key_name: str, public_key: CertifiedKey, tbs: bytes) -> bytes:
    """Sign `tbs` and wrap it; the signature is checked against `public_key` first, so a wrong key never gets out."""
    (signature,) = await keys.sign(key_name, [tbs])
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise Invalid("a CA key must be an EC key", hint="create a P-256 key")
    try:
        public_key.verify(signature, tbs, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise Unavailable(
            f"the key store signed with another key than {key_name}'s", hint="check the key store; nothing was issued"
        ) from error
    return der.signed(tbs, signature)


def _throwaway() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
