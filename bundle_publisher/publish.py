"""The publishing loop: the newest of each document goes to the target, and a target that fails delays nothing else.

Each document is tried until it is there: after a failure with growing, jittered pauses. Only the newest version of a
document waits, so what waits is bounded by what there is. Writes are conditional and never go backwards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

from bundle_publisher.documents import check_continues
from bundle_publisher.targets.port import Document, Target
from trustfed.errors import Conflict, TrustfedError, Unavailable
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock

Make: TypeAlias = Callable[[], Document]
"""Makes the newest version of a document; called in a thread when it is about to be written."""

TRY_SECONDS = 10.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
CONFLICTS = 4
AT_ONCE = 8


@dataclass(frozen=True)
class Status:
    """How one document stands: `wanted` since when a newer version waits, `published` when the last one got there."""

    name: str
    wanted: datetime | None = None
    published: datetime | None = None
    attempts: int = 0
    error: str = ""


class Publisher:
    """Keeps a target up to date. `want` never waits; `run` does the work until it is cancelled."""

    def __init__(self, target: Target, clock: Clock, jitter: Callable[[], float]) -> None:
        """`jitter()` gives a number from 0 to 1."""
        self._target, self._clock, self._jitter = target, clock, jitter
        self._waiting: dict[str, Make | None] = {}
        self._status: dict[str, Status] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._log = logs.get("publisher")

    def want(self, name: str, make: Make | None) -> None:
        """From now on the document `name` should be what `make` gives, or not be there at all (None)."""
        self._waiting[name] = make
        known = self._status.get(name, Status(name))
        self._status[name] = replace(known, wanted=known.wanted or self._clock.now())
        self._news.set()

    def status(self) -> list[Status]:
        """Every document that was wanted since this process began, by name."""
        return sorted(self._status.values(), key=lambda status: status.name)

    async def run(self) -> None:
        """Publish what is wanted, until cancelled."""
        try:
            while True:
                for name in [name for name in self._waiting if name not in self._busy]:
                    self._busy[name] = asyncio.create_task(self._keep(name))
                    self._busy[name].add_done_callback(lambda _, name=name: self._done(name))  # type: ignore[misc]
                await self._news.wait()
                self._news.clear()
        finally:
            tasks = list(self._busy.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, name: str) -> None:
        self._busy.pop(name, None)
        self._news.set()

    async def _keep(self, name: str) -> None:
        """Try until the newest version of one document is there."""
        pause = FIRST_PAUSE
        while name in self._waiting:
            make = self._waiting[name]
            try:
                async with self._slots:
                    await self._try(name, make)
            except Exception as error:
                message = error.message if isinstance(error, TrustfedError) else type(error).__name__
                self._failed(name, message, error)
                await self._clock.sleep(pause * (0.5 + self._jitter()))
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            newest = self._waiting.get(name) is make
            if newest:
                del self._waiting[name]
            now = self._clock.now()
            self._status[name] = Status(name, wanted=None if newest else now, published=now)
            self._log.info("published" if make else "withdrawn", document=name)

    async def _try(self, name: str, make: Make | None) -> None:
        try:
            async with asyncio.timeout(TRY_SECONDS):
                await (self._put(await asyncio.to_thread(make)) if make else self._drop(name))
        except TimeoutError:
            raise Unavailable(f"{name} was not written within {TRY_SECONDS:.0f} seconds") from None

    async def _put(self, document: Document) -> None:
        for _ in range(CONFLICTS):
            held = await self._target.read(document.name)
            if held is not None and held.data == document.data:
                return
            if held is not None:
                await asyncio.to_thread(check_continues, document, held.data)
            with contextlib.suppress(Conflict):
                await self._target.write(document, held.tag if held else None)
                return
        raise Conflict(f"{document.name} changes faster than it can be written")

    async def _drop(self, name: str) -> None:
        for _ in range(CONFLICTS):
            held = await self._target.read(name)
            if held is None:
                return
            with contextlib.suppress(Conflict):
                await self._target.remove(name, held.tag)
                return
        raise Conflict(f"{name} changes faster than it can be removed")

    def _failed(self, name: str, message: str, error: Exception) -> None:
        known = self._status[name]
        self._status[name] = replace(known, attempts=known.attempts + 1, error=message)
        if message != known.error:  # said once, not at every try
            if isinstance(error, TrustfedError):
                self._log.warning("not published", document=name, error=message)
            else:
                self._log.exception("not published", error, document=name)
