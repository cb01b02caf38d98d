"""Reads a leaf back from its DER and refuses to let it be signed when any field is not what was meant.

It shares no code with the writer (`ca.der`, `ca.template`): pyca parses, and every value, constant or not, is compared
with the request and the authority's own certificate. It runs before the serial is on record and before the key is used.

A leaf that passed is remembered for its names. The next one for the same names needs no parser when it is that leaf,
byte for byte, in all but serial, validity, public key and subject key id, and each of these is what this module itself
makes of the request. Whatever differs in one bit is read in full, as the first one was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from ca.constraints import within
from ca.malformed import MALFORMED
from ca.profiles import MAX_DNS_NAMES, MAX_SERIAL_OCTETS, NOT_BEFORE_BACKDATE, LeafProfile
from ca.publickeys import CertifiedKey, spki_key_id
from trustfed.errors import Invalid
from trustfed.spiffe.ids import SpiffeId, TrustDomain

_VERSION_3 = bytes.fromhex("a003020102")
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")  # RFC 5758 §3.2
_NO_SUBJECT = b"\x30\x00"
_TWO_UTC_TIMES = b"\x30\x1e"  # a Validity of two UTCTimes (RFC 5280 §4.1.2.5)
_KEY_ID = b"\x04\x14"  # the OCTET STRING of a subject key id
_KEY_USAGE = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
_KEY_USAGE_DER = _KEY_USAGE.public_bytes()
_EXTENDED_KEY_USAGE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_NO_CA = x509.BasicConstraints(ca=False, path_length=None)
_CRITICAL = {
    ExtensionOID.KEY_USAGE: True,
    ExtensionOID.EXTENDED_KEY_USAGE: False,
    ExtensionOID.BASIC_CONSTRAINTS: True,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: True,
}


# Names whose last good leaf is remembered, per authority; at about 800 bytes each.
_REMEMBERED = 4096

_Likeness = tuple[str, tuple[str, ...], int, int]


class _Good(NamedTuple):
    """The constant stretches of a certificate that was read in full: between them stand the four that vary."""

    to_serial: bytes
    to_validity: bytes
    to_spki: bytes
    to_key_id: bytes
    rest: bytes


@dataclass(frozen=True)
class Signer:
    """What the authority's own certificates say; read from them once, not taken from the writer."""

    trust_domain: TrustDomain
    subject: bytes  # DER
    authority_key: x509.AuthorityKeyIdentifier
    dns_suffixes: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    _good: dict[_Likeness, _Good] = field(default_factory=dict, init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Meant:
    """What this one leaf was meant to say."""

    spiffe_id: SpiffeId
    public_key: CertifiedKey
    spki: bytes  # its SubjectPublicKeyInfo (DER), which `load_public_key` has accepted
    dns_names: tuple[str, ...]
    serial: int
    not_after_limit: datetime | None
    ttl: int
    profile: LeafProfile
    now: datetime


def lint_leaf(certificate: bytes, tbs: bytes, signer: Signer, meant: Meant) -> None:
    """Raise Invalid unless `certificate` (its signature a placeholder) is exactly the leaf that was meant.

    1. whole and the same bytes that will be signed  2. version, serial, algorithm  3. issuer, subject  4. validity
    5. public key  6. the exact set of extensions and which are critical  7. constants: KU, EKU, BC  8. AKI, SKI
    9. alternative names: first the one URI, then DNS names within the suffixes.

    Steps 2 to 9 are byte comparisons where a leaf with the same names has passed them before.
    """
    begin, end = _lifetime(signer, meant)
    likeness = (str(meant.spiffe_id), meant.dns_names, meant.serial.bit_length() // 8, len(meant.spki))
    good = signer._good.get(likeness)
    outer = _header(certificate) if len(certificate) > 1 else 0
    if (
        good is not None
        and meant.serial > 0
        and certificate[outer : outer + len(tbs)] == tbs
        and certificate == _like(good, meant, begin, end)
    ):
        return
    _read_in_full(certificate, tbs, signer, meant, begin, end)
    if end.astimezone(UTC).year < 2050:
        if len(signer._good) >= _REMEMBERED:
            signer._good.clear()
        signer._good[likeness] = _taken_apart(certificate, tbs, signer, meant)


def _lifetime(signer: Signer, meant: Meant) -> tuple[datetime, datetime]:
    """The one begin and end that are right."""
    limit = signer.not_after if meant.not_after_limit is None else meant.not_after_limit.replace(microsecond=0)
    begin = max(meant.now - NOT_BEFORE_BACKDATE, signer.not_before)
    end = min(meant.now + timedelta(seconds=meant.ttl), signer.not_after, limit)
    _expect(begin <= meant.now < end <= meant.now + meant.profile.max_lifetime, "the lifetime is out of bounds")
    return begin, end


def _like(good: _Good, meant: Meant, begin: datetime, end: datetime) -> bytes:
    """The certificate that is `good` in all but what must differ."""
    return b"".join(
        (
            good.to_serial,
            meant.serial.to_bytes(meant.serial.bit_length() // 8 + 1, "big"),
            good.to_validity,
            _validity(begin, end),
            good.to_spki,
            meant.spki,
            good.to_key_id,
            spki_key_id(meant.spki, meant.public_key),
            good.rest,
        )
    )


def _taken_apart(certificate: bytes, tbs: bytes, signer: Signer, meant: Meant) -> _Good:
    """Cut a certificate that was read in full where the next one will differ. `_bounds` has walked the same way."""
    after_serial = _header(certificate) + _after_serial(tbs)
    serial = after_serial - (meant.serial.bit_length() // 8 + 1)
    validity = after_serial + len(_ECDSA_SHA256) + len(signer.subject)
    after_validity = validity + 2 + certificate[validity + 1]
    spki = after_validity + len(_NO_SUBJECT)
    after_spki = spki + len(meant.spki)
    key_id = certificate.index(_KEY_ID + spki_key_id(meant.spki, meant.public_key), after_spki) + len(_KEY_ID)
    return _Good(
        certificate[:serial],
        certificate[after_serial:validity],
        certificate[after_validity:spki],
        certificate[after_spki:key_id],
        certificate[key_id + 20 :],
    )


@lru_cache(maxsize=64)  # one batch has few different ends
def _validity(begin: datetime, end: datetime) -> bytes:
    """A Validity of two UTCTimes, for years before 2050."""
    times = (f"{at.astimezone(UTC):%y%m%d%H%M%S}Z".encode() for at in (begin, end))
    return _TWO_UTC_TIMES + b"".join(b"\x17\x0d" + time for time in times)


def _read_in_full(certificate: bytes, tbs: bytes, signer: Signer, meant: Meant, begin: datetime, end: datetime) -> None:
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        _bounds(parsed, certificate, tbs, signer, meant)  # 1 to 3, 5
        _expect(parsed.not_valid_before_utc == begin, "the begin is wrong")  # 4
        _expect(parsed.not_valid_after_utc == end, "the end is wrong")
        extensions = parsed.extensions
        values = {e.oid: e.value for e in extensions if _CRITICAL.get(e.oid) is e.critical}  # 6
        _expect(len(values) == len(extensions) == len(_CRITICAL), "the extensions are not the profile's")
        _expect(values[ExtensionOID.KEY_USAGE] == _KEY_USAGE, "the key usage is not digitalSignature alone")  # 7
        _expect(_KEY_USAGE_DER in tbs, "the key usage is not in its one DER encoding")
        _expect(values[ExtensionOID.EXTENDED_KEY_USAGE] == _EXTENDED_KEY_USAGE, "the extended key usage is wrong")
        _expect(values[ExtensionOID.BASIC_CONSTRAINTS] == _NO_CA, "the basic constraints are not CA:FALSE")
        authority_key = values[ExtensionOID.AUTHORITY_KEY_IDENTIFIER]  # 8
        _expect(authority_key == signer.authority_key, "the authority key id is wrong")
        subject_key = x509.SubjectKeyIdentifier(spki_key_id(meant.spki, meant.public_key))
        _expect(values[ExtensionOID.SUBJECT_KEY_IDENTIFIER] == subject_key, "the subject key id is wrong")
        names = values[ExtensionOID.SUBJECT_ALTERNATIVE_NAME]
    except MALFORMED as error:
        raise Invalid(
            "the certificate that was prepared does not parse", hint="report this: nothing was signed"
        ) from error
    _names(list(names) if isinstance(names, x509.SubjectAlternativeName) else [], signer, meant)  # 9


def _bounds(parsed: x509.Certificate, certificate: bytes, tbs: bytes, signer: Signer, meant: Meant) -> None:
    # `certificate` parsed as one DER SEQUENCE, so its first element, the TBSCertificate, begins behind the outer header.
    outer = _header(certificate)
    _expect(certificate[outer : outer + len(tbs)] == tbs, "the bytes to sign are not the certificate's")
    _expect(len(tbs) > 4 and len(tbs) == _header(tbs) + _length(tbs), "the bytes to sign are not the whole certificate")
    _expect(parsed.version is x509.Version.v3, "the version is not 3")
    serial = parsed.serial_number
    _expect(serial == meant.serial and 0 < serial < 1 << (8 * MAX_SERIAL_OCTETS - 1), "the serial is wrong")
    _expect(parsed.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256, "the algorithm is wrong")
    # pyca shows the algorithm beside the signature, not the one inside, and compares names more loosely than verifiers
    # do: what stands between serial and extensions is compared as bytes, field by field.
    rest = memoryview(tbs)[_after_serial(tbs) :]
    _expect(rest[: len(_ECDSA_SHA256)] == _ECDSA_SHA256, "the algorithm inside is wrong")
    rest = rest[len(_ECDSA_SHA256) :]
    _expect(rest[: len(signer.subject)] == signer.subject, "the issuer is not the authority's subject")
    rest = rest[len(signer.subject) :]
    rest = rest[2 + rest[1] :]  # the validity, step 4
    _expect(rest[:2] == _NO_SUBJECT, "the subject is not empty")
    _expect(rest[2 : 2 + len(meant.spki)] == meant.spki, "the public key is not the requested one")


def _header(element: bytes) -> int:
    """How many bytes tag and length of a DER element take; pyca has parsed what is asked about."""
    return 2 if element[1] < 0x80 else 2 + (element[1] & 0x7F)


def _length(element: bytes) -> int:
    return element[1] if element[1] < 0x80 else int.from_bytes(element[2 : _header(element)], "big")


def _after_serial(tbs: bytes) -> int:
    """Where the TBSCertificate's signature field begins."""
    serial = _header(tbs) + len(_VERSION_3)
    return serial + 2 + tbs[serial + 1]


def _names(names: list[x509.GeneralName], signer: Signer, meant: Meant) -> None:
    uri, others = names[:1], names[1:]
    _expect(
        uri == [x509.UniformResourceIdentifier(str(meant.spiffe_id))], "the first name is not the entry's SPIFFE ID"
    )
    _expect(meant.spiffe_id.trust_domain == signer.trust_domain, "the SPIFFE ID is of another trust domain")
    _expect(len(others) <= MAX_DNS_NAMES and all(isinstance(o, x509.DNSName) for o in others), "a name is no DNS name")
    found = tuple(str(other.value) for other in others)
    _expect(found == meant.dns_names, "the DNS names are not the requested ones")
    _expect(all(within(name, signer.dns_suffixes) for name in found), "a DNS name is outside the domain's suffixes")


def _expect(holds: bool, fault: str) -> None:
    if not holds:
        raise Invalid(f"a prepared certificate was not signed: {fault}", hint="report this: nothing was signed")
