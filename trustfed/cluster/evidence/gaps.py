"""What is known by silence: nodes that are not heard, the time in which this process did not run, and who has which bundle.

Heartbeats are not facts; only the time without them is. A node is heard while a stream of it is open, and whenever it calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from ca.lifecycle import Level
from trustfed.cluster.evidence.folded import OfNode, consumer_of
from trustfed.cluster.evidence.kept import Kept
from trustfed.cluster.evidence.records import Records
from trustfed.cluster.presence import Presence
from trustfed.cluster.state import ClusterState
from trustfed.errors import TrustfedError
from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact
from trustfed.journal.ports import MAX_FACTS
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.waiting import news_or_time

log = logs.get("cluster.evidence")

_ALIVE = "alive"
_ALIVE_SECONDS = 10.0
_RETRY_SECONDS = 2.0
_APART_SECONDS = 0.5
_GAP_MS = 1_000


class Importers(Protocol):
    """Who outside has this domain's bundle."""

    def __call__(self) -> dict[str, Level]:
        """By trust domain, the level that it acknowledged."""


class Gaps:
    """`begin` before anything is served, then `run`."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        presence: Presence,
        records: Records,
        kept: Kept,
        importers: Importers,
        silent_after: float,
        clock: Clock,
    ) -> None:
        self._state, self._presence, self._records, self._kept = state, presence, records, kept
        self._importers, self._silent_ms, self._clock = importers, int(silent_after * 1000), clock
        self._every = min(silent_after / 4, _ALIVE_SECONDS)
        self._news = asyncio.Event()
        self._began = self._floor = to_ms(clock.now())
        self._called: dict[str, int] = {}

    def look(self) -> None:
        """A node connected, or acknowledged a bundle."""
        self._news.set()

    def look_at(self, node: str) -> None:
        """A node called; where that is news it is recorded soon."""
        self.called(node)
        known = self._records.folded.nodes.get(node)
        if known is None or known.silent or not known.heard:
            self._news.set()

    def called(self, node: str) -> None:
        """A node that is not on a stream was heard."""
        self._called[node] = to_ms(self._clock.now())

    async def begin(self) -> None:
        """Record since when nobody was heard, if an earlier process ran. Raises Unavailable."""
        now, alive = to_ms(self._clock.now()), int(self._kept.values.get(_ALIVE, b"0"))
        self._began = self._floor = now
        last = max(alive, self._records.began_ms)
        if last and now - last > _GAP_MS:
            self._floor = last
            domain = self._state().trust_domain
            await self._records.append([Fact(now, kinds.CLUSTER_GAP, domain, {"from": last, "to": now})])
        await self._kept.save({_ALIVE: b"%d" % now})

    async def run(self) -> None:
        """Look at everybody; ends only when cancelled."""
        while True:
            wait = self._every
            try:
                await self.round()
                await self._kept.save({_ALIVE: b"%d" % to_ms(self._clock.now())})
            except TrustfedError as error:
                log.error("who is silent is not recorded yet", error=error.message, hint=error.hint)
                wait = _RETRY_SECONDS
            await self._clock.sleep(_APART_SECONDS)  # thousands of nodes that come at once are one look
            await news_or_time(self._news, self._clock, wait)

    async def round(self) -> None:
        """Record who became silent, who is heard again, and who has a newer bundle. Raises Unavailable."""
        await self._records.sure()
        facts = [*self._of_nodes(), *self._acknowledgements()]
        for start in range(0, len(facts), MAX_FACTS):
            await self._records.append(facts[start : start + MAX_FACTS])

    def silent(self) -> list[tuple[str, int]]:
        """The nodes that are silent, and since when, longest first."""
        nodes = self._state().nodes
        found = [
            (name, held.silent)
            for name, held in self._records.folded.nodes.items()
            if held.silent and (node := nodes.get(name)) is not None and not node.banned
        ]
        return sorted(found, key=lambda pair: pair[1])

    def _of_nodes(self) -> list[Fact]:
        now, facts = to_ms(self._clock.now()), []
        for name, node in self._state().nodes.items():
            if node.banned:
                continue
            known = self._records.folded.nodes.get(name) or OfNode()
            heard = self._heard_ms(name, now)
            fresh = heard > self._floor and now - heard <= self._silent_ms
            if fresh and (known.silent or not known.heard):
                facts.append(Fact(now, kinds.NODE_HEARD, name, {"node": name, "from": known.silent, "to": now}))
            elif not fresh and known.heard and not known.silent and now - self._began > self._silent_ms:
                since = max(heard, self._floor)
                if now - since > self._silent_ms:
                    facts.append(Fact(now, kinds.NODE_SILENT, name, {"node": name, "since": since}))
        return facts

    def _heard_ms(self, name: str, now: int) -> int:
        """When it was heard last; 0 before this process."""
        held, called = self._presence.get(name), self._called.get(name, 0)
        if held is None:
            return called
        if held.streams > 0:
            return now
        return max(called, to_ms(held.heard) if isinstance(held.heard, datetime) else 0)

    def _acknowledgements(self) -> list[Fact]:
        now, state, facts = self._clock.now(), self._state(), []
        own = state.trust_domain
        found: list[tuple[dict[str, object], Level]] = [
            ({"node": name}, held.levels[own]) for name, held in self._presence.live(now) if own in held.levels
        ]
        found += [({"importer": domain}, level) for domain, level in self._importers().items()]
        for who, level in found:
            if tuple(level) <= self._records.folded.acknowledged.get(consumer_of(who), (0, 0)):
                continue
            body = {**who, "epoch": level.epoch, "sequence": level.sequence, "at": to_ms(now)}
            facts.append(Fact(to_ms(now), kinds.BUNDLE_ACKNOWLEDGED, own, body))
        return facts
