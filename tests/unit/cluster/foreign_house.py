"""A cluster and its foreign peers, over memory drivers, a manual clock and real TLS servers on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from tests.fakes.foreign_peer import ENDPOINT, ForeignPeer, WebCa
from tests.unit.cluster.cluster_parts import ClusterParts
from trustfed.cluster.foreign import commands
from trustfed.cluster.foreign.commands import SPIFFE, WEB, Settings
from trustfed.cluster.foreign.config import ForeignConfig
from trustfed.cluster.foreign.poller import ForeignPeers, Order
from trustfed.cluster.foreign.readers import Readers
from trustfed.cluster.foreign.watch import Watch
from trustfed.cluster.grants import held_envelope
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.bundle import Bundle

TDF, DAY, CA = "td-f", timedelta(days=1), WebCa()
CONFIG = ForeignConfig(allow_addresses=("127.0.0.0/8",), timeout=timedelta(seconds=2))
ORDER = Order("uid:1", "their owner says so", "")


class House:
    """A cluster and its foreign peers."""

    def __init__(self, parts: ClusterParts) -> None:
        self.parts, self.registry, self.confirmed = parts, Registry(), list[tuple[str, Any]]()
        self.peers = self.make()

    def make(self) -> ForeignPeers:
        note = lambda name, at: self.confirmed.append((name, at))  # noqa: E731
        return ForeignPeers(self.parts.fold, self.parts.keys, CONFIG, note, self.parts.clock, Registry())

    async def add(self, given: Settings, until: timedelta = DAY, reason: str = "billing") -> None:
        id_ = f"local-{self.parts.fold.position}"
        now = self.parts.now
        await self.parts.decide(lambda s: commands.put(s, given, now + until, reason, id_, now))

    async def add_web(self, peer: ForeignPeer, **more: Any) -> None:
        await self.add(Settings(TDF, WEB, peer.url, ca=(CA.der,), **more))

    async def add_spiffe(self, peer: ForeignPeer, **more: Any) -> None:
        given = {"endpoint_id": f"spiffe://{TDF}{ENDPOINT}", "bundle": peer.domain.bundle().marshal(), **more}
        await self.add(Settings(TDF, SPIFFE, peer.url, **given))

    async def remove(self) -> None:
        await self.parts.decide(lambda s: commands.remove(s, TDF, "uid:1", "over", self.parts.now))

    @property
    def bundle(self) -> Bundle:
        """What agents are given."""
        held = self.parts.state.peers[TDF]
        assert TDF in self.parts.state.imports(self.parts.now)
        return held_envelope(held.envelope, TDF, self.domain_key).bundle

    @property
    def domain_key(self) -> bytes:
        assert self.parts.state.domain is not None
        return self.parts.state.domain.publication_key

    @property
    def peer(self) -> Any:
        return self.parts.state.foreign[TDF]

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.peers.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def authorities(peer: ForeignPeer) -> set[bytes]:
    return {authority.twin for authority in peer.domain.authorities}


def watch_of(house: House, readers: Readers | None = None) -> Watch:
    house.registry = Registry()
    readers = readers or Readers(house.parts.now)
    return Watch(house.parts.fold, house.peers, readers, lambda: 60.0, house.parts.clock, house.registry)


async def events_of(house: House) -> list[str]:
    records = await house.parts.journal.read(0, 1000)
    return [record.event.kind for record in records]
