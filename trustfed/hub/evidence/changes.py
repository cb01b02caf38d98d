"""What one reader of the fleet has not been told yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from trustfed.hub.evidence.views import Change

MAX_NAMED = 50


class Subscriber:
    """What one reader has not been told yet: sets, so that it is bounded however slow the reader is."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self._kinds: set[str] = set()
        self._domains: set[str] = set()
        self._many = False

    def add(self, domain: str, kinds: Iterable[str]) -> None:
        """Something changed."""
        self._kinds.update(kinds)
        self._domains.add(domain)
        if len(self._domains) > MAX_NAMED:
            self._many = True
            self._domains.clear()
        self.news.set()

    def take(self, version: int) -> Change:
        """All of it."""
        change = Change(version, frozenset(self._kinds), frozenset() if self._many else frozenset(self._domains))
        self._kinds.clear()
        self._domains.clear()
        self._many = False
        self.news.clear()
        return change
