"""How far a foreign bundle may be believed while nobody confirms it: FRESH, then STALE, then CLOSED. Pure.

    FRESH    until the last confirmation + max(refresh hint, 60 s)
    STALE    from then on: used, and alarmed
    CLOSED   from the last confirmation + the limit of its domain on (30 days unless the cluster says otherwise): in no answer

The last confirmation is the domain's own signed word that this is its newest bundle; without one, when it was received.
A confirmation opens what was closed. The home bundle has no such limit: its authorities end by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

LIMIT = timedelta(days=30)
"""How long an unconfirmed bundle is used when its domain has no limit of its own."""
LEAST_FRESH = timedelta(seconds=60)


class State(StrEnum):
    """How a bundle stands."""

    FRESH = "fresh"
    STALE = "stale"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Freshness:
    """One bundle, at one moment: `next` is when its state changes if nothing is heard, None when it is closed."""

    state: State
    confirmed_at: datetime
    closes_at: datetime
    next: datetime | None


def judge(confirmed_at: datetime, refresh_hint: int | None, limit: timedelta, now: datetime) -> Freshness:
    """How a bundle stands at `now`. `refresh_hint` in seconds, None if the bundle has none."""
    closes_at = confirmed_at + limit
    stale_at = min(confirmed_at + max(timedelta(seconds=refresh_hint or 0), LEAST_FRESH), closes_at)
    if now >= closes_at:
        return Freshness(State.CLOSED, confirmed_at, closes_at, None)
    if now >= stale_at:
        return Freshness(State.STALE, confirmed_at, closes_at, closes_at)
    return Freshness(State.FRESH, confirmed_at, closes_at, stale_at)
