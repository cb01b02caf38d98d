"""Links that log somebody in, once: made at the admin socket, spent at the door. Pure: state, command and time.

    trustfed-login-<id>-<base64url of 32 random bytes>

A link vouches for nobody: whoever made it may well open it. So its session is "uid:1000/alice" in the journal, and the same
person as uid:1000 where two are needed.

What is kept is the SHA-256 of the text. Spending it is an event of the journal like any other, decided on the newest state
by one writer: of two who send the same link at once, one is let in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from trustfed.errors import Conflict, Denied, Invalid
from trustfed.hub.access import ROLES, Caller
from trustfed.hub.dashboard.events import LoginLinked, LoginOpened
from trustfed.hub.dashboard.state import DashboardState, LoginLink
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import shown

MAX_LINKS = 200
MAX_LIFE = timedelta(hours=1)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}", re.ASCII)
_TEXT = re.compile(r"trustfed-login-([0-9a-f]{16})-([A-Za-z0-9_-]{43})", re.ASCII)


def new_link(randomness: Callable[[int], bytes]) -> tuple[str, str, str]:
    """(id, the link's secret text, its hash): the text is shown once and kept nowhere."""
    link_id = randomness(8).hex()
    text = f"trustfed-login-{link_id}-{base64.urlsafe_b64encode(randomness(32)).decode().rstrip('=')}"
    return link_id, text, hash_of(text)


def hash_of(text: str) -> str:
    """What stands in the journal for a link's text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def link(
    state: DashboardState,
    caller: Caller,
    link_id: str,
    secret_hash: str,
    *,
    name: str,
    role: str,
    life: timedelta,
    now: datetime,
    ended: Callable[[str], bool],
) -> list[LoginLinked]:
    """Let `name` in once with `role`, within `life` (at most an hour); to the rule of two people it is `caller` again.

    `ended` says whether an actor opens nothing any more: its links take nobody's place.
    """
    if not NAME.fullmatch(name):
        raise Invalid(f"login name {shown(name)} is not 1 to 32 of a-z, 0-9, '.', '_' and '-'", hint="--name alice")
    if role not in ROLES:
        raise Invalid(f"role {shown(role)} is unknown", hint=f"one of: {', '.join(ROLES)}")
    if not timedelta(0) < life <= MAX_LIFE:
        raise Invalid("a login link lives for more than nothing and at most an hour", hint="choose another --ttl")
    open_now = sum(1 for held in state.links.values() if held.until_ms > to_ms(now) and not ended(held.actor))
    if open_now >= MAX_LINKS:
        raise Conflict(f"{MAX_LINKS} login links wait to be opened", hint="open them, or wait until they end")
    actor = f"{caller.actor[:128]}/{name}"
    return [LoginLinked(link_id, actor, caller.acting.person, role, secret_hash, to_ms(now), to_ms(now + life))]


def held(state: DashboardState, text: str, now: datetime) -> LoginLink:
    """The link that `text` is. Denied, in the same words, for one that is unknown, over, or was opened before."""
    match = _TEXT.fullmatch(text)
    found = state.links.get(match[1]) if match else None
    if found is None or found.until_ms <= to_ms(now) or not hmac.compare_digest(found.secret_hash, hash_of(text)):
        raise Denied(
            "this login link is not known here, is over, or was opened already",
            hint="each works once: `trustfed hub login` makes a new one",
        )
    return found


def spend(state: DashboardState, text: str, session: str, now: datetime) -> Sequence[LoginOpened]:
    """Open the one session that a link is for."""
    found = held(state, text, now)
    return [LoginOpened(session, found.role, "link", found.id)]
