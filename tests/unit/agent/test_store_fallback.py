"""Cut off from its cluster, an agent reads foreign bundles in the store: only stale ones, by their pinned keys, at a pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.freshness import LIMIT
from agent.intake import Intake
from agent.store import HeldBundle, Store
from agent.store_fallback import stale, store_fallback
from tests.fakes.clocks import START, ManualClock
from tests.fakes.cluster import Domain
from tests.fakes.tuf_store import TufStore
from tests.unit.agent.test_agent_store import held
from trustfed.errors import Unavailable
from trustfed.reading.config import StoreConfig
from trustfed.reading.fallback import StoreFallback
from trustfed.reading.order import Answer, Order
from trustfed.reading.reader import read
from trustfed.reading.sources.open import open_source
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.ids import TrustDomain

WEST = TrustDomain("west.test")


class World:
    """An agent's store and intake, a published store, and a reader in this process that can be taken away."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.folder = ManualClock(), folder
        self.home, self.west = Domain("east.test"), Domain("west.test")
        self.store = Store(self.home.trust_domain, lambda function: asyncio.get_running_loop().call_soon(function))
        for domain in (self.home, self.west):
            self.store.put_bundle(held(domain))
        self.tuf = TufStore(START)
        self.tuf.add("west.test", domain=self.west)
        self.publish()
        (folder / "root.json").write_bytes(self.tuf.root)
        self.connected = self.away = False
        self.certified = START
        self.orders: list[Order] = []
        self.chance = 1.0
        config = StoreConfig(str(folder / "published"), folder / "root.json")
        intake: Any = Intake(self.store, None, 10, self.clock, Registry())  # type: ignore[arg-type]
        self.fallback: StoreFallback = store_fallback(
            config,
            folder,
            self.store,
            intake,
            lambda: self.connected,
            lambda: self.certified,
            self.clock,
            lambda: self.chance,
            Registry(),
        )
        self.fallback._visit = self.visit

    async def visit(self, order: Order) -> Answer:
        self.orders.append(order)
        if self.away:
            raise Unavailable("the store is away")
        return await asyncio.to_thread(lambda: read(order, open_source(order.location, None, order.limits)))

    def publish(self) -> None:
        self.tuf.publish(self.clock.now())
        self.tuf.write(self.folder / "published")

    def sign(self) -> None:
        self.tuf.sign("west.test", now=self.clock.now())
        self.publish()

    async def passes(self, seconds: float) -> None:
        self.clock.move(seconds)
        await self.fallback.look()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    yield World(tmp_path)


async def test_fresh_bundles_and_connected_agents_need_no_store(world: World) -> None:
    await world.passes(59)
    world.connected = True
    await world.passes(1000)
    assert not world.orders


async def test_a_stale_bundle_is_read_after_a_jitter_and_confirmed_by_its_domains_signature(world: World) -> None:
    await world.passes(61)
    assert not world.orders, "not all agents at once"
    world.sign()
    await world.passes(16)
    (order,) = world.orders
    assert [wanted.publication_key for wanted in order.domains] == [world.west.publication_key.spki]
    assert world.store.fresh.confirmed[WEST] == START + timedelta(seconds=61)
    assert world.store.bundles[WEST].envelope.level.sequence == 1
    assert world.fallback.status()["error"] == "" and not world.fallback.status()["refused"]


async def test_news_is_taken_and_a_closed_bundle_opens(world: World) -> None:
    world.clock.move(LIMIT.total_seconds())
    world.store.judge(world.clock.now())
    assert WEST in world.store.closed
    world.west.sequence = 2
    world.sign()
    await world.passes(0)
    await world.passes(20)
    assert world.store.bundles[WEST].envelope.level.sequence == 2
    assert WEST not in world.store.closed


async def test_it_is_read_at_the_pace_of_the_hint(world: World) -> None:
    await world.passes(61)
    for _ in range(40):
        await world.passes(5)
    assert len(world.orders) == 4  # after 15 s, then every 60


async def test_while_the_store_is_away_it_is_asked_less_and_less(world: World) -> None:
    world.away = True
    await world.passes(61)
    for _ in range(720):
        await world.passes(5)
    assert 6 <= len(world.orders) <= 11
    assert world.fallback.status()["error"] == "the store is away"
    world.away = False
    await world.passes(1000)
    assert world.fallback.status()["error"] == ""


async def test_an_expired_timestamp_hides_no_news_and_makes_nothing_fresher(world: World) -> None:
    world.clock.move(3600)
    world.west.sequence = 2
    world.sign()
    signed_at = world.clock.now()
    world.clock.move(5 * 86_400)
    await world.passes(0)
    await world.passes(20)
    assert world.store.bundles[WEST].envelope.level.sequence == 2
    assert world.store.fresh.confirmed[WEST] == signed_at


async def test_what_goes_back_or_has_another_key_is_refused_and_shown(world: World) -> None:
    newer = Domain("west.test", world.west.authorities, publication=world.west.publication, sequence=5)
    world.store.put_bundle(HeldBundle(newer.envelope(), newer.publication_key, START))
    await world.passes(61)
    await world.passes(20)
    assert "goes back" in world.fallback.status()["refused"]["west.test"]
    assert world.store.bundles[WEST].envelope.level.sequence == 5
    thief = world.tuf.domains["west.test"] = Domain("west.test", sequence=9)
    world.tuf.delegated["west.test"] = thief.publication_key
    world.sign()
    await world.passes(100)
    assert "stolen delegation refused" in world.fallback.status()["refused"]["west.test"]
    assert world.store.bundles[WEST].envelope.level.sequence == 5


async def test_what_our_own_cluster_signs_for_others_is_not_looked_for(world: World) -> None:
    foreign = Domain("spire.test", publication=world.home.publication)
    world.store.put_bundle(held(foreign))
    assert [need.wanted.trust_domain for need in stale(world.store, START + timedelta(hours=1))] == ["west.test"]


async def test_a_banned_agent_reads_nothing(world: World) -> None:
    world.store.banned = "stolen"
    await world.passes(1000)
    await world.passes(1000)
    assert not world.orders


@pytest.mark.parametrize("told", ["by its SVID", "on the stream"])
async def test_the_store_confirms_until_the_limit_after_the_clusters_last_word(world: World, told: str) -> None:
    """West's grant may have ended meanwhile, and the store goes on: it must not make the end unheard for ever."""
    word = START + timedelta(days=2)
    world.clock.move(2 * 86_400)
    if told == "on the stream":
        world.connected = True
        await world.passes(0)
        world.connected = False
    else:
        world.certified = word
    last = word + 2 * LIMIT
    while WEST not in world.store.closed and world.clock.now() < last + timedelta(days=9):
        # The end is found to a day; on the way there the store is read six times within each limit.
        days = 1 if world.clock.now() > last - timedelta(days=3) else LIMIT.days / 6
        world.sign()
        await world.passes(days * 86_400 - 100)
        await world.passes(100)
        world.store.judge(world.clock.now())
    assert world.store.fresh.confirmed[WEST] == word + LIMIT
    assert timedelta(0) <= world.clock.now() - last <= timedelta(days=1)
    world.certified = world.clock.now()  # the cluster is back: from here on it may count again
    world.sign()
    await world.passes(100)
    assert WEST not in world.store.closed
