"""The deadlines of all calls on one timer: most calls end long before theirs, and should pay little for having one."""

from __future__ import annotations

import asyncio
import heapq
from typing import Protocol

_TICKS_PER_SECOND = 100
_DROPPED = 1000
_LONGEST = 3600.0
"""Seconds ahead that the timer is set at most: clients may ask for millions of hours."""


class Ends(Protocol):
    """What has a deadline."""

    def late(self) -> None:
        """The deadline is over."""


class Deadlines:
    """Calls `late` of each member within a hundredth of a second after its deadline, unless it was dropped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ticks: dict[int, dict[Ends, None]] = {}
        self._order: list[int] = []  # a heap of the ticks, and of some that have been dropped
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = 0

    def add(self, member: Ends, deadline: float) -> int:
        """Watch for `deadline` (the loop's time); the result is for `drop`."""
        tick = int(deadline * _TICKS_PER_SECOND) + 1
        members = self._ticks.get(tick)
        if members is None:
            members = self._ticks[tick] = {}
            if len(self._order) > 2 * len(self._ticks) + _DROPPED:
                self._order = list(self._ticks)
                heapq.heapify(self._order)
            else:
                heapq.heappush(self._order, tick)
        members[member] = None
        if self._timer is None or tick < self._wakes:
            self._set(tick)
        return tick

    def drop(self, member: Ends, tick: int) -> None:
        """Forget a member."""
        members = self._ticks.get(tick)
        if members is not None:
            members.pop(member, None)
            if not members:
                del self._ticks[tick]

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, tick: int) -> None:
        self.close()
        self._wakes = min(tick, int((self._loop.time() + _LONGEST) * _TICKS_PER_SECOND))
        self._timer = self._loop.call_at(self._wakes / _TICKS_PER_SECOND, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = self._loop.time() * _TICKS_PER_SECOND
        while self._order and self._order[0] <= now:
            for member in self._ticks.pop(heapq.heappop(self._order), ()):
                self._loop.call_soon(member.late)
        if self._order:
            self._set(self._order[0])
