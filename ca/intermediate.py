"""Is this the intermediate that the root would make for this authority, and nothing else? (ca.root.sign_intermediate)

The steps:

 1. it reads as a signing certificate of the domain, as every verifier of a chain reads it (16 KiB, serial, extensions)
 2. made anew from its own times, serial and CRL address, with all else from what is known here, it has the same bytes
 3. the root signed it

Whoever holds the root could otherwise put into every chain of the domain what its readers refuse.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority import authority_subject
from ca.cacert import CaFields, ca_tbs
from ca.constraints import intermediate_constraints
from ca.malformed import MALFORMED
from ca.profiles import INTERMEDIATE, NOT_BEFORE_BACKDATE
from ca.publickeys import key_id
from trustfed.errors import Invalid
from trustfed.spiffe.certificate import Certificate, check_signature_algorithm, read
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.x509svid import check_signing

_MAX_CRL_URL = 1024


def check_intermediate(
    intermediate: bytes,
    trust_domain: TrustDomain,
    authority: str,
    twin: bytes,
    dns_suffixes: Sequence[str],
    roots: Sequence[bytes],
) -> Certificate:
    """The intermediate (DER) of one authority, read; `roots` are the certificates that may have signed it. Raises Invalid."""
    what = f"the intermediate of authority {authority}"
    found = read(intermediate, what)  # 1
    check_signing(found, trust_domain, what)
    check_signature_algorithm(found, what)
    signers = [root for der in roots if (root := read(der, "a root")).subject == found.issuer]
    if not signers:
        raise Invalid(f"{what} was signed by no root of this federation")
    key = read(twin, f"the twin of authority {authority}").public_key
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Invalid(f"authority {authority} has no EC key", hint="prepare a new authority")
    for root in signers:
        if _made_from(found, root, key, trust_domain, authority, dns_suffixes) and _signed_by(found, root):  # 2, 3
            return found
    raise Invalid(
        f"{what} is not what this federation's root makes for it",
        hint="same key, names and DNS suffixes, no other extension; is the hub of the same version, and honest?",
    )


def _made_from(
    found: Certificate,
    root: Certificate,
    key: ec.EllipticCurvePublicKey,
    trust_domain: TrustDomain,
    authority: str,
    dns_suffixes: Sequence[str],
) -> bool:
    issuer_key = root.public_key
    if not isinstance(issuer_key, ec.EllipticCurvePublicKey):
        return False
    fields = CaFields(
        authority_subject(trust_domain, authority),
        key,
        root.parsed.subject,
        key_id(issuer_key),
        found.not_after,
        trust_domain=trust_domain,
        constraints=intermediate_constraints(trust_domain, dns_suffixes),
        crl_url=_crl_url(found.parsed),
    )
    try:
        tbs = ca_tbs(INTERMEDIATE, fields, found.parsed.serial_number, found.not_before + NOT_BEFORE_BACKDATE)
    except (ValueError, OverflowError):  # times or an address that no certificate of ours has
        return False
    return tbs == found.parsed.tbs_certificate_bytes


def _crl_url(parsed: x509.Certificate) -> str:
    """The one CRL address that it states, "" for none or for what is no plain address: the bytes differ then."""
    try:
        points = parsed.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        names = [name for point in points for name in point.full_name or ()]
        url = names[0].value if len(names) == 1 else ""
    except (x509.ExtensionNotFound, *MALFORMED):
        return ""
    return url if isinstance(url, str) and url.isascii() and len(url) <= _MAX_CRL_URL else ""


def _signed_by(found: Certificate, root: Certificate) -> bool:
    try:
        found.parsed.verify_directly_issued_by(root.parsed)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
