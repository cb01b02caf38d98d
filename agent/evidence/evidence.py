"""Evidence put together: what the agent's parts tell it, what it tells the cluster, and how it stands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

from agent.cache.config import CacheConfig
from agent.cache.disk import FolderDisk
from agent.cache.open import sealing_key
from agent.evidence.config import ProbeConfig
from agent.evidence.holders import Holders
from agent.evidence.moments import Moments
from agent.evidence.notes import Notes
from agent.evidence.probe import Probes
from agent.evidence.sender import Cluster, Sender
from agent.evidence.shelf import FOLDER, KEY, Shelf
from agent.evidence.spool import Spool
from agent.store import Store
from agent.trusted_time import TrustedTime
from trustfed.runtime import errors, logs
from trustfed.runtime.metrics import Registry
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.ids import SpiffeId

log = logs.get("agent.evidence")

SWEEP_SECONDS = 5.0
INVENTORY_SECONDS = 3600.0
_INVENTORY_PACE = 60.0
_SETTLE_SECONDS = 1.5
"""After a connection: what the node lacked is issued meanwhile."""
_PER_FACT = 500
"""Serials in one fact of an inventory."""
_OFFSET_MS = 1_000
_OFFSET_PACE = 60.0
_RESTART_SECONDS = 30.0
_CLOSE_SECONDS = 1.0


class Evidence:
    """One node's evidence. Nothing in it, and nothing that becomes of it, stops the agent."""

    def __init__(
        self,
        folder: Path,
        cache: CacheConfig,
        limits: tuple[int, int],
        probes: Sequence[ProbeConfig],
        node: Callable[[], tuple[SpiffeId, int]],
        store: Store,
        cluster: Cluster,
        clock: TrustedTime,
        chance: Callable[[], float],
        registry: Registry,
    ) -> None:
        """`folder` is data_dir; `limits` bytes and facts on the disk; `node` gives the node's ID and the serial of its SVID."""
        self._store, self._cluster, self._clock, self._node = store, cluster, clock, node
        self.moments = Moments(clock)
        outside = FolderDisk(folder)
        shelf = Shelf(FolderDisk(folder / FOLDER), sealing_key(cache, outside, KEY), node()[0], os.urandom)
        self._spool = Spool(shelf, self.moments, os.urandom, limits)
        self.notes = Notes(self._spool, self.moments, clock, registry)
        self.holders = Holders(store, self.notes, clock)
        self._sender = Sender(self._spool, self.notes, cluster, self.moments, clock, chance, registry)
        self.used = self.notes.used
        self._probes = Probes(probes, store.trust_domain, store, self.notes, clock, chance, registry)
        self._inventory_at = self._offset_at = float("-inf")
        self._connected_at = 0.0
        self._connected = asyncio.Event()
        self._offset = 0
        self._measure(registry)

    def _measure(self, registry: Registry) -> None:
        spool = self._spool
        registry.gauge("agent_evidence_waiting", "facts that the cluster has not confirmed").read(self._waiting)
        registry.gauge("agent_evidence_bytes", "bytes of the evidence spool on disk").read(lambda: float(spool.size))
        registry.gauge("agent_evidence_lost", "facts given up since the start").read(lambda: float(spool.lost_total))
        registry.gauge("agent_evidence_unsaved", "1 while facts could not be written to disk").read(
            lambda: float(bool(spool.problem))
        )
        registry.gauge("agent_evidence_oldest_seconds", "age of the oldest fact that waits, where it is known").read(
            lambda: self._age() or 0.0
        )

    def connected(self) -> None:
        """The cluster can be reached: an inventory, and what waits, goes to it."""
        self._connected_at = self._clock.monotonic()
        self._connected.set()
        self._sender.connected()

    async def run(self) -> None:
        """Everything, for ever; begun when the store has what was kept."""
        self.holders.resume()
        jobs: list[Callable[[], Awaitable[None]]] = [self.notes.run, self._sender.run, self._sweep]
        async with asyncio.TaskGroup() as group:
            for job in [*jobs, self._probes.run]:
                group.create_task(self._kept_up(job))
            await asyncio.Event().wait()

    async def close(self) -> None:
        """What was noted is durable, unless it cannot be written in a second."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.notes.flush()
        except TimeoutError:
            log.error("the last evidence was not written in time")

    def status(self) -> dict[str, object]:
        """For `agent status`: see agent.admin."""
        age = self._age()
        oldest = None if age is None else self._clock.now() - timedelta(seconds=age)
        return {
            "waiting": int(self._waiting()),
            "sent": self._sender.sent_total,
            "lost": self._spool.lost_total,
            "epoch": self._spool.epoch.hex(),
            "oldest": oldest and oldest.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "problem": self._spool.problem or self._sender.error or None,
            "probes": self._probes.status(),
        }

    def _waiting(self) -> float:
        return self._spool.waiting + len(self.notes)

    def _age(self) -> float | None:
        """Seconds; None where nothing waits, or it is of another boot."""
        oldest = self._spool.oldest_ms
        return None if oldest is None or not self._waiting() else (self.moments.elapsed() - oldest) / 1000

    async def _kept_up(self, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await job()
                return
            except Exception as error:
                errors.answer(error)  # it has the log; whatever is wrong here, workloads are served
            await self._clock.sleep(_RESTART_SECONDS)

    async def _sweep(self) -> None:
        while True:
            await news_or_time(self._connected, self._clock, SWEEP_SECONDS)
            if self._connected_at > self._inventory_at:
                await self._clock.sleep(_SETTLE_SECONDS)
            self.holders.sweep()
            self._tell_offset()
            self._tell_inventory()

    def _tell_offset(self) -> None:
        """When it changed by more than a second, at most once a minute; also that it is small again."""
        offset, now = self.moments.offset(), self._clock.monotonic()
        if offset is not None and abs(offset - self._offset) > _OFFSET_MS and now >= self._offset_at + _OFFSET_PACE:
            self._offset, self._offset_at = offset, now
            self.notes.note("offset", offset_ms=offset)

    def _tell_inventory(self) -> None:
        """After each connection, and every hour of it: an old one is of no use, so none is made without a cluster."""
        now = self._clock.monotonic()
        pace = _INVENTORY_PACE if self._connected_at > self._inventory_at else INVENTORY_SECONDS
        if not self._cluster.connected or now < self._inventory_at + pace:
            return
        self._inventory_at = now
        store = self._store
        held = [one.serial for of in (store.svids, store.reserves) for one in of.values()]
        held.append(serial_text(self._node()[1]))
        parts = range(0, len(held), _PER_FACT)
        for part, start in enumerate(parts, 1):
            self.notes.note("held", serials=held[start : start + _PER_FACT], part=part, parts=len(parts))
