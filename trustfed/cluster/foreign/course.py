"""How it goes with one foreign peer since this process began, and when it is asked next. Pure but for its own memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from trustfed.cluster.foreign import rules
from trustfed.cluster.state import ForeignPeer

CHANGES_BURST, CHANGES_PACE = 20, timedelta(minutes=5)
"""So many changed bundles at once, then one in five minutes: each is an event of the journal and goes to every agent."""
TURNS_PACE = timedelta(minutes=10)
"""A refusal that comes and goes is journalled no more often; status and metrics show it at once."""
_FIRST_RETRY = 5.0


@dataclass
class Course:
    """One peer."""

    attempted_at: datetime | None = None
    fetched_at: datetime | None = None
    next_at: datetime | None = None
    error: str = ""
    fault: str = ""
    refused_keys: str = ""
    failures: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    _tagged: tuple[str, str] = ("", "")
    _changes_free_at: datetime | None = None
    _turned_at: datetime | None = None

    def tag_of(self, url: str) -> str:
        """The entity tag of what this URL served last, if that is what is held."""
        return self._tagged[1] if self._tagged[0] == url else ""

    def succeeded(self, url: str, etag: str, now: datetime) -> None:
        """The endpoint served what is held now."""
        self._tagged, self.fetched_at = (url, etag), now
        self.error, self.fault, self.refused_keys, self.failures = "", "", "", 0

    def failed(self, error: str) -> None:
        """The endpoint was not reached, or was not who was meant."""
        self._tagged, self.error, self.fault = ("", ""), error, ""
        self.failures += 1

    def refused(self, fault: str, error: str, keys: str) -> None:
        """The endpoint served something that is not believed, with this key set, if it has one."""
        self._tagged = ("", "")
        self.error, self.fault, self.refused_keys = error, fault, keys
        self.failures = 0

    def may_change(self, now: datetime) -> bool:
        """Whether one more changed bundle may be recorded, and counts it if so."""
        free_at = max(self._changes_free_at or now - CHANGES_BURST * CHANGES_PACE, now - CHANGES_BURST * CHANGES_PACE)
        if free_at + CHANGES_PACE > now:
            return False
        self._changes_free_at = free_at + CHANGES_PACE
        return True

    def may_turn(self, now: datetime) -> bool:
        """Whether the beginning or the end of a refusal may be journalled now, and counts it if so."""
        if self._turned_at is not None and now - self._turned_at < TURNS_PACE:
            return False
        self._turned_at = now
        return True

    def wait(self, peer: ForeignPeer, least: float, chance: float) -> float:
        """Seconds until the next fetch; `chance` is random, 0 to 1: about four times within the hint, as SPIRE's own
        servers ask, so that a new key is here long before it signs; after failures soon, then ever later.
        """
        interval = max(float(peer.refresh_hint or rules.DEFAULT_HINT), least)
        if not self.failures:
            return max(least, interval * (0.2 + 0.1 * chance))
        longest = min(interval, _FIRST_RETRY * 2.0 ** min(self.failures, 10))
        return max(least, longest * chance)
