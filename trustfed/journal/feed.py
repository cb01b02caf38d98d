"""The applied events of one fold, handed to any number of subscribers from one bounded window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from itertools import islice

from trustfed.journal.events import Codec, TypedEvent
from trustfed.journal.ports import Journal

RECENT = 1_024
_CHUNK = 256


class Feed:
    """Holds the last 1,024 applied events; who is further behind reads from the journal, so nobody loses anything.

    A subscriber is no more than its position: a slow one costs no memory, and needs no queue that could overflow.
    """

    def __init__(self, journal: Journal, codec: Codec) -> None:
        self._journal, self._codec = journal, codec
        self._recent: deque[tuple[int, TypedEvent]] = deque(maxlen=RECENT)
        self._position = 0
        self._open = True
        self._moved = asyncio.Event()

    def begin(self, position: int) -> None:
        """Start behind a snapshot: what was before it is in the journal only."""
        self._position = position

    def put(self, position: int, typed: TypedEvent) -> None:
        """Add the event that was just applied; `announce` tells the subscribers."""
        self._recent.append((position, typed))
        self._position = position

    def announce(self) -> None:
        """Wake the subscribers: once per append, not per event."""
        self._moved.set()
        self._moved = asyncio.Event()

    def close(self) -> None:
        """End all iterations."""
        self._open = False
        self.announce()

    async def iterate(self, after: int) -> AsyncIterator[tuple[int, TypedEvent]]:
        """Iterate (position, typed event) from `after` on, without gaps, until the feed is closed."""
        while self._open:
            moved = self._moved
            steps = await self._steps(after)
            for step in steps:
                after = step[0]
                yield step
            if not steps:
                await moved.wait()

    async def _steps(self, after: int) -> list[tuple[int, TypedEvent]]:
        if after >= self._position:
            return []
        if self._recent and self._recent[0][0] <= after + 1:
            start = after + 1 - self._recent[0][0]
            return list(islice(self._recent, start, start + _CHUNK))
        records = await self._journal.read(after, min(_CHUNK, self._position - after))
        return [(record.position, self._codec.decode(record.event)) for record in records]
