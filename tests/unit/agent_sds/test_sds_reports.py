"""Reports on their way to the cluster: in batches, over reconnections, within bounds."""

from __future__ import annotations

import asyncio
from typing import Any

from agent.sds.reports import GATHER_SECONDS, MAX_BATCH, MAX_SHOWN, MAX_WAITING, RESEND_SECONDS, Reports
from tests.fakes.clocks import ManualClock
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.metrics import Registry

ONE = 1, 1


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.reports = Reports(self.clock, Registry())

    def loaded(self, version: str) -> None:
        self.reports.loaded(ONE, "proxy", [("e1", "default", "0a", version)])

    async def next(self) -> pb.ProxyReport:
        task = asyncio.create_task(self.reports.next())
        await self.clock.advance(GATHER_SECONDS)
        async with asyncio.timeout(20):
            return (await task).proxies


def versions(report: pb.ProxyReport) -> list[str]:
    return [one.version for one in report.loaded]


async def test_they_go_in_batches_and_in_order() -> None:
    world = World()
    for number in range(MAX_BATCH + 5):
        world.loaded(str(number))
    assert versions(await world.next()) == [str(number) for number in range(MAX_BATCH)]
    assert versions(await world.next()) == [str(MAX_BATCH + number) for number in range(5)]
    waiting = asyncio.create_task(world.reports.next())
    await world.clock.advance(60)
    assert not waiting.done()
    world.reports.refused(ONE, "proxy", [("", "ROOTCA", "", "r1")], "why")
    await world.clock.advance(1)
    (refused,) = (await waiting).proxies.refused
    assert (refused.resource, refused.error, refused.proxy) == ("ROOTCA", "why", "proxy")


async def test_what_a_broken_stream_may_have_lost_goes_again_and_what_is_older_does_not() -> None:
    world = World()
    world.loaded("1")
    await world.next()
    await world.clock.advance(RESEND_SECONDS + 1)
    world.loaded("2")
    await world.next()
    world.loaded("3")
    world.reports.begin()
    assert versions(await world.next()) == ["2", "3"]


async def test_a_cluster_that_is_away_costs_no_more_than_so_many() -> None:
    world = World()
    for number in range(MAX_WAITING + 7):
        world.loaded(str(number))
    status = world.reports.status()
    assert (status["waiting"], status["dropped"], status["loaded"]) == (MAX_WAITING, 7, MAX_WAITING + 7)
    assert versions(await world.next())[0] == "7"  # the newest are kept


async def test_what_is_refused_is_shown_until_it_is_loaded_and_not_without_end() -> None:
    world = World()
    for number in range(MAX_SHOWN + 3):
        world.reports.refused((7, number), f"proxy-{number}", [("e1", "default", "0a", "v")], "no")
    shown = world.reports.status()["refusing"]
    assert isinstance(shown, list) and len(shown) == MAX_SHOWN and shown[0]["proxy"] == f"proxy-{MAX_SHOWN + 2}"
    world.reports.loaded((7, MAX_SHOWN + 2), f"proxy-{MAX_SHOWN + 2}", [("e1", "default", "0a", "w")])
    shown = world.reports.status()["refusing"]
    assert isinstance(shown, list) and len(shown) == MAX_SHOWN - 1


async def test_an_alarm_is_of_one_stream_and_no_other_process_ends_it_or_pushes_it_out() -> None:
    world = World()
    world.reports.refused(ONE, "proxy", [("e1", "default", "0a", "v"), ("", "ROOTCA", "", "v")], "no")
    for other in ((9, 1), (1, 2)):  # says that it is called the same
        world.reports.loaded(other, "proxy", [("e1", "default", "0a", "v"), ("", "ROOTCA", "", "v")])
    world.reports.loaded(ONE, "proxy", [("e2", "default", "0b", "v")])
    for number in range(2 * MAX_SHOWN):
        world.reports.refused((9, number), "proxy", [("e1", "default", "0a", "v")], "noise")
    world.reports.ended((9, 1))
    alarms: Any = world.reports.status()["refusing"]
    assert [one["resource"] for one in alarms if one["error"] == "no"] == ["ROOTCA", "default"]
    world.reports.loaded(ONE, "proxy", [("e1", "default", "0a", "w")])
    world.reports.ended(ONE)
    alarms = world.reports.status()["refusing"]
    assert {one["error"] for one in alarms} == {"noise"}
