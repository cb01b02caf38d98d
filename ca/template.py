"""The TBSCertificate of an SVID as a template: constant parts encoded once per authority, variable parts spliced in.

Order and content: X509-SVID §2 to §4, RFC 5280 §4.1 and §4.2. The subject is empty, so the SubjectAltName is critical
(RFC 5280 §4.2.1.6): OpenSSL 3.0, Go 1.26, Java's CertPathValidator and pyca accept that, and no verifier is led to read
an identity from a common name. `ca.lint` reads every field back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from ca import der

_VERSION_3 = bytes.fromhex("a003020102")
_EMPTY_NAME = bytes.fromhex("3000")
# KeyUsage critical digitalSignature; ExtendedKeyUsage serverAuth, clientAuth; BasicConstraints critical, CA:FALSE.
_KEY_USAGE = bytes.fromhex("300e0603551d0f0101ff040403020780")
_EXTENDED_KEY_USAGE = bytes.fromhex("301d0603551d250416301406082b0601050507030106082b06010505070302")
_NO_CA = bytes.fromhex("300c0603551d130101ff04023000")
_OID_AUTHORITY_KEY_ID = bytes.fromhex("0603551d23")
_OID_SUBJECT_KEY_ID = bytes.fromhex("0603551d0e")
_OID_SUBJECT_ALT_NAME_CRITICAL = bytes.fromhex("0603551d110101ff")


@lru_cache(maxsize=64)  # one batch has few different ends
def validity(not_before: datetime, not_after: datetime) -> bytes:
    """The Validity field; both in whole seconds UTC."""
    return der.tlv(der.SEQUENCE, der.time(not_before) + der.time(not_after))


class LeafTemplate:
    """One authority's leaf. `issuer` is the subject of its certificates (DER), `authority_key_id` their 20-byte SKI."""

    __slots__ = ("_before_validity", "_constant_extensions")

    def __init__(self, issuer: bytes, authority_key_id: bytes) -> None:
        self._before_validity = der.ECDSA_SHA256 + issuer
        key_identifier = der.tlv(der.SEQUENCE, der.tlv(der.CONTEXT_0, authority_key_id))
        self._constant_extensions = (
            _KEY_USAGE
            + _EXTENDED_KEY_USAGE
            + _NO_CA
            + der.tlv(der.SEQUENCE, _OID_AUTHORITY_KEY_ID + der.tlv(der.OCTET_STRING, key_identifier))
        )

    def fill(
        self, *, serial: int, valid: bytes, public_key: bytes, key_id: bytes, uri: str, dns_names: Sequence[str]
    ) -> bytes:
        """The TBSCertificate (DER). `valid` is a Validity, `public_key` an SPKI, `key_id` 20 bytes, names are ASCII."""
        names = der.tlv(der.GENERAL_NAME_URI, uri.encode("ascii"))
        for name in dns_names:
            names += der.tlv(der.GENERAL_NAME_DNS, name.encode("ascii"))
        alt_name = der.tlv(der.OCTET_STRING, der.tlv(der.SEQUENCE, names))
        subject_key_id = der.tlv(der.OCTET_STRING, der.tlv(der.OCTET_STRING, key_id))
        extensions = der.tlv(
            der.EXPLICIT_3,
            der.tlv(
                der.SEQUENCE,
                self._constant_extensions
                + der.tlv(der.SEQUENCE, _OID_SUBJECT_KEY_ID + subject_key_id)
                + der.tlv(der.SEQUENCE, _OID_SUBJECT_ALT_NAME_CRITICAL + alt_name),
            ),
        )
        return der.tlv(
            der.SEQUENCE,
            _VERSION_3 + der.integer(serial) + self._before_validity + valid + _EMPTY_NAME + public_key + extensions,
        )
