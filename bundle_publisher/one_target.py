"""One target's own queue: what it should hold, tried until it is there, however the other targets fare.

Each name waits once, with its newest wish: what waits is bounded by what there is. After a failure a name pauses, with
full jitter, longer each time. A target that cannot be used at all (AWAY failures in a row) is tried by one name at a
time; the first success ends everybody's pause, so that a target that comes back is current at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from trustfed.errors import TrustfedError, Unavailable
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock

Work: TypeAlias = Callable[[], Awaitable[None]]
"""Brings one name to the target; idempotent."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
LEAST_PAUSE = 0.05
AT_ONCE = 8
AWAY = 3


@dataclass(frozen=True)
class Status:
    """How one name stands at one target.

    `wanted` since when something newer waits, `published` when what is there now got there (or was found there),
    `attempts` that failed since, with the last `error` and its `hint`, `next_try`; `withdrawn`: it should not be there.
    """

    target: str
    name: str
    wanted: datetime | None = None
    published: datetime | None = None
    attempts: int = 0
    error: str = ""
    hint: str = ""
    next_try: datetime | None = None
    withdrawn: bool = False


@dataclass(frozen=True)
class _Wish:
    work: Work
    since: datetime
    seconds: float
    withdrawn: bool
    idle: Callable[[], bool]


def _never() -> bool:
    return False


class OneTarget:
    """Brings names to the target called `name`. `want` never waits; `run` does the work until it is cancelled."""

    def __init__(self, name: str, clock: Clock, jitter: Callable[[], float], arrived: Callable[[str], None]) -> None:
        """`jitter()` gives a number from 0 to 1; `arrived` is told the name of what got there."""
        self.name = name
        self.errors = 0
        self.last_success: datetime | None = None
        self._clock, self._jitter, self._arrived = clock, jitter, arrived
        self._wishes: dict[str, _Wish] = {}
        self._status: dict[str, Status] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._slots, self._probe = asyncio.Semaphore(AT_ONCE), asyncio.Lock()
        self._in_a_row = 0
        self._back = asyncio.Event()
        self._log = logs.get("publisher")

    def want(
        self, name: str, work: Work, *, seconds: float, withdrawn: bool = False, idle: Callable[[], bool] = _never
    ) -> None:
        """From now on `work` says how `name` should stand; one attempt may take `seconds`. It replaces an older wish.

        `idle` is asked when the work is done: whether there was nothing to do, and so nothing to show.
        """
        now = self._clock.now()
        self._wishes[name] = _Wish(work, now, seconds, withdrawn, idle)
        known = self._status.get(name, Status(self.name, name))
        self._status[name] = replace(known, wanted=known.wanted or now, withdrawn=withdrawn)
        self._news.set()

    def status(self) -> list[Status]:
        """Every name that was wanted since this process began, by name."""
        return sorted(self._status.values(), key=lambda status: status.name)

    def of(self, name: str) -> Status | None:
        """How one name stands; None when it was never wanted."""
        return self._status.get(name)

    def waits(self, name: str) -> bool:
        """Whether something is wanted for `name` that is not there yet."""
        return name in self._wishes

    async def run(self) -> None:
        """Bring what is wanted, until cancelled."""
        try:
            while True:
                for name in [name for name in self._wishes if name not in self._busy]:
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
        """Try until the newest wish for one name is fulfilled."""
        failures = 0
        while True:
            async with self._turn():
                wish = self._wishes[name]  # the newest, also when the turn was long in coming
                error = await self._try(name, wish)
            if error is None:
                failures = 0
                if self._fulfilled(name, wish):
                    return
                continue
            failures += 1
            longest = min(FIRST_PAUSE * 2 ** min(failures - 1, 30), LONGEST_PAUSE)
            pause = max(self._jitter() * longest, LEAST_PAUSE)
            self._failed(name, error, pause)
            await self._pause(pause)

    async def _try(self, name: str, wish: _Wish) -> Exception | None:
        """Do the work once; the error, or None when it is done."""
        try:
            try:
                async with asyncio.timeout(wish.seconds):
                    await wish.work()
            except TimeoutError:
                raise Unavailable(
                    f"{name} was not written within {wish.seconds:.0f} s", hint="is the target slow, or far away?"
                ) from None
        except Exception as error:
            # What the target has something against (Denied, Invalid, Conflict) says that it is there.
            self._in_a_row = self._in_a_row + 1 if isinstance(error, Unavailable) else 0
            return error
        return None

    def _fulfilled(self, name: str, wish: _Wish) -> bool:
        """Note a success; True when nothing newer waits."""
        now = self._clock.now()
        newer = self._wishes[name] if self._wishes[name] is not wish else None
        if newer is None:
            del self._wishes[name]
        wanted, withdrawn = (newer.since, newer.withdrawn) if newer else (None, wish.withdrawn)
        if wish.idle():
            if newer is None:
                del self._status[name]
            return newer is None
        self.last_success = now
        self._status[name] = Status(self.name, name, wanted=wanted, published=now, withdrawn=withdrawn)
        self._log.info("withdrawn" if wish.withdrawn else "published", document=name, target=self.name)
        if self._in_a_row >= AWAY:
            self._back.set()
            self._back = asyncio.Event()
        self._in_a_row = 0
        self._arrived(name)
        return newer is None

    def _failed(self, name: str, error: Exception, pause: float) -> None:
        known = self._status[name]
        message = error.message if isinstance(error, TrustfedError) else type(error).__name__
        hint = error.hint if isinstance(error, TrustfedError) else "the log says more"
        self.errors += 1
        self._status[name] = replace(
            known,
            attempts=known.attempts + 1,
            error=message,
            hint=hint,
            next_try=self._clock.now() + timedelta(seconds=pause),
        )
        if message != known.error:  # said once, not at every try
            fields = {"document": name, "target": self.name}
            if isinstance(error, TrustfedError):
                self._log.warning("not published", error=message, hint=hint, **fields)
            else:
                self._log.exception("not published", error, **fields)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A place among those that use the target at once: AT_ONCE, and one while it seems to be away."""
        async with self._slots:
            if self._in_a_row < AWAY:
                yield
                return
            async with self._probe:
                yield

    async def _pause(self, seconds: float) -> None:
        """Wait; less when the target comes back meanwhile."""
        waiting = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._back.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
