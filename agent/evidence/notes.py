"""What is noted of a moment: kept in a list by whoever sees it, written to the spool in batches, in a thread.

`note` never waits and costs a list entry: it is called where workloads are answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from agent.evidence.moments import Moment, Moments
from agent.evidence.spool import Spool
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.waiting import news_or_time

MOST_NOTED = 20_000
"""Facts that wait for their batch: two for each entry that an agent may have."""
PACE_SECONDS = 0.2
"""From the end of one batch to the next: the disk is synced so often at most."""
RETRY_SECONDS = 5.0
_SLICE = 500

Noted = tuple[str, Moment, dict[str, object]]


class Notes:
    """`run` ends only when cancelled; `written` is set whenever there is something new for the cluster."""

    def __init__(self, spool: Spool, moments: Moments, clock: Clock, registry: Registry) -> None:
        self._spool, self._moments, self._clock = spool, moments, clock
        self._noted: deque[Noted] = deque()
        self._missed: Counter[str] = Counter()
        self._news = asyncio.Event()
        self.written = asyncio.Event()
        self.used = asyncio.Event()
        """Set after each batch, and each call with one: they run code that little else does (trustfed.runtime.memory)."""
        self._facts = registry.counter("agent_evidence_noted_total", "facts noted for the cluster", labels=("kind",))

    def __len__(self) -> int:
        return len(self._noted)

    def note(self, kind: str, **said: object) -> None:
        """Something happened now; `said` are fields of an AgentFact."""
        if len(self._noted) >= MOST_NOTED:
            self._missed[kind] += 1
        else:
            self._noted.append((kind, self._moments.now(), said))
        self._news.set()

    async def run(self) -> None:
        """Write what was noted, and try again what could not be written."""
        await asyncio.to_thread(self._spool.open)
        self.written.set()
        while True:
            if not self._noted:
                await news_or_time(self._news, self._clock, RETRY_SECONDS if self._spool.problem else None)
            self._news.clear()
            await self.flush()
            await self._clock.sleep(PACE_SECONDS)

    async def flush(self) -> None:
        """What was noted by now is durable, or one try to make it so has failed."""
        noted, self._noted = self._noted, deque()
        missed, self._missed = self._missed, Counter()
        for kind, count in Counter(kind for kind, _, _ in noted).items():
            self._facts.add(count, kind=kind)
        await asyncio.to_thread(self._write, noted, missed)
        self.written.set()
        self.used.set()

    def _write(self, noted: deque[Noted], missed: Counter[str]) -> None:
        for kind, count in missed.items():
            self._spool.lose(kind, count)
        while True:
            # A little at a time: facts as messages are several times larger than as notes.
            self._spool.append([self._fact(*noted.popleft()) for _ in range(min(_SLICE, len(noted)))])
            if not noted:
                break

    def _fact(self, kind: str, moment: Moment, said: dict[str, object]) -> pb.AgentFact:
        fact = pb.AgentFact(kind=kind, **said)  # type: ignore[arg-type]
        self._moments.stamp(fact, moment)
        return fact
