"""Searching a journal, newest first: who did what, when, from where, and what became of it.

A search reads at most 20,000 events and says where it goes on, so that no question keeps the process busy for long. It
stops early only where `since` is well behind: the clock of what was recorded may have been set back by up to an hour.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from trustfed.errors import Invalid, NotFound
from trustfed.journal.events import Event, Recorded
from trustfed.journal.ports import MAX_READ, Journal
from trustfed.runtime.timestamps import from_ms, to_ms

MAX_SCAN, MAX_FOUND, MAX_BYTES = 20_000, 1_000, 8 << 20
_MAX_PATTERN, _MAX_VALUE, _SET_BACK_MS = 128, 2_048, 3_600_000
_OUTCOMES = {
    "proposal.made": "proposed",
    "proposal.approved": "approved",
    "proposal.withdrawn": "withdrawn",
    "proposal.refused": "refused",
    "glass.broken": "done alone",
}
OUTCOMES = ("done", *_OUTCOMES.values())
UNBOUND = "one human being? a uid, and an account bound to none"
"""A flag: what proposed and what approved may be two identities of one, for no configuration says whose the account is."""
_DOORS = {
    "uid": "admin socket",
    "subuid": "admin socket",
    "token": "API",
    "oidc": "dashboard",
    "cluster": "stream",
    "hub": "stream",
}


@dataclass(frozen=True)
class Query:
    """What is looked for; everything that is given must fit. `actor` and `kind` may hold * and ?.

    `contains` is looked for in the reason, the owner and each value of at most 2,048 characters, in any case of letters.
    """

    actor: str = ""
    kind: str = ""
    since: datetime | None = None
    until: datetime | None = None
    contains: str = ""
    outcome: str = ""
    before: int = 0
    limit: int = 100

    def __post_init__(self) -> None:
        for name in ("actor", "kind", "contains"):
            if len(getattr(self, name)) > _MAX_PATTERN:
                raise Invalid(f"{name} is longer than {_MAX_PATTERN} characters")
        if self.outcome and self.outcome not in OUTCOMES:
            raise Invalid(f"outcome {self.outcome[:40]!r} is unknown", hint=f"one of: {', '.join(OUTCOMES)}")
        if self.before < 0 or not 1 <= self.limit <= MAX_FOUND:
            raise Invalid(f"limit is from 1 to {MAX_FOUND}, and before a position")
        for moment in (self.since, self.until):
            if moment is not None and moment.tzinfo is None:
                raise Invalid("since and until need a time zone", hint="such as 2026-12-31T00:00:00Z")

    def fits(self, event: Event) -> bool:
        """Whether an event is looked for."""
        return (
            (self.since is None or event.at >= to_ms(self.since))
            and (self.until is None or event.at <= to_ms(self.until))
            and (not self.actor or fnmatchcase(event.actor, self.actor))
            and (not self.kind or fnmatchcase(event.kind, self.kind))
            and (not self.outcome or outcome_of(event) == self.outcome)
            and (not self.contains or _holds((event.reason, event.owner, event.body), self.contains.casefold()))
        )


@dataclass(frozen=True)
class Found:
    """What fits, newest first; `next` is the `before` of what lies further back, None at the beginning."""

    records: Sequence[Recorded]
    next: int | None
    scanned: int

    def shown(self, own: str) -> dict[str, Any]:
        """As JSON; `own` is what the process itself is called as an actor."""
        return {"events": [shown(one, own) for one in self.records], "next": self.next, "scanned": self.scanned}


async def search(journal: Journal, head: int, query: Query) -> Found:
    """Look through a journal whose last event is at `head`, from `query.before` (0: the head) backwards."""
    top = min(query.before or head + 1, head + 1)
    found: list[Recorded] = []
    scanned = 0
    while top > 1 and scanned < MAX_SCAN and len(found) < query.limit:
        floor = max(top - 1 - MAX_READ, 0)
        # Read upwards, wanted downwards: of what fits the newest are kept.
        fitting: deque[Recorded] = deque(maxlen=query.limit - len(found))
        newest_ms, more, at = 0, False, floor
        while at < top - 1:
            page = [one for one in await journal.read(at, min(top - 1 - at, MAX_READ)) if one.position < top]
            if not page:
                break
            for one in page:
                newest_ms = max(newest_ms, one.event.at)
                if query.fits(one.event):
                    more = more or len(fitting) == fitting.maxlen
                    fitting.append(one)
            scanned += len(page)
            at = page[-1].position
            await asyncio.sleep(0)
        found += reversed(fitting)
        top = fitting[0].position if more else floor + 1
        if query.since is not None and newest_ms < to_ms(query.since) - _SET_BACK_MS:
            top = 1
    return _within(found, top, scanned)


async def look_up(journal: Journal, position: int) -> Recorded:
    """The event at a position. Raises NotFound."""
    page = await journal.read(position - 1, 1) if position > 0 else []
    if not page:
        raise NotFound(f"the journal has no position {position}", hint="trustfed audit list")
    return page[0]


def shown(recorded: Recorded, own: str) -> dict[str, Any]:
    """An event as JSON, with the door that its actor came through, what became of it, and what to look at twice."""
    event = recorded.event
    return {
        "position": recorded.position,
        **msgspec.to_builtins(event),
        "at": from_ms(event.at).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "door": _doors(event, own),
        "outcome": outcome_of(event),
        "flag": flag_of(event),
    }


def door_of(actor: str, own: str) -> str:
    """Where an actor came in; "inside" for what the process did by itself. A login is named after who made its link."""
    if actor == own:
        return "inside"
    return "dashboard" if "/" in actor else _DOORS.get(actor.partition(":")[0], "inside")


def flag_of(event: Event) -> str:
    """What the rule of two people could not know of an approval, for who reads the trail; mostly ""."""
    if event.kind != "proposal.approved":
        return ""
    kinds = {str(event.body.get(name, "")).partition(":")[0] for name in ("proposer", "person")}
    return UNBOUND if kinds == {"uid", "oidc"} else ""


def outcome_of(event: Event) -> str:
    """What became of what somebody wanted: most of what a journal holds was done."""
    return _OUTCOMES.get(event.kind, "done")


def _doors(event: Event, own: str) -> str:
    """The door; of an approval both of them, its proposer's first."""
    door, first = door_of(event.actor, own), str(event.body.get("proposed_by", ""))
    if event.kind != "proposal.approved" or not first or door == "stream":  # a hub names people that came in there
        return door
    return f"{door_of(first, own)} + {door}"


def _within(found: list[Recorded], top: int, scanned: int) -> Found:
    """As much as one answer may hold."""
    total = 0
    for count, one in enumerate(found):
        total += len(one.canonical)
        if total > MAX_BYTES and count:
            return Found(found[:count], found[count - 1].position, scanned)
    return Found(found, top if top > 1 else None, scanned)


def _holds(value: object, wanted: str) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_VALUE and wanted in value.casefold()
    if isinstance(value, dict):
        return any(_holds(one, wanted) for one in value.values())
    if isinstance(value, list | tuple):
        return any(_holds(one, wanted) for one in value)
    return wanted == str(value).casefold()
