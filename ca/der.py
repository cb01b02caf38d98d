"""Writes DER, and only writes: tag-length-value and the few types that a TBSCertificate needs (X.690 §8, §10).

Nothing here parses. What it wrote is read back by `ca.lint`, which shares no code with it.
"""

from __future__ import annotations

from datetime import UTC, datetime

SEQUENCE = 0x30
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
CONTEXT_0 = 0x80  # AuthorityKeyIdentifier.keyIdentifier
EXPLICIT_3 = 0xA3  # TBSCertificate.extensions
GENERAL_NAME_DNS = 0x82
GENERAL_NAME_URI = 0x86

# AlgorithmIdentifier ecdsa-with-SHA256, no parameters (RFC 5758 §3.2).
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


def tlv(tag: int, content: bytes) -> bytes:
    """One element with a definite, minimal length; content up to 16 MiB."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    if size < 0x100:
        return bytes((tag, 0x81, size)) + content
    if size < 0x10000:
        return bytes((tag, 0x82, size >> 8, size & 0xFF)) + content
    return bytes((tag, 0x83, size >> 16, (size >> 8) & 0xFF, size & 0xFF)) + content


def integer(value: int) -> bytes:
    """A non-negative INTEGER, minimal, with the leading zero octet that keeps it positive."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def time(at: datetime) -> bytes:
    """A Time in whole seconds: UTCTime through 2049, GeneralizedTime after (RFC 5280 §4.1.2.5)."""
    at = at.astimezone(UTC)
    if at.year < 2050:
        return tlv(UTC_TIME, at.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(GENERALIZED_TIME, at.strftime("%Y%m%d%H%M%SZ").encode())


def signed(tbs: bytes, signature: bytes) -> bytes:
    """SIGNED{tbs} with ecdsa-with-SHA256: a certificate, a CRL or a PKCS#10 request (RFC 5280 §4.1, RFC 2986 §4.2)."""
    return tlv(SEQUENCE, tbs + ECDSA_SHA256 + tlv(BIT_STRING, b"\x00" + signature))
