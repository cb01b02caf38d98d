"""A DSSE envelope: bytes of a named type with the signatures over them (DSSE v1.0.2, protocol.md and envelope.md).

Only form is checked here; who must have signed, and what the payload says, is decided by the callers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trustfed.errors import Invalid
from trustfed.spiffe import keys, strict_json
from trustfed.spiffe.ids import shown

_MAX_SIGNATURE = 1024  # characters of base64
_MAX_KEY_ID = 256


@dataclass(frozen=True)
class Signature:
    """One signature (ASN.1 DER for ECDSA) and the hint whose it is."""

    key_id: str
    value: bytes


def encoding_to_sign(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: what a signature is made over (protocol.md, "PAE")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def encode(payload_type: str, payload: bytes, signatures: Sequence[Signature]) -> bytes:
    """The JSON envelope, in one deterministic form."""
    document = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": s.key_id, "sig": base64.b64encode(s.value).decode()} for s in signatures],
    }
    return strict_json.write(document)


def decode(
    data: bytes, payload_type: str, what: str, *, max_bytes: int, max_signatures: int
) -> tuple[bytes, list[Signature]]:
    """(payload, signatures) of an envelope of exactly this type. Nothing is verified yet.

    `what` names the input in errors. Raises Invalid for anything that is too large or not such an envelope.
    """
    document = strict_object(data, what, {"payload", "payloadType", "signatures"}, max_bytes=max_bytes)
    if document["payloadType"] != payload_type:
        raise Invalid(f"{what} is of type {shown(document['payloadType'])}, not {payload_type}")
    listed = document["signatures"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= max_signatures:
        raise Invalid(f"{what} must carry 1 to {max_signatures} signature(s)")
    return keys.base64_bytes(document["payload"], f"the payload of {what}"), [_signature(item, what) for item in listed]


def strict_object(data: bytes, what: str, names: set[str], *, max_bytes: int = 1_572_864) -> dict[str, Any]:
    """The JSON object in `data` with exactly these members, read strictly; at most 1.5 MiB. Raises Invalid."""
    document = strict_json.parse_object(data, what=what, limit=max_bytes)
    members(document, names, what)
    return document


def members(document: Mapping[str, object], names: set[str], what: str) -> None:
    """Raise Invalid unless `document` has exactly these members."""
    if document.keys() != names:
        raise Invalid(f"{what} must be a JSON object with exactly the members {', '.join(sorted(names))}")


def _signature(item: object, what: str) -> Signature:
    if not isinstance(item, dict):
        raise Invalid(f"a signature in {what} is not an object")
    members(item, {"keyid", "sig"}, f"a signature in {what}")
    key_id = item["keyid"]
    if not isinstance(key_id, str) or len(key_id) > _MAX_KEY_ID:
        raise Invalid(f"a keyid in {what} is not a string of at most {_MAX_KEY_ID} characters")
    if not isinstance(item["sig"], str) or len(item["sig"]) > _MAX_SIGNATURE:
        raise Invalid(f"a sig in {what} is not a string of at most {_MAX_SIGNATURE} characters")
    return Signature(key_id, keys.base64_bytes(item["sig"], f"a sig in {what}"))
