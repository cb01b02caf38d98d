"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class ManualClock:
    """`trustfed.runtime.clock.Clock` in the hands of a test: time passes only in `advance`, `move` and `set_wall`."""

    def __init__(self, start: datetime = START) -> None:
        self._wall = start
        self._elapsed = 0.0
        self._count = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Wall time."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds that passed since the clock was made."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has let that much time pass."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._elapsed + seconds, self._count, waiting))
        await waiting

    @property
    def sleeping(self) -> int:
        """How many wait."""
        return sum(not waiting.done() for _, _, waiting in self._sleepers)

    async def advance(self, seconds: float, turns: int = 10) -> None:
        """Let time pass: sleepers wake in order, each at its moment, and what they start runs `turns` loop turns."""
        end = self._elapsed + seconds
        await self._settle(turns)
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, waiting = heapq.heappop(self._sleepers)
            self.move(max(due - self._elapsed, 0))
            if not waiting.done():
                waiting.set_result(None)
                await self._settle(turns)
        self.move(max(end - self._elapsed, 0))

    def move(self, seconds: float) -> None:
        """Let time pass without waking anyone (for code that only reads the clock)."""
        self._elapsed += seconds
        self._wall += timedelta(seconds=seconds)

    def set_wall(self, wall: datetime) -> None:
        """Someone set the machine's clock; elapsed time is not touched."""
        self._wall = wall

    async def _settle(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
