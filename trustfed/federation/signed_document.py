"""What a domain says under its publication key, beside its envelopes: a small JSON object of a type of its own, in DSSE.

Every type has its own payload type, so that no statement stands for another; each room says which members it has.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from trustfed.errors import Denied
from trustfed.federation import dsse
from trustfed.federation.envelope import PublicationKey
from trustfed.spiffe import strict_json
from trustfed.spiffe.ids import TrustDomain, shown


def encode_document(payload_type: str, payload: bytes, der_signature: bytes, key: PublicationKey) -> bytes:
    """The envelope around a payload with the signature that a key store made; nothing is verified here."""
    return dsse.encode(payload_type, payload, [dsse.Signature(key.key_id, der_signature)])


def open_document(
    data: bytes,
    payload_type: str,
    what: str,
    trust_domain: TrustDomain,
    key: PublicationKey,
    members: set[str],
    *,
    max_bytes: int,
) -> dict[str, object]:
    """The object in `data`, if the pinned `key` signed it and it speaks of `trust_domain`; `what` names it in errors.

    It has exactly `members`, of which "trust_domain" is one. Raises Invalid (form) or Denied (key, domain).
    """
    payload, (signature,) = dsse.decode(data, payload_type, what, max_bytes=max_bytes, max_signatures=1)
    try:
        key.public_key.verify(signature.value, dsse.encoding_to_sign(payload_type, payload), ECDSA(SHA256()))
    except InvalidSignature:
        raise Denied(f"{what} has a signature that the pinned key {key.fingerprint} did not make") from None
    document = strict_json.parse_object(payload, what=f"the payload of {what}", limit=max_bytes)
    dsse.members(document, members, f"the payload of {what}")
    if document["trust_domain"] != trust_domain.name:
        raise Denied(f"{what} speaks of another trust domain, {shown(document['trust_domain'])}")
    return document
