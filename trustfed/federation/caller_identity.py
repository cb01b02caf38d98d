"""How a machine in AWS shows a cluster who it is: an sts:GetCallerIdentity request that it signs and the cluster sends.

The signature (AWS Signature Version 4) can be checked by STS alone, so the cluster asks STS in the machine's place. Others who
did so were talked into sending it elsewhere, or with another question, or into believing another's answer. So the machine
gives five header values and nothing else: method, address, path, query and body are fixed, Host and Content-Type are the
cluster's own, and all of them are under the signature. A payload is JSON:

    {"authorization": ..., "x-amz-date": ..., "x-amz-security-token": ... (temporary credentials only),
     "x-trustfed-binding": 64 hex digits, "x-trustfed-nonce": 32 hex digits}

Reading, in this order:
 1. size, strict JSON, exactly these members, each one line of printable ASCII
 2. the form of Authorization: one algorithm, service sts, and SignedHeaders exactly the six (five) headers that are sent
 3. the binding: SHA-256 over this cluster's SPIFFE ID and the hash of the key that attests; nobody else can use it
 4. the time: at most MAX_AGE from ours, and the day of the credential's scope
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from trustfed.errors import Denied, Invalid
from trustfed.spiffe import strict_json

BODY = b"Action=GetCallerIdentity&Version=2011-06-15"
CONTENT_TYPE = "application/x-www-form-urlencoded; charset=utf-8"
BINDING = "x-trustfed-binding"
NONCE = "x-trustfed-nonce"
MAX_BYTES = 16_384
MAX_AGE = timedelta(minutes=5)
_DATE, _TOKEN, _AUTHORIZATION = "x-amz-date", "x-amz-security-token", "authorization"
_MEMBERS = {_AUTHORIZATION, _DATE, BINDING, NONCE}
_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)
_AUTHORIZED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[A-Za-z0-9_]{1,128})/(?P<day>[0-9]{8})/(?P<region>[a-z0-9-]{1,32})/sts/aws4_request, "
    r"SignedHeaders=(?P<signed>[a-z0-9;-]{1,300}), Signature=[0-9a-f]{64}",
    re.ASCII,
)
_HINT = "it must be made by this version of trustfed, for this cluster"


@dataclass(frozen=True)
class SignedIdentity:
    """A well-formed request for this cluster and this key; who made it only STS can say. `headers` are all it sends."""

    headers: Mapping[str, str] = field(repr=False)

    @property
    def digest(self) -> str:
        """Stands for the whole request, binding and all."""
        return hashlib.sha256(strict_json.write(dict(self.headers))).hexdigest()


def binding(server_id: str, public_key: bytes) -> str:
    """What the binding header says for a cluster (its SPIFFE ID) and a node's key (SPKI)."""
    return _binding(server_id, "sha256:" + hashlib.sha256(public_key).hexdigest())


def write(headers: Mapping[str, str]) -> str:
    """The payload out of the headers that were signed (lower-case names); those that the cluster writes are left out."""
    return strict_json.write({name: headers[name] for name in (*_MEMBERS, _TOKEN) if name in headers}).decode()


def read(payload: str, server_id: str, key_hash: str, now: datetime) -> SignedIdentity:
    """The request in `payload`, if it is for `server_id` and the key whose hash (`sha256:hex`) is `key_hash`.

    Raises Invalid (form) or Denied (another cluster or key, too old).
    """
    what = "the signed identity"
    said = strict_json.parse_object(payload.encode(errors="replace"), what=what, limit=MAX_BYTES)  # 1
    if set(said) - {_TOKEN} != _MEMBERS:
        raise Invalid(f"{what} must have exactly the headers {', '.join(sorted(_MEMBERS))}, {_TOKEN}", hint=_HINT)
    headers: dict[str, str] = {}
    for name, value in said.items():
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise Invalid(f"header {name} of {what} is not one line of printable text", hint=_HINT)
        headers[name] = value
    match = _AUTHORIZED.fullmatch(headers[_AUTHORIZATION])  # 2
    signed = ";".join(sorted({"content-type", "host", *headers} - {_AUTHORIZATION}))
    if match is None or match["signed"] != signed:
        raise Invalid(f"authorization of {what} is not AWS4-HMAC-SHA256 for sts over exactly {signed}", hint=_HINT)
    if not re.fullmatch(r"[0-9a-f]{32}", headers[NONCE]):
        raise Invalid(f"header {NONCE} of {what} is not 32 hex digits", hint=_HINT)
    if not hmac.compare_digest(headers[BINDING], _binding(server_id, key_hash)):  # 3
        raise Denied(f"{what} was made for another cluster or another key than the one that attests", hint=_HINT)
    _check_time(headers[_DATE], match["day"], now)  # 4
    return SignedIdentity(headers)


def _binding(server_id: str, key_hash: str) -> str:
    return hashlib.sha256(f"trustfed aws_iam 1\n{server_id}\n{key_hash}".encode()).hexdigest()


def _check_time(text: str, day: str, now: datetime) -> None:
    try:
        at = datetime.strptime(text if re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", text) else "", "%Y%m%dT%H%M%S%z")
    except ValueError:
        raise Invalid("x-amz-date of the signed identity is not a time", hint=_HINT) from None
    if day != text[:8]:
        raise Invalid("the credential's scope in the signed identity is of another day than x-amz-date", hint=_HINT)
    if abs(now - at) > MAX_AGE:
        raise Denied(
            f"the signed identity is of {at.isoformat()}, more than {MAX_AGE} from now", hint="check both clocks"
        )
