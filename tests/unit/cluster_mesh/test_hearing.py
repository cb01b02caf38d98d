"""What a cluster believes of others' routes: a hub in wrong hands holds them back, and can do nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from tests.fakes.mesh_world import export, gateway, import_
from tests.unit.cluster.cluster_parts import settle
from tests.unit.cluster_mesh.hub_house import EAST, HubHouse
from tests.unit.hub.newcomer import Newcomer
from trustfed.cluster import events as e
from trustfed.cluster.mesh import heard, hearing
from trustfed.cluster.mesh import state as mesh_state
from trustfed.cluster.state import ClusterState
from trustfed.errors import Unavailable
from trustfed.federation.mesh_digest import digest
from trustfed.journal.table import decode_state, encode_state
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.budget import Budget

GATEWAY, EXPORT = "gateway/gw-1", "export/payments.shop.svc.cluster.local"


@pytest_asyncio.fixture
async def house() -> AsyncIterator[HubHouse]:
    made = await HubHouse.make()
    await made.put(import_(EAST))
    yield made
    await made.close()


async def test_routes_are_recorded_in_one_go_and_told_again_make_no_event(house: HubHouse) -> None:
    routes = [await house.route(gateway(), 1), await house.route(export(EAST), 2)]
    before = house.parts.fold.position
    await house.hear(*routes)
    assert house.held() == {GATEWAY: 1, EXPORT: 2}
    assert house.parts.fold.position == before + 2
    await house.hear(*routes)
    assert house.parts.fold.position == before + 2
    assert not house.news.refused
    assert decode_state(encode_state(house.parts.state), ClusterState) == house.parts.state


async def test_the_hub_can_plant_no_gateway_and_no_identity(house: HubHouse) -> None:
    await house.hear(await house.route(gateway(), 1))
    evil = await Newcomer.make(EAST)  # the hub names a key of its own
    await house.hear(
        await house.route(gateway(address="203.0.113.66"), 9, evil), await house.route(export(EAST, "stock"), 9, evil)
    )
    assert house.held() == {GATEWAY: 1}
    assert "did not make" in house.news.refused[f"gateway gw-1 of {EAST}"]


async def test_a_route_says_what_it_is_carried_as(house: HubHouse) -> None:
    moved = await house.route(gateway(), 1)
    moved.name = "gw-2"
    as_export = await house.route(gateway("gw-3"), 2)
    as_export.kind = "export"
    as_import = await house.route(import_("td-a", "x"), 3)
    other = await house.route(gateway("gw-4"), 4)
    other.exporter = "td-other"
    await house.hear(moved, as_export, as_import, other)
    assert house.held() == {}
    assert len(house.news.refused) == 4


async def test_no_route_goes_back_also_not_one_that_was_gone(house: HubHouse) -> None:
    old, new = await house.route(gateway(), 5), await house.route(gateway(address="203.0.113.1"), 6)
    await house.hear(new)
    await house.hear(old)
    assert house.held() == {GATEWAY: 6}
    await house.hear(remove=[pb.RouteName(exporter=EAST, kind="gateway", name="gw-1")])
    assert house.held() == {}
    await house.hear(old)
    assert house.held() == {}
    assert "older than 6" in house.news.refused[f"gateway gw-1 of {EAST}"]
    await house.hear(new)
    assert house.held() == {GATEWAY: 6}


async def test_what_was_gone_is_remembered_within_bounds(house: HubHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_state, "KEPT_GONE", 5)
    for number in range(12):
        await house.hear(await house.route(gateway(f"g{number}"), number + 1))
        await house.hear(remove=[pb.RouteName(exporter=EAST, kind="gateway", name=f"g{number}")])
    assert len(house.parts.state.mesh.gone) <= 5


async def test_two_words_under_one_sequence_are_refused(house: HubHouse) -> None:
    await house.hear(await house.route(gateway(), 5))
    await house.hear(await house.route(gateway(address="203.0.113.1"), 5))
    assert b"198.51.100.7" in house.parts.state.mesh.routes[f"{EAST}/{GATEWAY}"].item
    assert "two things" in house.news.refused[f"gateway gw-1 of {EAST}"]


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "224.0.0.1", "fe80::1"])
async def test_a_signed_gateway_at_a_bad_address_is_refused_and_the_old_one_stays(
    house: HubHouse, address: str
) -> None:
    await house.hear(await house.route(gateway(), 1))
    await house.hear(await house.route(gateway(address=address), 2), await house.route(export(EAST), 3))
    assert house.held() == {GATEWAY: 1, EXPORT: 3}
    assert house.news.refused


async def test_only_what_is_imported_is_taken(house: HubHouse) -> None:
    await house.hear(await house.route(export(EAST, "other", "bank"), 1))
    assert house.held() == {}
    assert "not imported" in next(iter(house.news.refused.values()))
    await house.put(import_(EAST, "more", group="open"))
    await house.hear(await house.route(export(EAST, "other", "bank", groups=("open",)), 2))
    assert house.held() == {"export/other.bank.svc.cluster.local": 2}


@pytest.mark.parametrize("lacks", ["importer", "exporter"])
async def test_both_must_have_agreed(lacks: str) -> None:
    house = await HubHouse.make()
    await house.put(import_(EAST))
    await house.parts.record(e.GrantEnded("in" if lacks == "importer" else "out", "hub", "over", house.parts.now))
    await house.hear(await house.route(gateway(), 1))
    assert house.held() == {}
    assert "no accepted grant in both directions" in next(iter(house.news.refused.values()))
    await house.close()


async def _running(house: HubHouse) -> list[asyncio.Task[None]]:
    async def follow() -> None:
        async for _, event in house.parts.fold.subscribe(house.parts.fold.position):
            house.hearing.on_event(event)

    jobs = [asyncio.create_task(house.hearing.run()), asyncio.create_task(follow())]
    await settle()
    return jobs


async def _stop(jobs: list[asyncio.Task[None]]) -> None:
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)


@pytest.mark.parametrize("which", ["in", "out"])
async def test_the_end_of_either_grant_ends_its_routes(house: HubHouse, which: str) -> None:
    jobs = await _running(house)
    await house.hear(await house.route(gateway(), 1), await house.route(export(EAST), 2))
    await house.parts.record(e.GrantEnded(which, "uid:1", "over", house.parts.now))
    await settle(60)
    assert house.held() == {}
    await _stop(jobs)


async def test_another_pinned_key_ends_the_routes_of_the_one_before(house: HubHouse) -> None:
    jobs = await _running(house)
    await house.hear(await house.route(gateway(), 70))
    anew = await Newcomer.make(EAST)
    await house.parts.record(e.GrantRepinned("in", anew.key.spki))
    await settle(60)
    assert house.held() == {}
    await house.hear(await house.route(gateway(), 3, anew))  # numbered anew under the new key
    assert house.held() == {GATEWAY: 3}
    await _stop(jobs)


async def test_what_the_whole_of_an_exporter_does_not_name_is_gone(house: HubHouse) -> None:
    await house.hear(await house.route(gateway(), 1), await house.route(gateway("gw-2"), 2))
    await house.hear(await house.route(export(EAST), 3), whole_of=EAST)
    assert len(house.held()) == 3  # more may come
    await house.hear(await house.route(gateway("gw-2"), 2), whole_of=EAST, last=True)
    assert house.held() == {"gateway/gw-2": 2, EXPORT: 3}
    await house.hear(whole_of=EAST, last=True)
    assert house.held() == {}


async def test_half_of_a_whole_that_never_ended_ends_nothing(house: HubHouse) -> None:
    await house.hear(await house.route(gateway(), 1))
    await house.hear(whole_of=EAST)
    house.hearing.begin(pb.HubHello())  # another stream
    await house.hear(await house.route(gateway(), 1), whole_of=EAST, last=True)
    assert house.held() == {GATEWAY: 1}


async def test_a_hello_says_what_is_held_of_each_exporter(house: HubHouse) -> None:
    await house.hear(await house.route(gateway(), 1), await house.route(export(EAST), 2))
    hello = pb.ClusterHello()
    house.hearing.greet(hello)
    (said,) = hello.routes
    assert (said.exporter, said.digest) == (EAST, digest({GATEWAY: "1", EXPORT: "2"}))


async def test_a_flood_of_one_exporter_waits_and_ends_with_the_newest(house: HubHouse) -> None:
    jobs = await _running(house)
    house.hearing._budget = Budget(10, 0.5)
    before = house.parts.fold.position
    for number in range(1, 51):
        await house.hear(await house.route(gateway(address=f"198.51.100.{number}"), number))
    assert house.parts.fold.position - before == 10
    for _ in range(10):
        await house.parts.clock.advance(5, turns=30)
    assert house.held() == {GATEWAY: 50}
    assert house.parts.fold.position - before == 11
    await _stop(jobs)


async def test_what_is_gone_does_not_wait(house: HubHouse) -> None:
    house.hearing._budget = Budget(1, 0.001)
    await house.hear(await house.route(gateway(), 1))
    await house.hear(await house.route(gateway(address="203.0.113.1"), 2))
    await house.hear(remove=[pb.RouteName(exporter=EAST, kind="gateway", name="gw-1")])
    assert house.held() == {}
    assert house.hearing.status()["waiting"] == 0


async def test_there_is_room_for_so_many(house: HubHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heard, "MAX_ROUTES", 3)
    await house.hear(*[await house.route(gateway(f"g{n}"), n + 1) for n in range(5)])
    assert len(house.held()) == 3
    await house.hear(await house.route(gateway("g0", "203.0.113.1"), 9))
    assert house.held()["gateway/g0"] == 9


async def test_while_the_hub_is_away_the_last_routes_stay_and_their_age_is_known(house: HubHouse) -> None:
    await house.hear(await house.route(gateway(), 1))
    house.hearing.connection(True)
    assert house.hearing.heard_at == house.parts.now
    left = house.parts.now
    house.hearing.connection(False)
    house.parts.clock.move(timedelta(days=9).total_seconds())
    assert house.hearing.heard_at == left
    assert house.held() == {GATEWAY: 1}


async def test_what_the_hub_refuses_of_our_own_is_kept_for_who_asks(house: HubHouse) -> None:
    def said(why: str) -> pb.FromHub:
        item = pb.MeshRefusal(kind="export", name="a.b.svc.cluster.local", sequence=1, why=why)
        return pb.FromHub(mesh_refused=pb.MeshRefused(items=[item]))

    await house.news.take(said("another owner exports it"))
    assert house.hearing.refused == {("export", "a.b.svc.cluster.local"): "another owner exports it"}
    await house.news.take(said(""))
    assert house.hearing.refused == {}


async def test_junk_from_the_hub_harms_nothing(house: HubHouse) -> None:
    junk = [b"", b"{}", b"\x00" * 70_000, b"[" * 5_000]
    routes = [pb.Route(exporter=EAST, kind="gateway", name=f"g{n}", statement=data) for n, data in enumerate(junk)]
    routes += [pb.Route(), pb.Route(exporter="a/b", kind="x/y", name="\n" * 400)]
    await house.hear(*routes, await house.route(gateway(), 1), remove=[pb.RouteName(exporter="x", kind="y", name="/z")])
    assert house.held() == {GATEWAY: 1}


async def test_what_waits_is_bounded(house: HubHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house.hearing._budget = Budget(1, 0.001)
    monkeypatch.setattr(hearing, "MAX_WAITING", 3)
    await house.hear(*[await house.route(gateway(f"g{n}"), n + 1) for n in range(9)])
    assert house.hearing.status()["waiting"] == 3
    assert "no more can wait" in house.news.refused[f"gateway g8 of {EAST}"]
    monkeypatch.setattr(hearing, "MAX_WAITING_BYTES", 100)
    await house.hear(await house.route(gateway("g1", "203.0.113.1"), 20))
    assert house.hearing.status()["waiting"] == 2  # the older one is not what should come


async def test_a_whole_without_an_end_is_cut_off(house: HubHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.hear(await house.route(gateway(), 1))
    monkeypatch.setattr(heard, "MAX_ROUTES", 20)
    for number in range(30):
        junk = [pb.Route(exporter=EAST, kind="gateway", name=f"g{number}-{n}") for n in range(5)]
        await house.hear(*junk, whole_of=EAST)
        assert sum(map(len, house.hearing._whole.values())) <= 20
    assert house.held() == {GATEWAY: 1}


async def test_what_waited_is_not_recorded_after_it_was_taken_back_while_the_hub_was_away(house: HubHouse) -> None:
    house.hearing._budget = Budget(2, 0.1)
    await house.hear(await house.route(gateway(), 1), await house.route(export(EAST), 2))
    await house.hear(await house.route(export(EAST, "late"), 3))
    hello = pb.ClusterHello()
    house.hearing.greet(hello)  # both sides hold the same two: the hub sends nothing
    house.hearing.begin(pb.HubHello())
    house.parts.clock.move(100)
    await house.hearing._flush()
    assert house.held() == {GATEWAY: 1, EXPORT: 2}


async def test_what_waited_is_not_recorded_after_a_removal_that_came_meanwhile(house: HubHouse) -> None:
    house.hearing._budget = Budget(2, 0.1)
    await house.hear(await house.route(gateway(), 1), await house.route(export(EAST), 2))
    await house.hear(await house.route(export(EAST, "late"), 3))
    house.parts.clock.move(100)
    flush = asyncio.create_task(house.hearing._flush())
    await asyncio.sleep(0)
    await house.hear(remove=[pb.RouteName(exporter=EAST, kind="export", name="late.shop.svc.cluster.local")])
    await flush
    assert house.held() == {GATEWAY: 1, EXPORT: 2}


async def test_what_waited_waits_on_when_the_journal_cannot_take_it(house: HubHouse) -> None:
    house.hearing._budget = Budget(1, 0.1)
    await house.hear(await house.route(gateway(), 1))
    await house.hear(await house.route(export(EAST), 2))
    house.parts.clock.move(100)
    with pytest.MonkeyPatch.context() as patch:

        async def away(*args: object, **more: object) -> None:
            raise Unavailable("the disk is full")

        patch.setattr(house.parts.fold, "execute", away)
        with pytest.raises(Unavailable):
            await house.hearing._flush()
    house.parts.clock.move(100)
    await house.hearing._flush()
    assert house.held() == {GATEWAY: 1, EXPORT: 2}


async def test_routes_under_a_key_that_is_pinned_no_more_are_asked_for_anew(house: HubHouse) -> None:
    await house.hear(await house.route(gateway(), 1), await house.route(export(EAST), 2))
    anew = await Newcomer.make(EAST)
    await house.parts.record(e.GrantRepinned("in", anew.key.spki))
    hello = pb.ClusterHello()
    house.hearing.greet(hello)  # before they are let go of
    assert not hello.routes


async def test_names_that_can_be_none_take_no_memory(house: HubHouse) -> None:
    long = "x" * 100_000
    for number in range(10):
        await house.hear(whole_of=f"{number}{long}")
        await house.hear(pb.Route(exporter=EAST, kind="export", name=f"{number}{long}"), whole_of=EAST)
    assert sum(len(part) for names in house.hearing._whole.values() for name in names for part in name) < 100_000
    assert sum(map(len, house.hearing._whole)) < 100_000
