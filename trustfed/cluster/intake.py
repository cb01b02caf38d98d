"""The one way in for a member's envelope, whoever brings it: judged at once, recorded at a pace.

Each is up to 700 kB of journal here and goes to every agent, and its domain makes as many as it likes. So BURST at once are
recorded, then one in SECONDS, for each exporter under its pinned key; beyond that the newest waits for its turn and takes
the place of the one before: a domain that replaces a stolen key after a flood of its own is late by SECONDS, never lost.
What waits is in memory alone. After a crash the exporter's next confirmation shows that it is missing.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from uuid import uuid4

from trustfed.cluster import grants
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation.envelope import Level
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.pace import Paces
from trustfed.runtime.waiting import news_or_time

log = logs.get("cluster.intake")

BURST, SECONDS = 20, 300.0
_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class _Waiting:
    """An envelope that was judged good, and whose turn has not come."""

    level: Level
    data: bytes
    hub_position: int
    actor: str
    reason: str
    paced: str


class Intake:
    """Shared by everything that brings envelopes to one cluster; `run` records what had to wait."""

    def __init__(self, fold: Fold[ClusterState], clock: Clock, registry: Registry | None = None) -> None:
        self._fold, self._clock = fold, clock
        self._paces = Paces(BURST, SECONDS)
        self._waiting: dict[str, _Waiting] = {}
        self._news = asyncio.Event()
        if registry is not None:
            registry.gauge(
                "cluster_envelopes_waiting", "peers' envelopes that wait, because others of that peer came in a flood"
            ).read(lambda: float(len(self._waiting)))

    def waiting(self) -> list[str]:
        """The exporters of which a newer bundle waits for its turn."""
        return sorted(self._waiting)

    async def take(self, domain: str, data: bytes, *, actor: str, reason: str, hub_position: int = 0) -> bool:
        """Believe a peer's envelope. True if it is recorded now; one that must wait, or is held, is no error.

        Raises Denied, Invalid as `grants.receive`, and what the journal raises.
        """
        now, state = self._clock.now(), self._fold.state
        news, envelope = grants.receive(state, domain, data, hub_position, now)
        if not news:
            return False
        key = state.pins(now)[domain].exporter_key
        paced = f"{domain} {hashlib.sha256(key).hexdigest()}"  # an operator who pins anew has a new burst with it
        offered = _Waiting(envelope.level, data, hub_position, actor, reason, paced)
        if self._paces.take(paced, self._clock.monotonic()):
            return await self._record(domain, offered)
        held = self._waiting.get(domain)
        if held is None or held.paced != paced or held.level < offered.level:
            if held is None:
                log.warning("bundles of a peer come too often: the newest waits", peer=domain)
            self._waiting[domain] = offered
            self._news.set()
        return False

    async def run(self) -> None:
        """Record what waits when its turn has come; ends only when cancelled."""
        while True:
            await news_or_time(self._news, self._clock, await self.look())

    async def look(self) -> float | None:
        """Record whose turn it is; seconds until the next one's, None if nothing waits."""
        for domain, waiting in list(self._waiting.items()):
            if not self._paces.take(waiting.paced, self._clock.monotonic()):
                continue
            try:
                await self._record(domain, waiting)
            except (Denied, Invalid) as error:  # ended, pinned anew, or overtaken meanwhile
                self._forget(domain, waiting)
                log.info("a bundle that waited is wanted no more", peer=domain, error=error.message)
            except TrustfedError as error:
                log.error("a bundle that waited is not recorded yet", peer=domain, error=error.message)
                return _RETRY_SECONDS
        now = self._clock.monotonic()
        return min((max(self._paces.wait(one.paced, now), 0.01) for one in self._waiting.values()), default=None)

    async def _record(self, domain: str, offered: _Waiting) -> bool:
        now = self._clock.now()
        try:
            made = await self._fold.execute(
                lambda s: grants.receive(s, domain, offered.data, offered.hub_position, now)[0],
                command_id=uuid4().hex,
                actor=offered.actor,
                reason=offered.reason,
                now=now,
            )
        except BaseException:
            self._paces.give_back(offered.paced)
            raise
        self._forget(domain, offered)
        return bool(made)

    def _forget(self, domain: str, reached: _Waiting) -> None:
        """What was reached is not waited for, nor what is older."""
        held = self._waiting.get(domain)
        if held is not None and (held.paced != reached.paced or held.level <= reached.level):
            del self._waiting[domain]
