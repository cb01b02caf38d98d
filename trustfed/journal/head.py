"""Where a log ends right now, for whoever waits for the next record."""

from __future__ import annotations

import asyncio

from trustfed.errors import Unavailable


class Head:
    """The last durable position of a log, on one event loop."""

    def __init__(self, position: int) -> None:
        self.position = position
        self._open = True
        self._moved = asyncio.Event()

    def advance(self, position: int) -> None:
        """Move on to `position` and wake everyone who waits; going back is ignored."""
        if position > self.position:
            self.position = position
            self._wake()

    @property
    def open(self) -> bool:
        """Whether anything may still come."""
        return self._open

    async def beyond(self, after: int) -> int:
        """Give the head as soon as it is above `after`; Unavailable once the log is closed."""
        while self.position <= after:
            if not self._open:
                raise Unavailable("the journal is closed")
            await self._moved.wait()
        return self.position

    def close(self) -> None:
        """Wake everyone who waits for a record that will not come."""
        self._open = False
        self._wake()

    def _wake(self) -> None:
        # One event per step: who is woken by an old one looks again, who comes later waits for the next.
        self._moved.set()
        self._moved = asyncio.Event()
