"""Without a hub, a cluster reads its peers' envelopes in the store: judged as from any hand, and counted as confirmed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from tests.fakes.cluster import Domain
from tests.fakes.tuf_store import TufStore
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from trustfed.cluster import events as e
from trustfed.cluster.freshness import Freshness, Standing
from trustfed.cluster.store_fallback import store_fallback
from trustfed.reading.config import StoreConfig
from trustfed.reading.fallback import StoreFallback
from trustfed.reading.order import Answer, Order
from trustfed.reading.reader import read
from trustfed.reading.sources.open import open_source
from trustfed.runtime.metrics import Registry


class World:
    """A cluster with an accepted grant for td-b, and a store to which td-b publishes."""

    def __init__(self, parts: ClusterParts, folder: Path) -> None:
        self.parts, self.folder = parts, folder
        self.freshness = Freshness(parts.fold, timedelta(days=30), parts.clock, Registry())
        self.tuf = TufStore(parts.now)
        self.peer = self.tuf.add("td-b")
        (folder / "root.json").write_bytes(self.tuf.root)
        config = StoreConfig(str(folder / "published"), folder / "root.json")
        self.fallback: StoreFallback = store_fallback(
            config, folder, parts.fold, self.freshness, parts.clock, Registry()
        )
        self.fallback._visit = self.visit
        self.orders: list[Order] = []

    async def visit(self, order: Order) -> Answer:
        self.orders.append(order)
        return await asyncio.to_thread(lambda: read(order, open_source(order.location, None, order.limits)))

    async def granted(self, key: bytes) -> None:
        now = self.parts.now
        until = now + timedelta(days=300)
        await self.parts.record(e.GrantOffered("g", TD, "td-b", now, until, "", key, 1), e.GrantAccepted("g", key, now))

    async def published(self) -> None:
        """td-b signs and the hub publishes; then time passes until it was read."""
        self.tuf.sign("td-b", now=self.parts.now)
        self.tuf.publish(self.parts.now)
        self.tuf.write(self.folder / "published")
        for _ in range(5):
            await self.fallback.look()
            self.parts.clock.move(15)

    def standing(self) -> Standing:
        (peer,) = self.freshness.peers()
        return peer.standing


async def test_a_first_bundle_then_news_then_a_confirmation(parts: ClusterParts, tmp_path: Path) -> None:
    world = World(parts, tmp_path)
    await world.granted(world.peer.publication_key.spki)
    await world.published()
    assert parts.state.peers["td-b"].sequence == 1
    assert world.freshness.confirmed_at("td-b") is not None
    parts.clock.move(600)
    assert world.standing() is Standing.STALE
    world.peer.sequence = 2
    await world.published()
    assert parts.state.peers["td-b"].sequence == 2
    parts.clock.move(600)
    signed_at = parts.now
    await world.published()
    assert world.freshness.confirmed_at("td-b") == signed_at
    assert world.orders[-1].domains[0].held, "what is held is not sent again"


async def test_only_the_pinned_key_counts_and_without_a_grant_nothing_is_read(
    parts: ClusterParts, tmp_path: Path
) -> None:
    world = World(parts, tmp_path)
    await world.published()
    assert not world.orders
    await world.granted(Domain("td-b").publication_key.spki)
    await world.published()
    assert "td-b" not in parts.state.peers
    assert "stolen delegation refused" in world.fallback.status()["refused"]["td-b"]
