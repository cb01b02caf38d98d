"""Who may use the HTTPS API: bearer tokens with one of four roles, kept as hashes.

    trustfed-api-<id>-<base64url of 32 random bytes>

SHA-256 is right for the hash: 256 random bits cannot be guessed, so there is nothing a slow hash would slow.

What a token makes cannot outlive it: a token that it makes ends with it at the latest, and revoking it revokes those too,
and what they made. Whoever stole one would otherwise have made another, before anybody noticed.
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
from trustfed.hub.records import ApiToken
from trustfed.hub.state import HubState
from trustfed.journal.approvals import Actor, ProposalWithdrawn, open_ones
from trustfed.runtime.timestamps import from_ms, to_ms
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
    made_by: str = "",
) -> list[HubEvent]:
    """Let a bearer in under `name` with `role` for `life` (at most a year), who counts as the person `issued_by`.

    `made_by` is the identity that asks: of a token it must stand now, and for as long. Raises Invalid, Conflict, Denied.
    """
    if not _NAME.fullmatch(name):
        raise Invalid(f"token name {shown(name)} is not 1 to 64 of letters, digits, '.', '_', '@' and '-'")
    if role not in ROLES:
        raise Invalid(f"role {shown(role)} is unknown", hint=f"one of: {', '.join(ROLES)}")
    if not timedelta(0) < life <= MAX_LIFE:
        raise Invalid("a token lives for more than nothing and at most 366 days", hint="choose another --ttl")
    if ended(state, made_by, now):  # in between: this is decided behind what revoked it
        raise Denied(f"{shown(made_by)} opens nothing any more, and makes no token", hint="trustfed token create")
    maker = _token_of(state, made_by)
    if maker is not None and maker.expires_ms < to_ms(now + life):
        raise Invalid(
            f"a token that is made with the token {maker.id} ends with it, at {from_ms(maker.expires_ms):%Y-%m-%dT%H:%M:%SZ}",
            hint="choose a shorter --ttl, or make it at the admin socket",
        )
    instead_of = ""
    if len(state.tokens) >= MAX_TOKENS:
        # What opens nothing made nothing that still opens: its place can be had.
        over = [token for token in state.tokens.values() if _over(token, now)]
        if not over:
            raise Conflict(f"{MAX_TOKENS} tokens are in use", hint="trustfed token list; revoke some")
        instead_of = min(over, key=lambda token: (token.expires_ms, token.id)).id
    until_ms = to_ms(now + life)
    return [ApiTokenIssued(token_id, name, role, token_hash, until_ms, issued_by, made_by, instead_of)]


def revoke(state: HubState, token_id: str, by: str, now: datetime) -> list[HubEvent]:
    """Close the door to one bearer and to all whom it let in, and take back what they proposed; twice is no error."""
    if token_id not in state.tokens:
        raise NotFound(f"no token has the id {shown(token_id)}", hint="trustfed token list")
    gone = made_with(state, token_id)
    events: list[HubEvent] = [
        ApiTokenRevoked(one, "" if one == token_id else token_id) for one in gone if not state.tokens[one].revoked
    ]
    for one in open_ones(state.proposals, now):
        proposer = _token_of(state, one.proposed_by)
        if proposer is not None and proposer.id in gone:
            why = f"the token {proposer.id} that proposed it was revoked"
            events.append(ProposalWithdrawn(one.id, one.command, by, why, to_ms(now)))
    return events


def made_with(state: HubState, token_id: str) -> list[str]:
    """A token, the tokens that were made with it, and so on: each once, makers first."""
    makes: dict[str, list[str]] = {}
    for token in state.tokens.values():
        if (maker := _token_of(state, token.made_by)) is not None:
            makes.setdefault(maker.id, []).append(token.id)
    found = {token_id: None}
    for one in (waiting := [token_id]):
        new = [made for made in makes.get(one, ()) if made not in found]
        found.update(dict.fromkeys(new))
        waiting += new
    return list(found)


def ended(state: HubState, actor: str, now: datetime) -> bool:
    """Whether an actor is a token that was revoked or has expired, or a login whose link one made: "token:3c1f…/alice".

    One that is not held has left for another, and so has ended.
    """
    token = _token_of(state, actor)
    return actor.startswith("token:") and (token is None or _over(token, now))


def check_stands(state: HubState, actor: str, now: datetime) -> None:
    """Denied for a token (or a login by its link) that was let in at a door and has ended since."""
    token = _token_of(state, actor)
    if token is not None and _over(token, now):
        raise Denied(f"{shown(actor)} opens nothing any more, and decides nothing", hint="trustfed token create")


def caller(state: HubState, authorization: str | None, now: datetime) -> Caller | None:
    """Who a bearer is; None for no token, an unknown, expired or revoked one: the door tells none of these apart."""
    scheme, _, text = (authorization or "").partition(" ")
    match = _TOKEN.fullmatch(text.strip()) if scheme.lower() == "bearer" and len(text) < 256 else None
    token = state.tokens.get(match[1]) if match else None
    if token is None or not hmac.compare_digest(token.token_hash, _hash(text.strip())):
        return None
    if _over(token, now):
        return None
    return Caller(f"token:{token.id}", token.role, token.issued_by)


def _over(token: ApiToken, now: datetime) -> bool:
    return token.revoked or token.expires_ms <= to_ms(now)


def _token_of(state: HubState, actor: str) -> ApiToken | None:
    """The token that an actor is, or that made its login link."""
    kind, _, rest = actor.partition(":")
    return state.tokens.get(rest.partition("/")[0]) if kind == "token" else None


def _hash(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
