"""A journal that misbehaves on demand, speaking the production port over the memory driver.

journal = FaultyJournal()
journal.fail(Unavailable("the disk is full"))            # the next append records nothing and raises this
journal.fail(Unavailable("lost"), after_recording=True)  # the next append records everything and raises this
journal.overtake([event])                                # right before the next append, someone else appends this
journal.hold(); ...; journal.release()                   # appends wait in between: a slow disk without a clock
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from trustfed.journal.events import Event, Recorded
from trustfed.journal.memory import MemoryJournal


class FaultyJournal:
    """A Journal whose next appends fail, conflict or wait, in the order in which that was asked for."""

    def __init__(self) -> None:
        self._real = MemoryJournal()
        self._failures: deque[tuple[Exception, bool]] = deque()
        self._overtakers: deque[Sequence[Event]] = deque()
        self._gate = asyncio.Event()
        self._gate.set()
        self.appends = 0
        """How many appends were asked for, failed ones included."""
        self.reads = 0

    def fail(self, error: Exception, *, after_recording: bool = False, times: int = 1) -> None:
        """Let the next `times` appends raise `error`, having recorded nothing or, like a lost answer, everything."""
        self._failures.extend([(error, after_recording)] * times)

    def overtake(self, events: Sequence[Event], *, times: int = 1) -> None:
        """Let another writer append `events` right before each of the next `times` appends: they conflict."""
        self._overtakers.extend([events] * times)

    def hold(self) -> None:
        """Let appends wait until `release`."""
        self._gate.clear()

    def release(self) -> None:
        """Let waiting appends go on."""
        self._gate.set()

    async def append(self, expected: int, events: Sequence[Event]) -> int:
        self.appends += 1
        await self._gate.wait()
        if self._overtakers:
            await self._real.append(expected, self._overtakers.popleft())
        error, after_recording = self._failures.popleft() if self._failures else (None, True)
        if error is not None and not after_recording:
            raise error
        head = await self._real.append(expected, events)
        if error is not None:
            raise error
        return head

    async def read(self, after: int, limit: int) -> list[Recorded]:
        self.reads += 1
        return await self._real.read(after, limit)

    async def find(self, command_id: str) -> list[Recorded]:
        return await self._real.find(command_id)

    async def wait(self, after: int) -> int:
        return await self._real.wait(after)

    async def close(self) -> None:
        await self._real.close()
