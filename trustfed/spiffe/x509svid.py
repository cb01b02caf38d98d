"""X509-SVIDs and the certificates that sign them: what each must look like by itself (X509-SVID §2 to §4).

Nothing here says that a certificate is genuine; that is `verify`.

Leaf, in this order:
 1. it parses, its key and extensions are of kinds we know (certificate.read)
 2. exactly one URI name, and it is a SPIFFE ID with a path (§2, §3.1, §5.2)
 3. the names extension is critical if the subject is empty (§3.1, RFC 5280 §4.1.2.6)
 4. it is no CA: cA is false, neither keyCertSign nor cRLSign (§4.1, §4.3, §5.2)
 5. the key usage is there, critical, and has digitalSignature (§4.3)
 6. the extended key usage, if there, has serverAuth and clientAuth (§4.4)

Signing certificate:
 1. as above
 2. it is a CA: cA is true, keyCertSign (§3.2, §4.1, §4.3)
 3. a URI name, if there, is the ID of the trust domain itself, without a path (§3.2)
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography.x509.oid import ExtendedKeyUsageOID

from trustfed.errors import Invalid
from trustfed.spiffe.certificate import EMPTY_NAME, Certificate, read, spiffe_id
from trustfed.spiffe.ids import SpiffeId, TrustDomain, shown

MAX_CHAIN = 5  # certificates that a peer may present, leaf included; its anchor comes from the bundle


@dataclass(frozen=True)
class X509Svid:
    """One X509-SVID: its SPIFFE ID, the chain (DER, leaf first) and the facts of the leaf; times in UTC."""

    id: SpiffeId
    chain: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime
    serial: int

    def pem(self) -> bytes:
        """The chain as PEM, leaf first."""
        return pem(self.chain)


def parse_leaf(der: bytes) -> X509Svid:
    """Read a leaf by its own rules, without asking who signed it. Raises Invalid."""
    return read_leaf(der)[1]


def read_leaf(der: bytes) -> tuple[Certificate, X509Svid]:
    """Like `parse_leaf`, with the parsed certificate, for `verify`."""
    what = "X509-SVID"
    leaf = read(der, what)  # 1
    id_ = spiffe_id(leaf, what)  # 2
    if id_ is None:
        raise Invalid(f"{what}: no URI name (X509-SVID §2)")
    what = f"X509-SVID of {id_}"
    if not id_.path:
        raise Invalid(f"{what}: the ID has no path; only a signing certificate's has none (X509-SVID §3.1)")
    if leaf.subject == EMPTY_NAME and not leaf.names_critical:  # 3
        raise Invalid(f"{what}: the subject is empty and the alternative name is not critical (X509-SVID §3.1)")
    usage = leaf.key_usage
    if leaf.ca:  # 4
        raise Invalid(f"{what}: the leaf is a CA (X509-SVID §4.1)")
    if usage is None:  # 5
        raise Invalid(f"{what}: no key usage (X509-SVID §4.3)")
    if usage.key_cert_sign or usage.crl_sign:  # 4
        raise Invalid(f"{what}: the leaf may sign certificates or CRLs (X509-SVID §4.3)")
    if not leaf.key_usage_critical:  # 5
        raise Invalid(f"{what}: the key usage is not critical (X509-SVID §4.3)")
    if not usage.digital_signature:
        raise Invalid(f"{what}: the key usage lacks digitalSignature (X509-SVID §4.3)")
    if leaf.extended_key_usage is not None:  # 6
        purposes = set(leaf.extended_key_usage)
        if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= purposes:
            raise Invalid(f"{what}: the extended key usage lacks serverAuth or clientAuth (X509-SVID §4.4)")
    return leaf, X509Svid(id_, (leaf.der,), leaf.not_before, leaf.not_after, leaf.parsed.serial_number)


def check_signing(signing: Certificate, trust_domain: TrustDomain, what: str) -> None:
    """Check the own rules of a certificate that signs others in `trust_domain`. Raises Invalid."""
    if not signing.ca:  # 2
        raise Invalid(f"{what}: not a CA certificate (X509-SVID §4.1)")
    if signing.key_usage is None or not signing.key_usage.key_cert_sign:
        raise Invalid(f"{what}: the key usage lacks keyCertSign (X509-SVID §4.3)")
    id_ = spiffe_id(signing, what)  # 3
    if id_ is not None and id_.path:
        raise Invalid(f"{what}: its SPIFFE ID {shown(str(id_))} has a path (X509-SVID §3.2)")
    if id_ is not None and id_.trust_domain != trust_domain:
        raise Invalid(f"{what}: it is of trust domain {id_.trust_domain}, not {trust_domain} (X509-SVID §3.2)")


@lru_cache(maxsize=1024)
def check_authority(der: bytes, trust_domain: TrustDomain) -> Certificate:
    """Read one X.509 authority of a bundle: a signing certificate of that domain. Raises Invalid.

    Remembers the last 1,024 answers: they depend on nothing but the arguments, and every handshake asks again.
    """
    what = f"X.509 authority of {trust_domain}"
    authority = read(der, what)
    check_signing(authority, trust_domain, what)
    return authority


def pem(certificates: Iterable[bytes]) -> bytes:
    """Write DER certificates as PEM (RFC 7468), one after the other."""
    blocks = []
    for der in certificates:
        text = base64.b64encode(der)
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        blocks.append(b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""]))
    return b"".join(blocks)
