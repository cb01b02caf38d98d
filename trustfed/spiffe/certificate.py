"""One X.509 certificate as a verifier reads it: bounded, parsed once, unknown critical extensions refused.

What leaf and signing certificates have in common (RFC 5280 §4); their own rules stand in `x509svid`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from trustfed.errors import Invalid
from trustfed.spiffe import keys
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.keys import PublicKey

MAX_CERTIFICATE = 16 * 1024  # bytes of DER
MAX_SERIAL = 2**160
_SERIAL = re.compile(r"[0-9a-f]{8,40}", re.ASCII)
MAX_NAMES = 100  # entries of one subject alternative name extension
EMPTY_NAME = b"\x30\x00"  # DER of a subject or an issuer without any attribute

# What we process; a certificate that marks anything else as critical is refused (RFC 5280 §4.2).
_PROCESSED = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)
_SIGNATURES = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
        SignatureAlgorithmOID.RSASSA_PSS,
    }
)
# What the parser raises for bytes that are not what they claim to be.
_PARSER_ERRORS = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UserWarning,  # about odd names and serials, in an interpreter that makes errors of warnings
)

E = TypeVar("E", bound=x509.ExtensionType)
T = TypeVar("T")


def serial_text(serial: int) -> str:
    """A serial number as ledgers, answers and pages have it: 32 lower-case hex digits, more if it needs more."""
    return f"{serial:032x}"


def serial_said(text: str, digits: int = 32) -> str:
    """The same of a serial as people and other programs write it, with `digits` at least; "" if it is none.

    OpenSSL and browsers begin at the first byte that is not zero, put colons or spaces between, and write capitals.
    """
    plain = re.sub(r"[:\s]", "", text).lower().removeprefix("0x")
    return plain.zfill(digits) if _SERIAL.fullmatch(plain) else ""


@dataclass(frozen=True)
class Certificate:
    """The facts of one parsed certificate; every field was read without trusting anything."""

    der: bytes
    parsed: x509.Certificate
    public_key: PublicKey
    subject: bytes  # DER, compared as bytes
    issuer: bytes
    not_before: datetime
    not_after: datetime
    ca: bool
    path_length: int | None
    key_usage: x509.KeyUsage | None
    key_usage_critical: bool
    extended_key_usage: x509.ExtendedKeyUsage | None
    names: tuple[x509.GeneralName, ...]  # of the subject alternative name extension
    names_critical: bool
    name_constraints: x509.NameConstraints | None
    subject_key_id: bytes | None
    authority_key_id: bytes | None

    @property
    def uris(self) -> list[str]:
        """The URI names, as they stand in the certificate."""
        return [name.value for name in self.names if isinstance(name, x509.UniformResourceIdentifier)]


def read(der: bytes, what: str) -> Certificate:
    """Parse one DER certificate of at most 16 KiB; `what` names it in errors. Raises Invalid, never anything else."""
    if not isinstance(der, bytes | bytearray | memoryview):
        raise Invalid(f"{what}: not bytes")
    if len(der) > MAX_CERTIFICATE:
        raise Invalid(f"{what}: {len(der)} bytes, more than the {MAX_CERTIFICATE} allowed")
    der = bytes(der)
    parsed = _guarded(what, "not a DER certificate", lambda: x509.load_der_x509_certificate(der))
    if der[-len(parsed.signature) - 1] != 0:
        # The parser passes over the count of unused bits, so that one signature would have two spellings.
        raise Invalid(f"{what}: the signature is not a whole number of bytes (RFC 5280 §4.1.1.3)")
    if not 0 < parsed.serial_number < MAX_SERIAL:
        raise Invalid(f"{what}: the serial number is not positive or longer than 20 bytes (RFC 5280 §4.1.2.2)")
    extensions = _guarded(what, "a malformed or repeated extension", lambda: parsed.extensions)
    for extension in extensions:
        if extension.critical and extension.oid not in _PROCESSED:
            raise Invalid(f"{what}: the critical extension {extension.oid.dotted_string} is unknown (RFC 5280 §4.2)")
    key = _guarded(what, "a public key that cannot be read", parsed.public_key)
    values = {type(extension.value): extension.value for extension in extensions}
    critical = {type(extension.value) for extension in extensions if extension.critical}
    constraints = _value(values, x509.BasicConstraints)
    names = tuple(_value(values, x509.SubjectAlternativeName) or ())
    subject_key, authority_key = _value(values, x509.SubjectKeyIdentifier), _value(values, x509.AuthorityKeyIdentifier)
    if len(names) > MAX_NAMES:
        raise Invalid(f"{what}: more than {MAX_NAMES} subject alternative names")
    subject, issuer = _guarded(
        what, "a name that cannot be read", lambda: (parsed.subject.public_bytes(), parsed.issuer.public_bytes())
    )
    return Certificate(
        der=der,
        parsed=parsed,
        public_key=keys.accepted(key, what),
        subject=subject,
        issuer=issuer,
        not_before=parsed.not_valid_before_utc,
        not_after=parsed.not_valid_after_utc,
        ca=bool(constraints and constraints.ca),
        path_length=constraints.path_length if constraints else None,
        key_usage=_value(values, x509.KeyUsage),
        key_usage_critical=x509.KeyUsage in critical,
        extended_key_usage=_value(values, x509.ExtendedKeyUsage),
        names=names,
        names_critical=x509.SubjectAlternativeName in critical,
        name_constraints=_value(values, x509.NameConstraints),
        subject_key_id=subject_key.digest if subject_key else None,
        authority_key_id=authority_key.key_identifier if authority_key else None,
    )


def spiffe_id(certificate: Certificate, what: str) -> SpiffeId | None:
    """Return the SPIFFE ID of the one URI name, None without any (X509-SVID §2). Raises Invalid."""
    uris = certificate.uris
    if len(uris) > 1:
        raise Invalid(f"{what}: {len(uris)} URI names, not one (X509-SVID §2)")
    return SpiffeId.parse(uris[0]) if uris else None


def check_signature_algorithm(certificate: Certificate, what: str) -> None:
    """Refuse signatures over SHA-1 and older, and kinds of signature that no accepted key makes. Raises Invalid."""
    parsed = certificate.parsed
    digest = _guarded(what, "an unknown signature algorithm", lambda: parsed.signature_hash_algorithm)
    oid = parsed.signature_algorithm_oid
    if oid not in _SIGNATURES or digest is None or digest.digest_size < 32:
        raise Invalid(f"{what}: signed with {oid.dotted_string}, not ECDSA or RSA with SHA-256, -384 or -512")


def _value(values: Mapping[type[x509.ExtensionType], x509.ExtensionType], kind: type[E]) -> E | None:
    value = values.get(kind)
    return value if isinstance(value, kind) else None


def _guarded(what: str, fault: str, read_it: Callable[[], T]) -> T:
    try:
        return read_it()
    except _PARSER_ERRORS as error:
        raise Invalid(f"{what}: {fault} ({type(error).__name__})") from None
