"""When an SVID is replaced, how often that is tried, and what is asked for at once. Pure: time and chance are arguments."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

JITTER = 0.1
"""A replacement is due at half life, give or take this part of it, so that SVIDs issued together part ways."""
WINDOW = timedelta(seconds=1)
"""What falls due this soon goes along with what is due now."""
NEVER = datetime.max.replace(tzinfo=UTC)
"""When an SVID is due that ends with its entry: nothing that lives longer can be had."""
BATCH = 500
TRY_SECONDS = 10.0
_FIRST = timedelta(milliseconds=500)
_LONGEST = timedelta(minutes=1)
_LEAST = timedelta(milliseconds=50)
_TRIES_LEFT = 8

Chance = Callable[[], float]
"""A random number from 0 up to 1."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The replacement of one SVID: when it is due, when the present one ends (None: there is none), failed tries."""

    due: datetime
    end: datetime | None = None
    tries: int = 0
    error: str = ""


def after_issue(issued_at: datetime, not_after: datetime, chance: Chance, ends: datetime | None = None) -> Slot:
    """The next replacement of what was issued at `issued_at`; its life counts from there, not from NotBefore.

    `ends` is when its entry does, if ever.
    """
    if ends is not None and not_after == ends.replace(microsecond=0):
        return Slot(NEVER, not_after)
    # What outlives its entry is served no longer than that.
    end = not_after if ends is None else min(not_after, max(ends, issued_at))
    half = (end - issued_at) / 2
    return Slot(issued_at + half * (1 - JITTER + 2 * JITTER * chance()), not_after)


def reviewed(slot: Slot, issued_at: datetime, ends: datetime | None, now: datetime, chance: Chance) -> Slot:
    """Its entry may end at another time by now: what outlives it is due, and so is what had nothing to follow it."""
    if slot.tries:  # it is being asked for
        return slot
    if slot.end is None:
        return Slot(now) if slot.due == NEVER and (ends is None or ends.replace(microsecond=0) > now) else slot
    if ends is not None and slot.end > ends:
        return replace(slot, due=min(slot.due, now + max(ends - now, timedelta(0)) / 2))
    if slot.due == NEVER:
        return after_issue(issued_at, slot.end, chance, ends)
    return slot


def after_failure(slot: Slot, now: datetime, error: str, chance: Chance, longest: timedelta = _LONGEST) -> Slot:
    """The next try: a full-jitter backoff that leaves room for several more tries before the present SVID ends."""
    ceiling = min(_FIRST * 2 ** min(slot.tries, 10), longest)
    if slot.end is not None and slot.end > now:
        ceiling = min(ceiling, (slot.end - now) / _TRIES_LEFT)
    return Slot(now + max(ceiling * chance(), _LEAST), slot.end, slot.tries + 1, error[:200])


def forced(slot: Slot, now: datetime, spread: timedelta, chance: Chance) -> Slot:
    """Replace within `spread`, unless it is due sooner."""
    return Slot(min(slot.due, now + spread * chance()), slot.end, slot.tries, slot.error)


def rewound(slot: Slot, now: datetime) -> Slot:
    """The clock was ahead for a while and is right again: no pause after a failure is longer than a pause may be."""
    return replace(slot, due=now) if slot.tries and slot.due > now + _LONGEST else slot


def batch(slots: dict[str, Slot], now: datetime, busy: Container[str]) -> list[str]:
    """What to ask for now: nothing if nothing is due, else all that is due or nearly so, at most BATCH.

    What has no SVID comes first, then what ends first.
    """
    if not any(slot.due <= now for id_, slot in slots.items() if id_ not in busy):
        return []
    soon = [(slot, id_) for id_, slot in slots.items() if slot.due <= now + WINDOW and id_ not in busy]
    soon.sort(key=lambda item: (item[0].end is not None, item[0].end or item[0].due, item[1]))
    return [id_ for _, id_ in soon[:BATCH]]


def next_moment(slots: dict[str, Slot], busy: Container[str]) -> datetime | None:
    """When to look again: the next due time or the next end, whichever comes first; None if nothing waits."""
    moments = [slot.due for id_, slot in slots.items() if id_ not in busy]
    moments += [slot.end for slot in slots.values() if slot.end is not None]
    return min(moments, default=None)
