"""Gateways are judged by TCP connections, damped, and never to the last one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest
import pytest_asyncio

from tests.unit.cluster_mesh.probing_house import ProbingHouse, export, gateway
from trustfed.cluster.mesh.courses import (
    LEAVES_APART,
    LEAVES_AT_ONCE,
    WEIGHTS_AT_ONCE,
    Courses,
    Place,
    groups_of,
    news,
)
from trustfed.cluster.mesh.events import GatewayJudged
from trustfed.cluster.mesh.prober import SocketProber
from trustfed.cluster.mesh.probing import AT_ONCE, Probing
from trustfed.errors import Denied, Unavailable
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach

EAST, NORTH = "east.test", "north.test"
A, B, C = "203.0.113.1", "203.0.113.2", "203.0.113.3"


@pytest_asyncio.fixture
async def house() -> AsyncIterator[ProbingHouse]:
    made = await ProbingHouse.make()
    await made.told(EAST, gateway("a", A), gateway("b", B), export(EAST))
    yield made
    await made.close()


async def test_only_gateways_of_exporters_that_are_imported_are_asked(house: ProbingHouse) -> None:
    await house.rounds()
    assert sorted(house.prober.connected) == [A, B]
    await house.gone(EAST, "gateway", "b")
    house.prober.connected.clear()
    await house.rounds()
    assert house.prober.connected == [A]


async def test_a_gateway_that_answers_like_the_others_makes_no_event(house: ProbingHouse) -> None:
    await house.rounds(50)
    assert await house.decisions() == []
    assert [(one["gateway"], one["up"], one["rtt_us"]) for one in house.probing.status()] == [
        ("a", True, 10_000),
        ("b", True, 10_000),
    ]


async def test_a_dead_gateway_leaves_once_and_returns_later(house: ProbingHouse) -> None:
    house.prober.round_trips[B] = None
    await house.rounds(2)
    assert house.judged() == {}
    await house.rounds(20)
    assert house.judged() == {"b": (False, 100)}
    house.prober.round_trips[B] = 0.01
    await house.rounds(3)
    assert house.judged() == {"b": (True, 100)}
    assert [body["up"] for body in await house.decisions()] == [False, True]


async def test_the_last_gateway_never_leaves_by_probe(house: ProbingHouse) -> None:
    house.prober.round_trips[B] = None
    await house.rounds(3)
    house.prober.round_trips[A] = None
    await house.rounds(50)
    assert house.judged() == {"b": (False, 100)}
    (shown,) = [one for one in house.probing.status() if one["gateway"] == "a"]
    assert (shown["up"], shown["answers"], shown["last_way"]) == (True, False, True)


async def test_where_all_fail_at_once_none_leaves(house: ProbingHouse) -> None:
    """It is this side that lost its network; when it is back nothing has to be waited for."""
    house.prober.round_trips.update({A: None, B: None})
    await house.rounds(100)
    assert await house.decisions() == []


async def test_one_that_is_out_returns_at_once_when_the_last_way_fails(house: ProbingHouse) -> None:
    house.prober.round_trips[B] = None
    await house.rounds(4)
    house.prober.round_trips.update({A: None, B: 0.01})
    await house.rounds(3, apart=1)
    assert house.judged()["b"] == (True, 100)
    await house.rounds(3, apart=1)
    assert house.judged()["a"] == (False, 100)


async def test_when_the_one_that_is_up_is_withdrawn_the_others_come_back(house: ProbingHouse) -> None:
    house.prober.round_trips[B] = None
    await house.rounds(4)
    await house.gone(EAST, "gateway", "a")
    await house.rounds()
    assert house.judged() == {"b": (True, 100)}


async def test_other_exporters_gateways_are_no_alternative(house: ProbingHouse) -> None:
    await house.told(NORTH, gateway("c", C))
    house.prober.round_trips[C] = None
    await house.rounds(20)
    assert house.judged() == {}


async def test_flapping_is_damped(house: ProbingHouse) -> None:
    for _ in range(60):
        house.prober.round_trips[B] = None
        await house.rounds(3)
        house.prober.round_trips[B] = 0.01
        await house.rounds(3)
    assert len(await house.decisions()) <= 20  # of 120 turns in half an hour


async def test_weights_follow_the_median_and_only_when_it_stays(house: ProbingHouse) -> None:
    house.prober.round_trips.update({A: 0.010, B: 0.025})
    await house.rounds(7)
    assert house.judged() == {}
    await house.rounds(10)
    assert house.judged() == {"b": (True, 50)}
    (decided,) = await house.decisions()
    assert decided["rtt_us"] == 25_000
    house.prober.round_trips[B] = 0.9  # an outlier or two
    await house.rounds(2)
    house.prober.round_trips[B] = 0.025
    await house.rounds(20)
    assert len(await house.decisions()) == 1


async def test_a_gateway_whose_round_trips_swing_makes_few_events(house: ProbingHouse) -> None:
    for number in range(60):
        house.prober.round_trips[B] = 0.100 if number % 2 else 0.010
        await house.rounds(15)
    # 900 rounds of 5 s: at once, and then one in ten minutes.
    assert WEIGHTS_AT_ONCE < len(await house.decisions()) <= WEIGHTS_AT_ONCE + 8


async def test_domains_that_offer_one_host_are_weighed_together(house: ProbingHouse) -> None:
    await house.told(NORTH, gateway("c", C), export(NORTH))
    house.prober.round_trips.update({A: 0.010, B: 0.010, C: 0.145})
    await house.rounds(20)
    assert house.judged() == {"c": (True, 10)}


async def test_a_domain_by_itself_is_weighed_by_itself(house: ProbingHouse) -> None:
    await house.told(NORTH, gateway("c", C), export(NORTH, "orders"))
    house.prober.round_trips.update({A: 0.010, B: 0.010, C: 0.145})
    await house.rounds(20)
    assert house.judged() == {}


def test_groups_are_joined_through_any_host() -> None:
    pairs = [("a", "x"), ("b", "y"), ("c", "x"), ("c", "y"), ("d", "z")]
    assert groups_of(pairs) == [["a", "b", "c"], ["d"]]


async def test_a_restart_continues_from_the_journal(house: ProbingHouse) -> None:
    house.prober.round_trips.update({A: 0.010, B: 0.025})
    await house.rounds(20)
    house.prober.round_trips[B] = None
    await house.rounds(4)
    assert house.judged() == {"b": (False, 50)}
    again = await house.again()
    try:
        await again.rounds(30)
        assert len(await again.decisions()) == 2
        again.prober.round_trips[B] = 0.025
        await again.rounds(4)
        assert again.judged() == {"b": (True, 50)}
    finally:
        await again.close()


async def test_a_gateway_that_moved_begins_anew(house: ProbingHouse) -> None:
    house.prober.round_trips[B] = None
    await house.rounds(4)
    await house.told(EAST, gateway("b", C))
    await house.rounds()
    assert house.judged() == {"b": (True, 100)}


async def test_a_journal_that_fails_is_asked_again_in_the_next_round(house: ProbingHouse) -> None:
    house.prober.round_trips[B] = None
    await house.rounds(2)
    house.journal.fail(Unavailable("the disk is full"))
    with pytest.raises(Unavailable):
        await house.rounds()
    assert house.judged() == {}
    await house.rounds()
    assert house.judged() == {"b": (False, 100)}


async def test_many_gateways_are_asked_a_bounded_number_at_a_time() -> None:
    made = await ProbingHouse.make()
    try:
        await made.told(EAST, *(gateway(f"g{number}", A, 15443 + number) for number in range(300)))
        await made.rounds()
        assert len(made.prober.connected) == 300
        assert made.prober.most_open <= AT_ONCE
    finally:
        await made.close()


async def test_rounds_are_spread_over_the_interval_and_go_on(house: ProbingHouse) -> None:
    probing = Probing(house.fold, house.prober, 5.0, 2.0, house.clock, Registry())
    job = asyncio.create_task(probing.run())
    await house.clock.advance(60)
    job.cancel()
    assert 14 <= len(house.prober.connected) <= 40  # two gateways, rounds of 5 s and what they last


async def test_metrics_name_the_gateways_there_are(house: ProbingHouse) -> None:
    await house.rounds(4)
    text = house.registry.exposition().decode()
    assert 'trustfed_mesh_gateway_up{exporter="east.test",gateway="a"} 1' in text
    assert 'trustfed_mesh_gateway_rtt_seconds{exporter="east.test",gateway="b"} 0.01' in text
    await house.gone(EAST, "gateway", "b")
    await house.rounds()
    assert 'gateway="b"' not in house.registry.exposition().decode()


async def test_a_real_connection_is_timed_and_a_closed_port_says_why() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    prober = SocketProber(Reach((ip_network("127.0.0.0/8"),)))
    assert 0 < await prober.connect("127.0.0.1", port, 10) < 10
    server.close()
    await server.wait_closed()
    with pytest.raises(Unavailable, match=f"port {port} does not take a connection"):
        await prober.connect("127.0.0.1", port, 10)


async def test_addresses_that_no_gateway_has_are_never_dialled() -> None:
    for address in ("127.0.0.1", "169.254.169.254", "224.0.0.1", "::1", "0.0.0.0"):
        with pytest.raises(Denied):
            await SocketProber(Reach()).connect(address, 15443, 1)


def test_a_domain_whose_gateways_fail_in_turn_does_not_fill_the_journal() -> None:
    courses, now, seen, events = Courses(), 0.0, dict[Place, GatewayJudged](), 0
    courses.reconcile({(EAST, f"g{at}"): (A, 15443 + at) for at in range(16)}, {}, now)
    for number in range(6 * 720):  # six hours; whoever is out returns for want of another, and then the others leave
        now += 5
        for at, course in enumerate(courses.all()):
            course.took(0.01 if at % 2 != number // 4 % 2 else None)
        for event in news(courses.conclude([[EAST]], now), seen, datetime.now(UTC)):
            seen[event.exporter, event.name] = event
            events += 1
        assert any(course.health.up for course in courses.all())
    assert events <= 2 * (LEAVES_AT_ONCE + now / LEAVES_APART)
