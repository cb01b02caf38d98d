"""The publisher: the newest of each document goes to every target, and a target that fails delays no other.

`want` a document and it is written to each target as it is when its turn comes (bundle_publisher/conditional.py), tried
until it is there (bundle_publisher/one_target.py). A `Round` keeps many names of a target true together, on news and
when it says that it is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

from bundle_publisher.conditional import Make, drop, put
from bundle_publisher.one_target import OneTarget, Status, Work
from bundle_publisher.targets.port import Target
from trustfed.runtime.clock import Clock
from trustfed.runtime.waiting import news_or_time

__all__ = ["Make", "Publisher", "Round", "Status", "TargetStatus"]

TRY_SECONDS = 90.0
"""One attempt at one document; each call of a target has a bound of its own below that."""
ROUND_SECONDS = 120.0
BETWEEN_ROUNDS = 1.0
"""At least so many seconds lie between two rounds that are begun because they are due."""
LONGEST_LOOK = 60.0
"""A round's due time is asked again after so many seconds: a clock that was set is noticed."""


class Round(Protocol):
    """What keeps many names of a target true together (a TUF repository) and knows itself when it must look again.

    One round serves every target of a publisher: what it learns of a target it keeps per target, or reads anew.
    """

    name: str
    """The name in the status."""

    async def bring(self, target: Target) -> None:
        """Make the target hold what it should: idempotent, resumable from whatever it holds now, conditional writes."""
        ...

    def due(self, now: datetime) -> datetime | None:
        """When the round must run again even without news (a signature grows old).

        None: not before the next news, because there is nothing yet that it keeps (such a round is in no status).
        """
        ...


@dataclass(frozen=True)
class TargetStatus:
    """One target at a glance: how many names wait, the oldest of them since `wanted`, and the error seen last."""

    target: str
    names: int
    waiting: int
    wanted: datetime | None
    errors: int
    last_success: datetime | None
    error: str
    hint: str
    next_try: datetime | None


class Publisher:
    """Keeps its targets up to date. `want` never waits; `run` does the work until it is cancelled."""

    def __init__(
        self, targets: Mapping[str, Target], clock: Clock, jitter: Callable[[], float], rounds: Iterable[Round] = ()
    ) -> None:
        """`targets` by name; `jitter()` gives a number from 0 to 1."""
        self._targets, self._clock = dict(targets), clock
        self._queues = {name: OneTarget(name, clock, jitter, self._arrived) for name in sorted(targets)}
        self._rounds: dict[str, Round] = {}
        self._moved: dict[str, asyncio.Event] = {}
        self._listeners: list[Callable[[str], None]] = []
        for one in rounds:
            self.add_round(one)

    def on_arrival(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the name of each document, or round, that has reached a target."""
        self._listeners.append(listener)

    def add_round(self, one: Round) -> None:
        """Let `one` run on every target, for the first time at once. Before `run` only."""
        self._rounds[one.name] = one
        self._moved[one.name] = asyncio.Event()
        self.want_round(one.name)

    def want_round(self, name: str) -> None:
        """There is news for the round `name`: every target gets one more, begun after this moment."""
        self._begin(self._rounds[name], self._queues.values())
        self._moved[name].set()

    def want(self, name: str, make: Make | None) -> None:
        """From now on the document `name` should be what `make` gives, or not be there at all (None)."""
        for at, queue in self._queues.items():
            target = self._targets[at]
            work: Work = partial(put, target, make) if make else partial(drop, target, name)
            queue.want(name, work, seconds=TRY_SECONDS, withdrawn=make is None)

    def status(self) -> list[Status]:
        """Every name that was wanted since this process began, at every target, by target and name."""
        return [status for queue in self._queues.values() for status in queue.status()]

    def targets(self) -> list[TargetStatus]:
        """Every target, by name."""
        return [_glance(queue) for queue in self._queues.values()]

    def published(self, name: str) -> datetime | None:
        """When the newest version of `name` had reached every target; None while one of them lacks it."""
        moments = []
        for queue in self._queues.values():
            found = queue.of(name)
            if found is None or found.wanted or found.published is None:
                return None
            moments.append(found.published)
        return max(moments, default=None)

    async def run(self) -> None:
        """Publish what is wanted, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for queue in self._queues.values():
                tasks.create_task(queue.run())
            for one in self._rounds.values():
                tasks.create_task(self._watch(one))
            await asyncio.get_running_loop().create_future()  # also without a target: until cancelled

    async def _watch(self, one: Round) -> None:
        """Begin a round whenever it is due."""
        moved = self._moved[one.name]
        while True:
            now = self._clock.now()
            due = one.due(now)
            if due is not None and due <= now:
                self._begin(one, [queue for queue in self._queues.values() if not queue.waits(one.name)])
                await self._clock.sleep(BETWEEN_ROUNDS)
                continue
            wait = None if due is None else min((due - now).total_seconds(), LONGEST_LOOK)
            await news_or_time(moved, self._clock, wait)

    def _begin(self, one: Round, queues: Iterable[OneTarget]) -> None:
        def idle() -> bool:
            return one.due(self._clock.now()) is None

        for queue in queues:
            work = partial(one.bring, self._targets[queue.name])
            queue.want(one.name, work, seconds=ROUND_SECONDS, idle=idle)

    def _arrived(self, name: str) -> None:
        if name in self._moved:
            self._moved[name].set()
        for listener in self._listeners:
            listener(name)


def _glance(queue: OneTarget) -> TargetStatus:
    held = queue.status()
    waiting = [status for status in held if status.wanted]
    failing = [status for status in waiting if status.error]
    shown = max(failing, key=lambda status: status.attempts, default=None)
    return TargetStatus(
        target=queue.name,
        names=len(held),
        waiting=len(waiting),
        wanted=min((status.wanted for status in waiting if status.wanted), default=None),
        errors=queue.errors,
        last_success=queue.last_success,
        error=shown.error if shown else "",
        hint=shown.hint if shown else "",
        next_try=min((status.next_try for status in failing if status.next_try), default=None),
    )
