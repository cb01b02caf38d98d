"""The requests by which clusters and nodes get in, and back in: JSON objects with a proof over all of it.

Binary values are base64 (RFC 4648 §4). `proof` is an ECDSA-SHA256 signature (DER) by the requester's key over the DSSE
encoding of the whole request without `proof`, in canonical JSON, so that nobody in between can change or re-use a part.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from trustfed.errors import Denied, Invalid
from trustfed.federation.dsse import encoding_to_sign, strict_object

ENROL = "application/vnd.trustfed.enrol+json"
RESIGN = "application/vnd.trustfed.resign+json"
ATTEST = "application/vnd.trustfed.attest+json"
RENEW = "application/vnd.trustfed.renew+json"
MAX_REQUEST = 256 * 1024
"""Bytes of the largest request body: a CSR, a key and a first envelope are a few KiB."""


def read(data: bytes, what: str, members: set[str]) -> dict[str, str]:
    """The request: a JSON object with exactly these members, all strings. Raises Invalid."""
    if len(data) > MAX_REQUEST:
        raise Invalid(f"{what} has {len(data)} bytes; at most {MAX_REQUEST} are read")
    document = strict_object(data, what, members)
    for name, value in document.items():
        if not isinstance(value, str):
            raise Invalid(f"{name} in {what} is not a string")
    return document


def proof_input(kind: str, document: Mapping[str, str]) -> bytes:
    """What the requester signs for a request of this kind; `proof` in the document is left out."""
    members = {name: value for name, value in document.items() if name != "proof"}
    return encoding_to_sign(kind, json.dumps(members, sort_keys=True, separators=(",", ":")).encode())


def check_proof(kind: str, document: Mapping[str, str], key: EllipticCurvePublicKey, what: str) -> None:
    """Denied unless the holder of `key` made the request's proof."""
    try:
        key.verify(binary(document, "proof"), proof_input(kind, document), ECDSA(SHA256()))
    except InvalidSignature:
        raise Denied(f"{what} has a proof that its key did not make") from None


def binary(document: Mapping[str, str], member: str) -> bytes:
    """The bytes of a base64 member. Raises Invalid."""
    try:
        return base64.b64decode(document[member], validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(f"{member} is not base64", hint="it may be cut or altered") from None


def text(data: bytes) -> str:
    """Base64, as all binary values on this wire."""
    return base64.b64encode(data).decode()
