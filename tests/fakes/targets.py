"""A publication target in memory that misbehaves on demand.

target = MemoryTarget()
target.fail(Unavailable("the store is away"), times=3)   # the next calls raise this
target.overtake(Document("bundle-map", b"..."))          # right before the next write, someone else writes this
target.hold(); ...; target.release()                     # calls wait in between: a slow store without a clock
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from bundle_publisher.targets.port import Document, Stored, check_document, check_name
from trustfed.errors import Conflict


class MemoryTarget:
    """A Target whose next calls fail, conflict or wait, in the order in which that was asked for."""

    def __init__(self) -> None:
        self.held: dict[str, Stored] = {}
        self.writes = 0
        """How many writes succeeded."""
        self.waiting = 0
        """How many calls wait for `release`."""
        self.wrote: Callable[[Stored], object] = lambda stored: None
        """Told what is there now, after every write."""
        self._failures: deque[Exception] = deque()
        self._overtakers: deque[Document] = deque()
        self._count = 0
        self._gate = asyncio.Event()
        self._gate.set()

    def fail(self, error: Exception, *, times: int = 1) -> None:
        """Let the next `times` calls raise `error`."""
        self._failures.extend([error] * times)

    def overtake(self, document: Document) -> None:
        """Let another publisher write `document` right before the next write."""
        self._overtakers.append(document)

    def hold(self) -> None:
        """Let calls wait until `release`."""
        self._gate.clear()

    def release(self) -> None:
        """Let waiting calls go on."""
        self._gate.set()

    async def read(self, name: str) -> Stored | None:
        check_name(name)
        await self._turn()
        return self.held.get(name)

    async def write(self, document: Document, if_tag: str | None) -> str:
        check_document(document)
        await self._turn()
        if self._overtakers:
            self._put(self._overtakers.popleft())
        self._expect(document.name, if_tag)
        self.writes += 1
        return self._put(document)

    async def remove(self, name: str, if_tag: str) -> None:
        check_name(name)
        await self._turn()
        if name in self.held:
            self._expect(name, if_tag)
            del self.held[name]

    async def _turn(self) -> None:
        self.waiting += 1
        try:
            await self._gate.wait()
        finally:
            self.waiting -= 1
        if self._failures:
            raise self._failures.popleft()

    def _expect(self, name: str, if_tag: str | None) -> None:
        held = self.held.get(name)
        if (held.tag if held else None) != if_tag:
            raise Conflict(f"{name} was changed by another publisher")

    def _put(self, document: Document) -> str:
        self._count += 1
        self.held[document.name] = Stored(document.data, f"tag-{self._count}")
        self.wrote(self.held[document.name])
        return f"tag-{self._count}"
