"""Facts on their way: one call at a time, resumed, patient, whatever the cluster does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agent.evidence.notes import Notes
from agent.evidence.sender import LONGEST_WAIT, RARELY_SECONDS, Sender
from tests.fakes.clocks import ManualClock
from tests.fakes.disk import Platter
from tests.fakes.evidence_intake import EvidenceIntake
from tests.unit.agent_evidence.spooled import facts, moments, numbers, spool
from trustfed.errors import Unavailable
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.metrics import Registry


class Road:
    """A spool, its sender, and a cluster behind a link that can be cut."""

    def __init__(self, platter: Platter | None = None) -> None:
        self.clock, self.intake, self.connected = ManualClock(), EvidenceIntake(), True
        self.spool = spool(platter or Platter())
        registry, when = Registry(), moments(self.clock)
        self.notes = Notes(self.spool, when, self.clock, registry)
        self.sender = Sender(self.spool, self.notes, self, when, self.clock, lambda: 0.999, registry)
        self.calls: list[float] = []
        self.under_way = 0
        self.task = asyncio.create_task(self.sender.run())

    async def report(self, request: pb.NodeReport) -> pb.NodeReportAnswer | None:
        self.calls.append(self.clock.monotonic())
        assert not self.under_way, "one call at a time"
        self.under_way += 1
        try:
            return None if self.intake.older else await self.intake.report(request)
        except Exception as error:
            raise Unavailable(str(error)) from None
        finally:
            self.under_way -= 1

    def put(self, start: int, end: int) -> None:
        self.spool.append(facts(start, end))
        self.notes.written.set()

    async def until(self, met: Callable[[], Any], step: float = 0.25) -> None:
        async with asyncio.timeout(20):
            while not met():
                # While the spool is at work in its thread, time stands still.
                if self.clock.sleeping:
                    await self.clock.advance(step)
                await asyncio.sleep(0.001)


@pytest.fixture
async def road() -> Any:
    made = Road()
    yield made
    made.task.cancel()


async def test_what_happens_within_half_a_second_goes_together_and_large_heaps_in_runs(road: Road) -> None:
    road.put(1, 2)
    await road.clock.advance(0.3)
    road.put(2, 4)
    await road.until(lambda: road.sender.sent_total == 3)
    (report,) = road.intake.reports
    assert report.waiting == 0 and report.boot and report.elapsed_ms == int(road.calls[0] * 1000)
    road.put(4, 1704)
    await road.until(lambda: road.sender.sent_total == 1703)
    assert numbers(road.intake.facts) == list(range(1, 1704))
    waiting = [one.waiting for one in road.intake.reports[1:]]
    assert waiting == sorted(waiting, reverse=True) and waiting[-1] == 0 and len(waiting) == 4


async def test_a_long_partition_is_made_good_in_order_and_once(road: Road) -> None:
    road.connected = False
    for start in range(1, 3001, 100):
        road.put(start, start + 100)
        await road.clock.advance(600)
    assert not road.calls and road.spool.waiting == 3000
    road.connected = True
    road.sender.connected()
    await road.until(lambda: road.spool.waiting == 0)
    assert numbers(road.intake.facts) == list(range(1, 3001)) and not road.intake.clones


async def test_answers_that_are_lost_repeat_nothing_and_skip_nothing(road: Road) -> None:
    road.intake.deaf = 5
    for start in range(1, 301, 30):
        road.put(start, start + 30)
        await road.clock.advance(0.6)
        await asyncio.sleep(0.002)
    await road.until(lambda: road.spool.waiting == 0)
    assert numbers(road.intake.facts) == list(range(1, 301)) and not road.intake.clones


async def test_failures_are_retried_with_a_growing_pause_and_a_new_connection_ends_it(road: Road) -> None:
    def fail(_: pb.NodeReport) -> None:
        raise Unavailable("full")

    road.intake.faults = [fail] * 12
    road.put(1, 2)
    await road.until(lambda: len(road.calls) == 10)
    pauses = [after - before for before, after in zip(road.calls, road.calls[1:], strict=False)]
    assert pauses[0] <= 1 and all(0 < pause <= LONGEST_WAIT + 0.3 for pause in pauses) and pauses[-1] > LONGEST_WAIT / 2
    assert road.sender.error == "full" and road.spool.waiting == 1
    await road.clock.advance(1)
    road.sender.connected()
    await road.until(lambda: len(road.calls) == 11)
    assert road.calls[-1] - road.calls[-2] < LONGEST_WAIT / 2
    await road.until(lambda: road.spool.waiting == 0)
    assert not road.sender.error


async def test_an_older_cluster_is_asked_rarely_and_a_newer_one_gets_it_all(road: Road) -> None:
    road.intake.older = True
    road.put(1, 11)
    await road.until(lambda: road.calls)
    await road.clock.advance(RARELY_SECONDS * 0.9)
    assert len(road.calls) == 1 and road.spool.waiting == 10 and "upgrade" not in road.sender.error
    road.intake.older = False
    road.sender.connected()
    await road.until(lambda: road.spool.waiting == 0)
    assert numbers(road.intake.facts) == list(range(1, 11))


@pytest.mark.parametrize("answer", [0, 1, 2**40])
async def test_a_cluster_that_answers_nonsense_is_not_called_without_pause(road: Road, answer: int) -> None:
    async def odd(_: pb.NodeReport) -> pb.NodeReportAnswer:
        return pb.NodeReportAnswer(next=answer)

    road.intake.report = odd  # type: ignore[method-assign]
    road.put(1, 11)
    await road.until(lambda: len(road.calls) >= 4)
    assert road.calls[3] - road.calls[0] > 0.5 and road.spool.waiting == 10
