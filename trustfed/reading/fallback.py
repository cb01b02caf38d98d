"""Foreign bundles from a store while nobody brings them: what an agent and a cluster have in common when they are cut off.

Who needs news is said by `needed`; they are read together, in one visit by one process that is gone afterwards, and what was
verified is given to `take`, one domain at a time, with the time of its domain's own signature. A domain is read at the pace
of its refresh hint, with jitter; while the store does not answer, all wait longer and longer. What is refused is kept for
the status and harms no other domain.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from trustfed.errors import TrustfedError, Unavailable
from trustfed.reading import launch
from trustfed.reading.config import StoreConfig
from trustfed.reading.order import Answer, Found, Order, Wanted
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Counter

log = logs.get("store")

ANY_AGE = timedelta(days=30)
"""An expired timestamp says that the hub is silent, and no more: every domain here is pinned, its own signature says how fresh
it is, and it is only ever taken forward. Beyond this the domains' roles have expired too."""
AT_ONCE = 64
"""Domains of one visit; the others come with the next."""
MAX_REFUSED = 100
_TICK_SECONDS = 5.0
_LEAST_SECONDS = 60.0
_FIRST_WAIT, _LONGEST_WAIT = 10.0, 900.0


@dataclass(frozen=True)
class Need:
    """A domain that nobody has confirmed for longer than its refresh hint."""

    wanted: Wanted
    hint: timedelta


class StoreFallback:
    """Reads what is needed. `chance` gives numbers from 0 to 1; `visits` counts by outcome."""

    def __init__(
        self,
        config: StoreConfig,
        data_dir: Path,
        needed: Callable[[datetime], Sequence[Need]],
        take: Callable[[Found], Awaitable[None]],
        clock: Clock,
        chance: Callable[[], float],
        visits: Counter,
        visit: Callable[[Order], Awaitable[Answer]] = launch.read_async,
    ) -> None:
        self._config, self._data_dir, self._needed, self._take = config, data_dir, needed, take
        self._clock, self._chance, self._visit = clock, chance, visit
        self._next: dict[str, float] = {}
        self._failures, self._free_at = 0, 0.0
        self._error = self._hint = ""
        self._refused: dict[str, str] = {}
        self._read_at: datetime | None = None
        self._count = visits

    def status(self) -> Mapping[str, Any]:
        """For a status: where, when it last answered, what went wrong since, and which domains were refused."""
        return {
            "url": self._config.url,
            "read_at": self._read_at.isoformat() if self._read_at else None,
            "error": self._error,
            "hint": self._hint,
            "refused": dict(self._refused),
        }

    async def run(self) -> None:
        """Read what is due; ends only when cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(_TICK_SECONDS)

    async def look(self) -> None:
        """One visit, if somebody is due."""
        now, moment = self._clock.now(), self._clock.monotonic()
        needs = {need.wanted.trust_domain: need for need in self._needed(now)}
        self._next = {name: at for name, at in self._next.items() if name in needs}
        for name, need in needs.items():
            # Many machines lose the same cluster at one moment.
            self._next.setdefault(name, moment + self._chance() * _pace(need) / 4)
        due = [need for name, need in needs.items() if self._next[name] <= moment][:AT_ONCE]
        if not due or moment < self._free_at:
            return
        try:
            await self._read(due, now)
        except Exception as error:  # a store must never end who reads it: this runs just when all else is cut off
            self._failed(error if isinstance(error, TrustfedError) else Unavailable(errors.answer(error).line()))
            return
        self._failures, self._error, self._hint, self._read_at = 0, "", "", now
        self._count.add(outcome="read")
        moment = self._clock.monotonic()
        for need in due:
            self._next[need.wanted.trust_domain] = moment + _pace(need) * (0.75 + self._chance() / 4)

    async def _read(self, due: Sequence[Need], now: datetime) -> None:
        wanted = tuple(need.wanted for need in due)
        order = await asyncio.to_thread(self._config.order, self._data_dir, now, wanted)
        answer = await self._visit(dataclasses.replace(order, accept_stale=max(order.accept_stale, ANY_AGE)))
        refused: dict[str, TrustfedError] = dict(answer.refused)
        for found in answer.found:
            try:
                await self._take(found)
                self._refused.pop(found.trust_domain, None)
            except TrustfedError as error:
                refused[found.trust_domain] = error
        for name, said in refused.items():
            if self._refused.get(name) != said.message:
                log.error("bundle in the store refused", trust_domain=name, error=said.message, hint=said.hint)
            if name in self._refused or len(self._refused) < MAX_REFUSED:
                self._refused[name] = said.message

    def _failed(self, error: TrustfedError) -> None:
        wait = min(_FIRST_WAIT * 2 ** min(self._failures, 10), _LONGEST_WAIT)
        self._failures += 1
        self._free_at = self._clock.monotonic() + wait * (0.5 + self._chance() / 2)
        if self._error != error.message:
            log.warning("store not read", error=error.message, hint=error.hint)
        self._error, self._hint = error.message, error.hint
        self._count.add(outcome="failed")


def _pace(need: Need) -> float:
    return max(need.hint.total_seconds(), _LEAST_SECONDS)
