"""A sub-authority whose key never comes near a key store: made where it will be used, with the twin that its domain publishes."""

from __future__ import annotations

from datetime import datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ca import der
from ca.authority import authority_subject
from ca.cacert import CaFields, ca_tbs, new_serial
from ca.profiles import TWIN
from ca.publickeys import key_id
from ca.record import Randomness
from trustfed.spiffe.ids import TrustDomain


def make_external(
    trust_domain: TrustDomain, authority: str, *, not_after: datetime, now: datetime, randomness: Randomness
) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """(key, self-signed twin in DER): CA, path length 0, the domain's SPIFFE ID, the subject of an external one.

    Raises Invalid for an end out of bounds.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = authority_subject(trust_domain, authority, external=True)
    public = key.public_key()
    fields = CaFields(subject, public, subject, key_id(public), not_after, trust_domain=trust_domain)
    tbs = ca_tbs(TWIN, fields, new_serial(randomness), now)
    return key, der.signed(tbs, key.sign(tbs, ec.ECDSA(hashes.SHA256())))
