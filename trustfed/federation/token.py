"""One string enrols a cluster or a node: where to knock, whom to expect, which roots to trust, and a one-time secret.

    trustfed-cluster-1-BASE64URL        trustfed-node-1-BASE64URL

BASE64URL (RFC 4648 §5, no padding) holds the length of the whole (2 bytes, so that a cut is named as one), JSON, and
the first 6 bytes of SHA-256 over all that precedes (against typing errors, not forgers). The string is a secret: it is
never put in arguments, logs or errors. Whether it is still valid the server decides, which stores only `secret_hash()`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, get_args

from trustfed.errors import Invalid, TrustfedError
from trustfed.federation.dsse import members
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.names import check_name
from trustfed.spiffe import keys, strict_json
from trustfed.spiffe.ids import SpiffeId, TrustDomain, shown

Kind = Literal["cluster", "node"]
SECRET_BYTES = 32
MAX_TEXT = 8192
"""Characters of the longest token that is read."""
_CHECK_BYTES = 6
_ADDRESS = re.compile(
    r"https://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_MEMBERS = {
    "address",
    "expires_at",
    "name",
    "newcomer",
    "publication_key",
    "root_hash",
    "root_version",
    "secret",
    "server_id",
}
_HINT = "copy the whole token again, or make a new one"


@dataclass(frozen=True)
class EnrolmentToken:
    """What a newcomer needs to enrol once.

    `kind` says who enrols; `address` is https://HOST[:PORT] of the door to knock at (443 if no port); `name` is the
    trust domain of the server that answers there, `server_id` its exact SPIFFE ID; `newcomer` is what was invited: the
    trust domain name of a cluster, the name of a node; `root_version` and `root_hash` (`sha256:hex`) pin the root set;
    `secret` are 32 random bytes; `expires_at` is aware, in whole seconds. `publication_key` (base64 of SPKI DER; "" for a
    cluster) pins the key that signs the server's envelope: a node knows its cluster by that, and by no root. Raises Invalid.
    """

    kind: Kind
    address: str
    name: TrustDomain
    server_id: SpiffeId
    newcomer: str
    root_version: int
    root_hash: str
    secret: bytes = field(repr=False)
    expires_at: datetime
    publication_key: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise Invalid(f"a token is for a cluster or a node, not for {shown(self.kind)}")
        match = _ADDRESS.fullmatch(self.address)
        if not match or not 1 <= int(match["port"] or 443) <= 65535:
            raise Invalid(f"address {shown(self.address)} is not https://HOST or https://HOST:PORT")
        if self.server_id.trust_domain != self.name:
            raise Invalid(f"server {self.server_id} is not in trust domain {self.name}")
        if self.kind == "cluster":
            TrustDomain(self.newcomer)
        else:
            check_name(self.newcomer, "node")
        if type(self.root_version) is not int or not 1 <= self.root_version < 2**31:
            raise Invalid("root_version must be a whole number from 1")
        if not _HASH.fullmatch(self.root_hash):
            raise Invalid(f"root_hash {shown(self.root_hash)} is not sha256: and 64 hex digits")
        if len(self.secret) != SECRET_BYTES:
            raise Invalid(f"a token's secret has {SECRET_BYTES} bytes")
        if self.expires_at.utcoffset() is None or self.expires_at.microsecond:
            raise Invalid("expires_at must be in whole seconds and carry a time zone")
        if self.publication_key:
            self.pinned()

    @property
    def host(self) -> str:
        """The host of `address`, without the brackets of an IPv6 address."""
        return self._address_part("host").strip("[]")

    @property
    def port(self) -> int:
        """The port of `address`; 443 if it names none."""
        return int(self._address_part("port") or 443)

    def pinned(self) -> PublicationKey:
        """The key in `publication_key`. Raises Invalid when there is none."""
        try:
            return PublicationKey(base64.b64decode(self.publication_key, validate=True))
        except (ValueError, TrustfedError):
            raise Invalid("publication_key is not the base64 of a P-256 key", hint=_HINT) from None

    def secret_hash(self) -> str:
        """`sha256:hex` of the secret: what a server stores and compares.

        A plain hash is right here: 256 random bits cannot be guessed, so there is nothing that a slow hash would slow.
        """
        return secret_hash(self.secret)

    def encode(self) -> str:
        """The token as one line of text. It is a secret."""
        document = {
            "address": self.address,
            "expires_at": int(self.expires_at.timestamp()),
            "name": self.name.name,
            "newcomer": self.newcomer,
            "publication_key": self.publication_key,
            "root_hash": self.root_hash,
            "root_version": self.root_version,
            "secret": keys.base64url(self.secret),
            "server_id": str(self.server_id),
        }
        body = strict_json.write(document)
        head = (2 + len(body) + _CHECK_BYTES).to_bytes(2, "big") + body
        return _prefix(self.kind) + keys.base64url(head + _check(head))

    @classmethod
    def decode(cls, text: str, kind: Kind) -> EnrolmentToken:
        """The token in `text` (white space around it is ignored). Raises Invalid, which never quotes the token."""
        text = text.strip()
        if len(text) > MAX_TEXT:
            raise Invalid(f"this is too long for an enrolment token: {len(text)} characters", hint=_HINT)
        if not text.startswith(_prefix(kind)):
            raise _wrong_prefix(text, kind)
        body = _open(text[len(_prefix(kind)) :])
        try:
            document = strict_json.parse_object(body, what="its content", limit=MAX_TEXT)
            members(document, _MEMBERS, "its content")
            return cls(
                kind=kind,
                address=_text(document, "address"),
                name=TrustDomain.parse(_text(document, "name")),
                server_id=SpiffeId.parse(_text(document, "server_id")),
                newcomer=_text(document, "newcomer"),
                root_version=_whole(document, "root_version"),
                root_hash=_text(document, "root_hash"),
                secret=keys.base64url_bytes(document["secret"], "secret"),
                expires_at=datetime.fromtimestamp(_whole(document, "expires_at"), UTC),
                publication_key=_text(document, "publication_key"),
            )
        except TrustfedError as error:
            raise Invalid(f"the enrolment token is not usable: {error.message}", hint=_HINT) from None
        except (ValueError, OverflowError, OSError):  # a date beyond the calendar
            raise Invalid("the enrolment token is not usable: expires_at is out of range", hint=_HINT) from None

    def _address_part(self, part: str) -> str:
        match = _ADDRESS.fullmatch(self.address)
        return (match[part] or "") if match else ""


def secret_hash(secret: bytes) -> str:
    """`sha256:hex` of a secret presented at enrolment, for comparison with what was stored at creation."""
    return "sha256:" + hashlib.sha256(secret).hexdigest()


def _prefix(kind: Kind) -> str:
    return f"trustfed-{kind}-1-"


def _check(head: bytes) -> bytes:
    return hashlib.sha256(b"trustfed enrolment token" + head).digest()[:_CHECK_BYTES]


def _open(encoded: str) -> bytes:
    """The JSON inside, after length and check bytes. Cuts and alterations are told apart."""
    cut = Invalid("the enrolment token is cut short", hint=_HINT)
    altered = Invalid("the enrolment token was altered on its way: its check digits do not match", hint=_HINT)
    if len(encoded) < 4:
        raise cut
    try:
        length = int.from_bytes(keys.base64url_bytes(encoded[:4], "token")[:2], "big")
        if len(encoded) < -(-length * 4 // 3):
            raise cut
        raw = keys.base64url_bytes(encoded, "token")
    except Invalid as error:
        raise error if error is cut else altered from None
    head, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if len(raw) != length or not hmac.compare_digest(check, _check(head)):
        raise altered
    return head[2:]


def _wrong_prefix(text: str, kind: Kind) -> Invalid:
    if text and _prefix(kind).startswith(text):
        return Invalid("the enrolment token is cut short", hint=_HINT)
    for other in get_args(Kind):
        if text.startswith(f"trustfed-{other}-1-"):
            return Invalid(f"this token enrols a {other}, but a token for a {kind} is needed here")
        if text.startswith(f"trustfed-{other}-"):
            return Invalid("this enrolment token has a form that this version does not know", hint="upgrade trustfed")
    return Invalid(f"this is not an enrolment token: one begins with {_prefix(kind)}", hint=_HINT)


def _text(document: dict[str, object], member: str) -> str:
    value = document[member]
    if not isinstance(value, str):
        raise Invalid(f"{member} is not a string")
    return value


def _whole(document: dict[str, object], member: str) -> int:
    value = document[member]
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid(f"{member} is not a whole number")
    return value
