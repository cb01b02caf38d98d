"""Facts from the spool to the cluster: one run after the other, one call at a time, resumed where the cluster says.

A cluster that is away, or refuses, is tried again with full jitter; an older one, which takes no facts, rarely. What waits
stays in the spool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from agent.evidence.moments import Moments
from agent.evidence.notes import Notes
from agent.evidence.spool import Spool
from trustfed.errors import TrustfedError, Unavailable
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.waiting import news_or_time

log = logs.get("agent.evidence")

GATHER_SECONDS = 0.5
"""What happens soon after the first fact goes along with it."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
RARELY_SECONDS = 600.0
_LOOK_SECONDS = 30.0


class Cluster(Protocol):
    """Where facts go: agent.link.Link."""

    @property
    def connected(self) -> bool:
        """Whether it can be asked now."""
        ...

    async def report(self, request: pb.NodeReport) -> pb.NodeReportAnswer | None:
        """One call, bounded; None from a cluster that takes no facts. Raises what it says, Unavailable."""
        ...


class Sender:
    """`run` ends only when cancelled."""

    def __init__(
        self,
        spool: Spool,
        notes: Notes,
        cluster: Cluster,
        moments: Moments,
        clock: Clock,
        chance: Callable[[], float],
        registry: Registry,
    ) -> None:
        self._spool, self._notes, self._cluster, self._moments = spool, notes, cluster, moments
        self._clock, self._chance = clock, chance
        self._hurry = asyncio.Event()
        self._failures = 0
        self.sent_total = 0
        """Facts that the cluster has confirmed to this process."""
        self.error = ""
        """Why the last call failed; "" after one that did not."""
        self._sent = registry.counter("agent_evidence_sent_total", "facts that the cluster has confirmed")
        self._reports = registry.counter("agent_evidence_reports_total", "calls with facts", labels=("outcome",))

    def connected(self) -> None:
        """The cluster can be reached again: what waits goes now."""
        self._failures = 0
        self._hurry.set()
        self._notes.written.set()

    async def run(self) -> None:
        """Send what there is, for ever."""
        while True:
            if not self._cluster.connected or not self._spool.waiting:
                await news_or_time(self._notes.written, self._clock, _LOOK_SECONDS)
                if not self._cluster.connected or not self._spool.waiting:
                    continue
                await self._clock.sleep(GATHER_SECONDS)
            self._hurry.clear()
            wait = await self._once()
            self._notes.used.set()
            if wait:
                await news_or_time(self._hurry, self._clock, wait)

    async def _once(self) -> float:
        """One call; gives the seconds until the next."""
        report = await asyncio.to_thread(self._spool.head)
        if report is None:
            return FIRST_WAIT
        report.waiting = max(self._spool.waiting - len(report.facts), 0) + len(self._notes)
        report.boot, report.elapsed_ms = self._moments.boot, self._moments.elapsed()
        try:
            answer = await self._cluster.report(report)
        except TrustfedError as error:
            return self._failed("failed", error)
        except Exception as error:  # whatever it sends, what waits stays
            return self._failed("failed", Unavailable(errors.answer(error).line()))
        if answer is None:
            self._failed("unimplemented", Unavailable("the cluster takes no evidence yet", hint="upgrade it"))
            return RARELY_SECONDS * (0.5 + self._chance() / 2)
        count = await asyncio.to_thread(self._spool.acknowledge, report, answer.next)
        if not count:
            return self._failed("refused", Unavailable("the cluster took nothing of what was sent"))
        self.sent_total += count
        self._sent.add(count)
        self._reports.add(outcome="taken")
        self.error, self._failures = "", 0
        return 0.0

    def _failed(self, outcome: str, error: TrustfedError) -> float:
        self._reports.add(outcome=outcome)
        if error.message != self.error:  # said once, not for weeks
            log.warning("evidence waits for the cluster", error=error.message, hint=error.hint)
        self.error = error.message
        self._failures += 1
        ceiling = min(FIRST_WAIT * 2 ** min(self._failures - 1, 10), LONGEST_WAIT)
        return float(max(ceiling * self._chance(), 0.05))
