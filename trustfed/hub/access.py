"""Who may use the HTTPS API: bearer tokens with one of four roles, kept as hashes.

    trustfed-api-<id>-<base64url of 32 random bytes>

SHA-256 is right for the hash: 256 random bits cannot be guessed, so there is nothing a slow hash would slow.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.hub.events import ApiTokenIssued, ApiTokenRevoked, HubEvent
from trustfed.hub.state import HubState
from trustfed.journal.approvals import Actor
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import shown

ROLES = ("viewer", "auditor", "operator", "admin")
MAX_TOKENS = 1_000
MAX_LIFE = timedelta(days=366)

_NAME = re.compile(r"[a-zA-Z0-9._@-]{1,64}")
_UID = re.compile(r"uid:[0-9]{1,10}")
_TOKEN = re.compile(r"trustfed-api-([0-9a-f]{16})-([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Caller:
    """Who asks: an opaque actor for the journal, and the role that limits what may be asked."""

    actor: str
    role: str
    person: str = ""

    @property
    def acting(self) -> Actor:
        """The caller as the rule of two people knows it: a uid is its own person, others say whose identity they are."""
        return Actor(self.actor, self.person or (self.actor if _UID.fullmatch(self.actor) else ""))

    def must_be(self, role: str) -> None:
        """Denied unless this caller's role is `role` or above."""
        if ROLES.index(self.role) < ROLES.index(role):
            raise Denied(f"this needs the role {role}; {self.actor} is {self.role}")


def new_token(randomness: Callable[[int], bytes]) -> tuple[str, str, str]:
    """(id, the token's text, its hash): the text is shown once and kept nowhere."""
    token_id, secret = randomness(8).hex(), randomness(32)
    text = f"trustfed-api-{token_id}-{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"
    return token_id, text, _hash(text)


def issue(
    state: HubState,
    token_id: str,
    token_hash: str,
    *,
    name: str,
    role: str,
    life: timedelta,
    now: datetime,
    issued_by: str = "",
) -> list[HubEvent]:
    """Let a bearer in under `name` with `role` for `life` (at most a year), who counts as the person `issued_by`."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"token name {shown(name)} is not 1 to 64 of letters, digits, '.', '_', '@' and '-'")
    if role not in ROLES:
        raise Invalid(f"role {shown(role)} is unknown", hint=f"one of: {', '.join(ROLES)}")
    if not timedelta(0) < life <= MAX_LIFE:
        raise Invalid("a token lives for more than nothing and at most 366 days", hint="choose another --ttl")
    if len(state.tokens) >= MAX_TOKENS:
        raise Conflict(f"this hub has given out {MAX_TOKENS} tokens, and gives no more")
    return [ApiTokenIssued(token_id, name, role, token_hash, to_ms(now + life), issued_by)]


def revoke(state: HubState, token_id: str) -> list[HubEvent]:
    """Close the door to one bearer; twice is no error."""
    token = state.tokens.get(token_id)
    if token is None:
        raise NotFound(f"no token has the id {shown(token_id)}", hint="GET /tokens lists them")
    return [] if token.revoked else [ApiTokenRevoked(token_id)]


def revoked(state: HubState, actor: str) -> bool:
    """Whether an actor is a token that was revoked, or a login whose link one made: "token:3c1f…/alice"."""
    token = state.tokens.get(actor.partition("/")[0].removeprefix("token:"))
    return token is not None and token.revoked


def caller(state: HubState, authorization: str | None, now: datetime) -> Caller | None:
    """Who a bearer is; None for no token, an unknown, expired or revoked one: the door tells none of these apart."""
    scheme, _, text = (authorization or "").partition(" ")
    match = _TOKEN.fullmatch(text.strip()) if scheme.lower() == "bearer" and len(text) < 256 else None
    token = state.tokens.get(match[1]) if match else None
    if token is None or not hmac.compare_digest(token.token_hash, _hash(text.strip())):
        return None
    if token.revoked or token.expires_ms <= to_ms(now):
        return None
    return Caller(f"token:{token.id}", token.role, token.issued_by)


def _hash(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
