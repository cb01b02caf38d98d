"""Reserve SVIDs and prefetch: asked for beside the normal ones, served only when nothing else is left, dropped at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from agent.answers import X509_SVIDS
from agent.prefetch import chosen
from agent.renewal import Renewal
from agent.reserves import Reserves
from agent.store import Store
from tests.fakes.clocks import START, ManualClock
from tests.fakes.cluster import Domain, leaf
from tests.unit.agent.test_agent_store import an_entry, held
from trustfed.errors import Unavailable
from trustfed.proto import node_pb2 as pb
from trustfed.proto import workload_pb2 as workload_pb
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.x509svid import parse_leaf

EAST = Domain("east.test")
RESERVE = timedelta(days=7)


class Issuer:
    """The other end of the link: issues at once, by its own clock; `connected` can be taken away."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock, self.connected = store, clock, True
        self.asked: list[tuple[str, str]] = []
        self.batches: list[list[str]] = []
        self.keys: set[bytes] = set()
        self.authority = "a1"
        self.on_the_way: Callable[[], None] = lambda: None
        self.capped = True

    async def call(self, method: str, request: Any, answer: Any) -> pb.IssueX509Response:
        await asyncio.sleep(0)
        if not self.connected:
            raise Unavailable("away")
        response = pb.IssueX509Response()
        self.batches.append([slot.entry_id for slot in request.slots])
        for slot in request.slots:
            self.asked.append((slot.entry_id, slot.slot))
            assert slot.public_key not in self.keys
            self.keys.add(slot.public_key)
            key: Any = load_der_public_key(slot.public_key)
            life = RESERVE if slot.slot == "reserve" else timedelta(hours=1)
            entry = self.store.entries[slot.entry_id]
            if entry.expires_at is not None and self.capped:  # nothing outlives its entry
                life = min(life, entry.expires_at - self.clock.now())
            der = leaf(EAST.authorities[0], entry.spiffe_id, key, life, entry.dns_names, now=self.clock.now())
            response.results.add(
                entry_id=slot.entry_id,
                chain=[der],
                authority_id=self.authority,
                not_after_ms=to_ms(parse_leaf(der).not_after),
            )
        self.on_the_way()
        return response


class World:
    def __init__(self, prefetch: int = 1000) -> None:
        self.clock, registry = ManualClock(), Registry()
        self.store = Store(TrustDomain("east.test"), asyncio.get_running_loop().call_soon)
        self.issuer = Issuer(self.store, self.clock)
        self.renewal = Renewal(self.store, self.issuer, self.clock, lambda: 0.5, registry, prefetch)
        self.reserves = Reserves(self.store, self.issuer, self.renewal.slots, self.clock, lambda: 0.5, registry)
        self.registry = registry
        self.store.put_bundle(held(EAST))
        self.store.mark_synced()

    def served(self, *ids: str) -> list[datetime]:
        message = self.store.answers(ids or ("e1",), self.clock.now()).get(X509_SVIDS)
        svids = workload_pb.X509SVIDResponse.FromString(message).svids if message else []
        return [parse_leaf(svid.x509_svid).not_after for svid in svids]


@asynccontextmanager
async def a_world(prefetch: int = 1000) -> AsyncIterator[World]:
    world = World(prefetch)
    jobs = [asyncio.create_task(world.renewal.run()), asyncio.create_task(world.reserves.run())]
    try:
        yield world
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


async def test_no_reserve_unless_the_cluster_says_so() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry()])
        await world.clock.advance(5)
        assert world.issuer.asked == [("e1", "x509")] and not world.store.reserves


async def test_a_reserve_is_served_only_after_the_svid_has_ended_unrenewed() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry()])
        world.reserves.ordered(int(RESERVE.total_seconds()))
        await world.clock.advance(5, turns=40)
        assert sorted(world.issuer.asked) == [("e1", "reserve"), ("e1", "x509")]
        assert world.served() == [START + timedelta(hours=1)]
        world.issuer.connected = False
        await world.clock.advance(3590, turns=3)
        assert world.served() == [START + timedelta(hours=1)] and not world.store.standing_in
        await world.clock.advance(10)
        assert world.store.standing_in == {"e1"}
        (end,) = world.served()
        assert START + RESERVE <= end <= START + RESERVE + timedelta(seconds=10)
        assert "trustfed_agent_reserve_svids_in_use 1" in world.registry.exposition().decode()
        world.issuer.connected = True
        world.renewal.connected()
        await world.clock.advance(2, turns=40)
        assert not world.store.standing_in and world.served()[0] < START + timedelta(hours=3)


async def test_a_reserve_ends_at_its_own_end() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry()])
        world.reserves.ordered(int(RESERVE.total_seconds()))
        await world.clock.advance(5, turns=40)
        world.issuer.connected = False
        world.clock.move(RESERVE.total_seconds() + 10)
        await world.clock.advance(60)
        assert world.served() == [] and not world.store.reserves and not world.store.standing_in


async def test_reserves_are_renewed_at_half_life_on_another_key() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry()])
        world.reserves.ordered(int(RESERVE.total_seconds()))
        await world.clock.advance(5, turns=40)
        first = world.store.reserves["e1"]
        world.clock.move(RESERVE.total_seconds() / 2)
        await world.clock.advance(120, turns=40)
        assert world.store.reserves["e1"].key != first.key
        assert world.issuer.asked.count(("e1", "reserve")) == 2


async def test_reserves_go_with_entry_ban_taint_and_order() -> None:
    async with a_world() as world:
        store = world.store

        async def again() -> None:
            store.put_entries([an_entry()])
            world.reserves.ordered(int(RESERVE.total_seconds()))
            world.renewal.connected()
            await world.clock.advance(5, turns=60)
            assert "e1" in store.reserves

        await again()
        store.put_entries((), ["e1"])
        assert not store.reserves
        await again()
        store.put_entries([an_entry(path="/other")])
        assert not store.reserves
        await again()
        world.issuer.connected = False
        world.reserves.reissue({"a1"})
        assert not store.reserves
        world.issuer.connected, world.issuer.authority = True, "a2"
        await again()
        world.reserves.ordered(0)
        assert not store.reserves
        await world.clock.advance(120)
        assert not store.reserves
        await again()
        store.ban("stolen")
        assert not store.reserves and not store.standing_in


async def test_a_reserve_with_a_name_that_was_taken_away_goes_at_once() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry(dns_names=("web.test", "db.internal"))])
        world.reserves.ordered(int(RESERVE.total_seconds()))
        await world.clock.advance(5, turns=40)
        assert "e1" in world.store.reserves
        world.store.put_entries([an_entry(dns_names=("web.test", "db.internal"), hint="another")])
        await world.clock.advance(0, turns=5)
        assert "e1" in world.store.reserves
        world.issuer.connected = False
        world.store.put_entries([an_entry(dns_names=("web.test",))])
        await world.clock.advance(0, turns=5)
        assert not world.store.reserves, "cut off right then, it would be served for days"
        world.issuer.connected = True
        world.reserves.ordered(int(RESERVE.total_seconds()))
        await world.clock.advance(70, turns=40)
        assert "e1" in world.store.reserves


async def test_a_reserve_out_of_the_cache_with_other_names_goes_too() -> None:
    async with a_world() as first:
        first.store.put_entries([an_entry(dns_names=("db.internal",)), an_entry("e2", "/other")])
        first.reserves.ordered(int(RESERVE.total_seconds()))
        await first.clock.advance(5, turns=40)
        kept = dict(first.store.reserves)
    assert set(kept) == {"e1", "e2"}
    async with a_world() as world:
        world.issuer.connected = False
        world.store.put_entries([an_entry(), an_entry("e2", "/other")])
        world.store.put_reserves(kept)
        await world.clock.advance(1, turns=10)
        assert set(world.store.reserves) == {"e2"}


async def test_a_shorter_order_replaces_reserves_that_live_longer() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry()])
        world.reserves.ordered(int(RESERVE.total_seconds()))
        await world.clock.advance(5, turns=40)
        world.reserves.ordered(4 * 86_400)
        await world.clock.advance(5, turns=40)
        assert world.issuer.asked.count(("e1", "reserve")) == 2


async def test_a_reserve_on_its_way_while_its_authority_is_tainted_is_not_kept() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry()])
        await world.clock.advance(1, turns=40)
        world.issuer.on_the_way = lambda: world.reserves.reissue(["a1"])
        world.reserves.ordered(int(RESERVE.total_seconds()))
        await world.clock.advance(5, turns=40)
        assert ("e1", "reserve") in world.issuer.asked and not world.store.reserves
        world.issuer.authority, world.issuer.on_the_way = "a2", lambda: None
        await world.clock.advance(60, turns=40)
        assert world.store.reserves["e1"].authority == "a2"


ids = st.lists(st.integers(0, 30).map(str), unique=True, max_size=20)


@given(ids, ids, st.dictionaries(st.integers(0, 30).map(str), st.integers(0, 1000)), st.integers(1, 25))
def test_what_processes_have_is_always_held_and_the_rest_up_to_the_limit(
    all_ids: list[str], matched: list[str], used: dict[str, int], limit: int
) -> None:
    entries = {id_: an_entry(id_, f"/w/{id_}", created_at_ms=int(id_) + 1) for id_ in all_ids}
    moments = {id_: START + timedelta(seconds=seconds) for id_, seconds in used.items()}
    found = set(chosen(entries, set(matched), moments, limit))
    present = set(matched) & set(entries)
    assert present <= found <= set(entries)
    assert len(found) == min(len(entries), max(limit, len(present)))
    left = set(entries) - found
    for id_ in left:
        for kept in found - present:
            assert moments.get(kept, START - timedelta(1)) >= moments.get(id_, START - timedelta(1))


async def test_prefetch_is_bounded_and_what_a_process_comes_for_is_fetched_then() -> None:
    async with a_world(prefetch=3) as world:
        world.store.used.update({"e7": START, "e8": START - timedelta(hours=1)})
        world.store.put_entries([an_entry(f"e{n}", f"/w/{n}", created_at_ms=n + 1) for n in range(10)])
        await world.clock.advance(1, turns=30)
        assert world.issuer.batches == [["e7", "e8", "e0"]]
        assert set(world.store.svids) == {"e7", "e8", "e0"}
        world.store.use(("e5",), world.clock.now())
        await world.clock.advance(0.1, turns=30)
        assert "e5" in world.store.svids
        # What is not wanted any more lives until its end, and is not renewed.
        assert set(world.renewal.slots) == {"e5", "e7", "e8"} and "e0" in world.store.svids
        await world.clock.advance(3700, turns=30)
        assert set(world.store.svids) == {"e5", "e7", "e8"}


async def test_a_clock_that_was_ahead_for_a_while_stops_no_renewal() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry()])
        await world.clock.advance(1, turns=30)
        right = world.clock.now()
        rewound = []
        world.renewal._on_rewound = lambda: rewound.append(world.clock.now())
        world.clock.set_wall(right + timedelta(days=3))
        world.issuer.clock = ManualClock(right)  # the cluster's own is right
        await world.clock.advance(31, turns=30)
        assert not world.store.svids and world.renewal.slots["e1"].tries
        world.clock.set_wall(right + timedelta(seconds=32))
        await world.clock.advance(62, turns=30)
        assert "e1" in world.store.svids and len(rewound) == 1


async def test_what_ends_with_its_entry_is_not_renewed_and_its_end_is_no_fault() -> None:
    async with a_world() as world:
        ends = START + timedelta(minutes=90, milliseconds=700)
        world.store.put_entries([an_entry(expires_at=ends)])
        world.reserves.ordered(int(RESERVE.total_seconds()))
        await world.clock.advance(5, turns=40)
        assert sorted(world.issuer.asked) == [("e1", "reserve"), ("e1", "x509")]
        await world.clock.advance(3600, turns=60)
        # At half of its hour it was renewed until the entry's end; the reserve had that end from the start.
        assert world.issuer.asked[2:] == [("e1", "x509")]
        assert world.served() == [START + timedelta(minutes=90)]
        for _ in range(60):
            await world.clock.advance(30, turns=20)
        assert len(world.issuer.asked) == 3 and world.store.entries == {} and world.renewal.slots == {}
        shown = world.registry.exposition().decode()
        assert "trustfed_agent_x509_svids_expired_total 0" in shown


async def test_an_entry_that_is_given_another_end_is_renewed_for_it() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry(expires_at=START + timedelta(minutes=30))])
        world.reserves.ordered(int(RESERVE.total_seconds()))
        await world.clock.advance(5, turns=40)
        await world.clock.advance(1200, turns=40)
        assert len(world.issuer.asked) == 2
        world.store.put_entries([an_entry(expires_at=START + timedelta(minutes=200))])  # longer
        await world.clock.advance(5, turns=60)
        assert sorted(world.issuer.asked[2:]) == [("e1", "reserve"), ("e1", "x509")]
        assert world.served()[0] > START + timedelta(minutes=60)
        # Shorter: at half of what is left.
        world.store.put_entries([an_entry(expires_at=START + timedelta(minutes=40))])
        await world.clock.advance(660, turns=60)
        assert sorted(world.issuer.asked[4:]) == [("e1", "reserve"), ("e1", "x509")]
        assert world.served() == [START + timedelta(minutes=40)]
        world.store.put_entries([an_entry()])  # for ever: at half life, like all
        await world.clock.advance(5, turns=60)
        assert world.served() == [START + timedelta(minutes=40)]
        await world.clock.advance(400, turns=60)
        assert world.served()[0] > START + timedelta(minutes=60)


async def test_a_cluster_that_knows_a_later_end_is_not_asked_for_ever() -> None:
    async with a_world() as world:
        world.issuer.capped = False  # its answers outlive the entry as the agent knows it
        world.store.put_entries([an_entry(expires_at=START + timedelta(minutes=20))])
        world.reserves.ordered(int(RESERVE.total_seconds()))
        for _ in range(119):
            await world.clock.advance(10, turns=40)
        # At half of what is left each time, until it hears of the later end.
        assert world.store.entries and 4 <= len(world.issuer.asked) <= 26


async def test_an_svid_out_of_the_cache_that_outlives_its_entry_is_replaced() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry()])
        await world.clock.advance(5, turns=40)
        svids = dict(world.store.svids)
    async with a_world() as again:
        again.clock.move(600)
        again.store.put_entries([an_entry(expires_at=again.clock.now() + timedelta(minutes=20))])
        again.store.put_svids(svids)
        await again.clock.advance(360, turns=60)
        assert again.served() == [START + timedelta(minutes=30)]
