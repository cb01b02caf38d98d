"""What goes into the cache and comes out of it: in a fake that keeps it in memory, with the clock in the test's hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.cache import Kept, KeptToken, NoCache
from agent.cache.config import CacheConfig
from agent.cache.open import open_cache
from agent.identity import IdentityFile, Node, NodeIdentity
from agent.intake import Intake
from agent.jwt import JwtSvids, Token
from agent.keeping import Keeping
from agent.link import Link
from agent.renewal import Renewal
from agent.store import HeldBundle, Store
from agent.sync import Sync
from agent.trusted_time import TrustedTime
from tests.fakes.clocks import START, ManualClock
from tests.fakes.cluster import Domain, FakeCluster
from tests.unit.agent.test_agent_enrolment import enrol
from tests.unit.agent.test_agent_store import an_entry, an_svid, held
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.metrics import Registry

WEST = Domain("west.test")


class InMemory(NoCache):
    """A cache that remembers what it was told, and how often it was made durable."""

    def __init__(self, kept: Kept | None = None) -> None:
        self.held, self.told, self.flushed = kept, 0, 0

    def load(self, now: datetime) -> Kept | None:
        return self.held

    def changed(self, kept: Kept) -> None:
        self.held, self.told = kept, self.told + 1

    async def flush(self) -> None:
        self.flushed += 1


class World:
    """An agent's parts, as far as they hold something; nothing is connected."""

    def __init__(self, identity: NodeIdentity, cache: InMemory, clock: ManualClock, folder: Path) -> None:
        self.cache, self.clock, registry = cache, clock, Registry()
        self.node = Node(identity, IdentityFile(folder), registry)
        self.store = Store(identity.trust_domain, asyncio.get_running_loop().call_soon)
        self.time = TrustedTime(clock, clock.monotonic, "boot-1")
        link = Link(self.node, self.time)
        self.jwt = JwtSvids(self.store, link, 10, self.time, registry)
        intake = Intake(self.store, self.node, 100, self.time, registry)
        self.sync = Sync(self.store, self.node, link, self, intake, self.time, lambda: 0.5, registry)  # type: ignore[arg-type]
        self.keeping = Keeping(cache, self.store, self.jwt, self.sync, self.node, self.time)
        self.keeping.load()

    def home(self) -> HeldBundle:
        identity = self.node.identity
        return HeldBundle(identity.home, identity.publication_key, START)


@pytest.fixture
async def identity(tmp_path: Path) -> AsyncIterator[NodeIdentity]:
    async with FakeCluster() as cluster:
        yield await enrol(cluster, tmp_path / "data")


@pytest.fixture
async def full(identity: NodeIdentity, tmp_path: Path) -> World:
    world = World(identity, InMemory(), ManualClock(), tmp_path / "data")
    store = world.store
    store.put_bundle(world.home())
    store.put_bundle(held(WEST), START - timedelta(days=2))
    store.fresh.limit(WEST.trust_domain, timedelta(days=5))
    entry = an_entry(federates_with_all=True)
    store.put_entries([entry, an_entry("e2", "/two")])
    store.put_svids({"e1": an_svid(60), "e2": an_svid(3600)})
    store.put_reserves({"e1": an_svid(9000, "r")})
    store.use(("e2",), START)
    soon = START + timedelta(seconds=30)
    world.jwt.restore([("e1", ("a",), Token("text", entry.spiffe_id, "j1", START, soon))])
    world.sync.resume(41, "instance-1")
    store.mark_synced()
    world.store.retire(["old"])
    world.time.authenticate(START + timedelta(seconds=5), START + timedelta(days=9), "a#1")
    return world


def again(world: World, tmp_path: Path, kept: Kept | None = None) -> World:
    clock = ManualClock(world.clock.now())
    clock.move(0)
    return World(world.node.identity, InMemory(kept or world.keeping.kept()), clock, tmp_path / "data")


async def test_what_was_held_is_held_again(full: World, tmp_path: Path) -> None:
    kept = full.keeping.kept()
    assert (kept.position, kept.instance, kept.retired) == (41, "instance-1", ("old",))
    assert kept.used == {"e2": START} and kept.floor >= START
    world = again(full, tmp_path, kept)
    ours, theirs = world.store, full.store
    assert (ours.entries, ours.svids, ours.reserves, ours.bundles) == (
        theirs.entries,
        theirs.svids,
        theirs.reserves,
        theirs.bundles,
    )
    assert ours.fresh.confirmed == theirs.fresh.confirmed and ours.fresh.limits == theirs.fresh.limits
    assert ours.synced and ours.serving() and not ours.matched
    assert len(world.jwt) == 1 and world.store.retired == ("old",) and world.keeping.loaded
    assert (world.sync.status.position, world.sync.instance) == (41, "instance-1")
    assert world.store.bundles[ours.trust_domain].envelope is world.node.identity.home
    assert replace(world.keeping.kept(), floor=kept.floor) == kept


async def test_nothing_that_has_ended_is_revived_by_a_clock_set_back(full: World, tmp_path: Path) -> None:
    full.clock.move(100)
    full.store.expire(full.time.now())
    kept = full.keeping.kept()
    assert set(kept.svids) == {"e2"} and not kept.tokens
    # As if the cache had been written before that, and the clock set back.
    early = replace(kept, svids={"e1": an_svid(60), "e2": an_svid(3600)}, tokens=(KeptToken("e1", ("a",), _token(30)),))
    clock = ManualClock(START - timedelta(days=3))
    world = World(full.node.identity, InMemory(early), clock, tmp_path / "data")
    assert set(world.store.svids) == {"e2"} and len(world.jwt) == 0
    assert world.time.now() >= START + timedelta(seconds=100)


def _token(seconds: float) -> Token:
    return Token("text", an_entry().spiffe_id, "j1", START, START + timedelta(seconds=seconds))


async def test_a_bundle_that_closed_meanwhile_is_closed_from_the_start(full: World, tmp_path: Path) -> None:
    full.clock.move(3 * 86_400)
    assert again(full, tmp_path).store.closed == {WEST.trust_domain}


async def test_a_ban_is_kept_and_nothing_else(full: World, tmp_path: Path) -> None:
    full.store.ban("stolen")
    world = again(full, tmp_path)
    assert world.store.banned == "stolen" and not world.store.entries and not world.store.bundles
    assert world.sync.status.position == 0 and not world.store.synced


async def test_the_cache_of_another_publication_key_is_left_alone(full: World, tmp_path: Path) -> None:
    other = Domain("east.test", sequence=4)
    bundles = (held(other), *(b for b in full.keeping.kept().bundles if b.key != full.home().key))
    world = again(full, tmp_path, replace(full.keeping.kept(), bundles=bundles))
    assert not world.store.entries and not world.store.synced and world.sync.status.position == 0


async def test_of_identity_and_cache_the_newer_home_bundle_is_continued(full: World, tmp_path: Path) -> None:
    kept, identity = full.keeping.kept(), full.node.identity
    newer = _resigned(full, 7)
    bundles = tuple(replace(b, envelope=newer) if b.key == identity.publication_key else b for b in kept.bundles)
    world = again(full, tmp_path, replace(kept, bundles=bundles))
    assert world.node.identity.home is newer


def _resigned(world: World, sequence: int) -> Any:
    home = world.node.identity.home
    level = replace(home.level, sequence=sequence)
    return replace(home, level=level)


async def test_who_starts_over_asks_for_a_snapshot_at_once(full: World) -> None:
    """After a clock that was ahead: entries that it ended are wanted again, and the position says that nothing lacks."""
    full.sync.start_over()
    assert full.sync._hello().position == 0 and full.sync._link.stale.is_set()


async def test_who_starts_over_serves_on_and_is_served_after_a_restart_without_the_cluster(
    full: World, tmp_path: Path
) -> None:
    full.sync.start_over()
    kept = full.keeping.kept()
    world = again(full, tmp_path, kept)
    assert world.store.synced and world.store.serving() and set(world.store.svids) == {"e1", "e2"}
    assert world.sync._hello().position == 0  # and the snapshot is still asked for


async def test_an_entry_that_a_wrong_clock_has_ended_is_asked_for_again(full: World, tmp_path: Path) -> None:
    """The cache is the sealed one: what is left out at the start is known to be left out."""

    def started(clock: ManualClock) -> World:
        cache: Any = open_cache(CacheConfig(), full.node.identity.svid.id, tmp_path / "data", Registry())
        return World(full.node.identity, cache, clock, tmp_path / "data")

    full.store.put_entries([an_entry("e3", "/three", expires_at=START + timedelta(hours=1))])
    first = started(ManualClock())
    first.cache.changed(full.keeping.kept())
    await first.keeping._cache.flush()
    wrong = started(ManualClock(START + timedelta(days=2)))
    assert set(wrong.store.entries) == {"e1", "e2"} and wrong.store.synced
    await wrong.keeping.close()
    right = started(ManualClock(START + timedelta(minutes=5)))
    assert right.store.synced and right.sync._hello().position == 0
    # The cluster's own word ends it: then nothing lacks.
    wrong.store.put_entries((), ["e3"])
    assert wrong.keeping.kept().instance == "instance-1"


async def test_authorities_of_before_the_restart_are_still_being_replaced(full: World, tmp_path: Path) -> None:
    full.store.put_svids({"e1": replace(an_svid(3600), authority="old")})
    world, clock = again(full, tmp_path), ManualClock(full.clock.now())
    part: Any = None
    renewal = Renewal(world.store, part, clock, lambda: 0.5, Registry())
    renewal._on_change()
    due = {id_: slot.due - world.time.now() for id_, slot in renewal.slots.items()}
    assert due["e1"] <= timedelta(0) and due["e2"] > timedelta(minutes=20)


async def test_an_entry_that_is_narrowed_or_cannot_be_read_is_urgent(full: World) -> None:
    """What was taken away must not come back, whatever it was taken away by."""
    urgent = list[int]()
    full.urgent = lambda: urgent.append(len(urgent))  # type: ignore[attr-defined]
    one = pb.Entry(id="n", spiffe_id="spiffe://east.test/n", selectors=["unix:uid:1"], dns_names=["db"])

    def told(entry: pb.Entry) -> int:
        full.sync._take("entries", pb.FromCluster(entries=pb.Entries(upsert=[entry])))
        return len(urgent)

    assert told(one) == 0 and told(one) == 0  # new, and the same again
    del one.dns_names[:]
    assert told(one) == 1
    one.selectors.append("nonsense")
    assert told(one) == 2 and "n" not in full.store.entries


async def test_a_change_is_told_soon_and_what_was_taken_away_at_once(full: World) -> None:
    cache = full.cache
    for _ in range(3):
        await asyncio.sleep(0.03)
    told = cache.told
    assert told >= 1 and not cache.flushed
    full.store.put_svids({"e1": an_svid(90, "2")})
    full.store.put_svids({"e1": an_svid(91, "3")})
    await asyncio.sleep(0.1)
    assert cache.told == told + 1 and cache.held is not None and cache.held.svids["e1"].serial == "3"
    full.store.put_entries((), ["e1"])
    full.keeping.urgent()
    full.sync.resume(42, "instance-1")  # set in the same turn of the loop, after what it stands for
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert cache.flushed == 1 and set(cache.held.svids) == {"e2"} and cache.held.position == 42


async def test_the_floor_is_told_every_minute(full: World) -> None:
    await asyncio.sleep(0.1)
    told, running = full.cache.told, asyncio.create_task(full.keeping.run())
    await full.clock.advance(130)
    running.cancel()
    assert full.cache.told == told + 2
    assert full.cache.held is not None and full.cache.held.floor >= START + timedelta(seconds=120)
