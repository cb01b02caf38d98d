"""Follows the journal and appends what of it is evidence to the ledger, each event once.

Where it goes on is read from the ledger: the highest `journal` position of a mirrored fact. All facts of an event, and
often of several, are one append, so a kill at any moment leaves an event mirrored or not, never half of it.
"""

from __future__ import annotations

from trustfed.cluster import events as e
from trustfed.cluster.evidence.mirrored import Mirrored
from trustfed.cluster.evidence.records import Records
from trustfed.cluster.state import ClusterState
from trustfed.errors import TrustfedError
from trustfed.journal.events import Fact
from trustfed.journal.fold import Fold
from trustfed.journal.ports import MAX_FACTS, Journal
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms

log = logs.get("cluster.evidence")

_READ = 500
_PER_EVENT = 64
"""Facts of one event, at most: a published bundle names its authorities."""
_RETRY_SECONDS = 2.0


class Mirror:
    """`run` ends only when cancelled."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        journal: Journal,
        records: Records,
        mirrored: Mirrored,
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._fold, self._journal, self._records = fold, journal, records
        self._mirrored, self._clock = mirrored, clock
        registry.gauge("cluster_evidence_mirror_lag", "events of the journal that the ledger does not mirror yet").read(
            lambda: float(fold.position - self.position)
        )

    @property
    def position(self) -> int:
        """The journal's position up to which all is mirrored."""
        return max(self._records.folded.mirrored, self._records.folded.scanned)

    async def run(self) -> None:
        """Mirror what is there, then what comes."""
        while True:
            try:
                await self.catch_up()
                async for position, _ in self._fold.subscribe(after=min(self.position, self._fold.position)):
                    if position > self.position:
                        await self.catch_up()
                return
            except TrustfedError as error:
                log.error("the journal is not mirrored into the ledger yet", error=error.message, hint=error.hint)
                await self._clock.sleep(_RETRY_SECONDS)

    async def catch_up(self) -> None:
        """Mirror everything up to the fold's position. Raises Unavailable; then nothing, or a whole append, is there."""
        await self._records.sure()
        folded = self._records.folded
        while (after := self.position) < self._fold.position:
            state, limit = self._fold.state, min(_READ, self._fold.position - after)
            facts: list[Fact] = []
            reached = after
            for record in await self._journal.read(after, limit):
                typed, now = e.CODEC.decode(record.event), to_ms(self._clock.now())
                facts += self._mirrored.facts(record.position, record.event, typed, state, now)
                reached = record.position
                if len(facts) > MAX_FACTS - _PER_EVENT:
                    break
            if reached == after:
                return
            if facts:
                await self._records.append(facts)
            folded.scanned = max(folded.scanned, reached)
