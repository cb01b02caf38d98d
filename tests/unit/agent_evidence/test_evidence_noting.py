"""What is noted, and when: one fact for each thing that happened, with a moment that a cluster can check."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agent.cache.config import CacheConfig
from agent.evidence.evidence import INVENTORY_SECONDS, SWEEP_SECONDS, Evidence
from agent.evidence.holders import LINGER_SECONDS, RETURN_SECONDS, SDS, WORKLOAD_API
from agent.evidence.notes import MOST_NOTED, Notes
from agent.store import Store, Svid
from agent.trusted_time import Authenticated, TrustedTime
from tests.fakes.clocks import START, ManualClock
from tests.fakes.disk import Platter
from tests.fakes.evidence_intake import EvidenceIntake
from tests.unit.agent.world import until
from tests.unit.agent_cache.cached import entry
from tests.unit.agent_evidence.spooled import NODE, drain, lost, spool
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain

HOUR = timedelta(hours=1)


class House:
    """One node's evidence over a manual clock; its cluster is `intake`, while `connected`."""

    def __init__(self, folder: Path, boot: str = "boot-1") -> None:
        folder.chmod(0o700)
        self.clock, self.intake, self.connected = ManualClock(), EvidenceIntake(), True
        self.time = TrustedTime(self.clock, self.clock.monotonic, boot)
        self.store = Store(TrustDomain("prod-a"), asyncio.get_running_loop().call_soon)
        self.store.put_entries([entry(1), entry(2)])
        self.evidence = Evidence(
            folder,
            CacheConfig(),
            (1 << 20, 10_000),
            (),
            lambda: (NODE, 7),
            self.store,
            self,
            self.time,
            lambda: 0.5,
            Registry(),
        )
        self.holders, self.notes = self.evidence.holders, self.evidence.notes

    async def report(self, request: pb.NodeReport) -> pb.NodeReportAnswer:
        return await self.intake.report(request)

    def svid(self, id_: str, serial: int, life: timedelta = HOUR) -> tuple[tuple[str, str], ...]:
        """A new SVID of an entry, and what an answer with it holds."""
        text, now = f"{serial:032x}", self.time.now()
        self.store.put_svids({id_: Svid((b"c",), b"k", text, "a1", now, now + life)})
        return ((id_, text),)

    def noted(self) -> list[tuple[str, int]]:
        """Kind and serial of what was noted since the last call."""
        found = [(kind, int(str(said.get("serial", "0")), 16)) for kind, _, said in self.notes._noted]
        self.notes._noted.clear()
        return found


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_a_serial_is_delivered_once_and_released_a_minute_after_its_last_holder(house: House) -> None:
    pairs = house.svid("e1", 1)
    first, second = house.holders.take(pairs, WORKLOAD_API), house.holders.take(pairs, WORKLOAD_API)
    third = house.holders.take(pairs, SDS)
    assert house.noted() == [("delivered", 1)]
    for one in (first, second):
        house.holders.let_go(one)
    house.clock.move(LINGER_SECONDS * 2)
    house.holders.sweep()
    assert not house.noted(), "an Envoy has it still"
    house.holders.let_go(third)
    house.clock.move(LINGER_SECONDS - 1)
    house.holders.let_go(house.holders.take(pairs, WORKLOAD_API))
    house.clock.move(LINGER_SECONDS - 1)
    house.holders.sweep()
    assert not house.noted(), "it was fetched again meanwhile"
    house.clock.move(1)
    house.holders.sweep()
    assert house.noted() == [("released", 1)]
    house.holders.take(pairs, SDS)
    assert house.noted() == [("delivered", 1)]


async def test_answers_with_several_svids_count_each_serial_once(house: House) -> None:
    one, two = house.svid("e1", 1), house.svid("e2", 2)
    both = house.holders.take(one + two, WORKLOAD_API)
    alone = house.holders.take(one, WORKLOAD_API)
    assert house.noted() == [("delivered", 1), ("delivered", 2)]
    house.holders.let_go(both)
    house.clock.move(LINGER_SECONDS)
    house.holders.sweep()
    assert house.noted() == [("released", 2)]
    house.holders.let_go(alone)
    house.clock.move(LINGER_SECONDS)
    house.holders.sweep()
    assert house.noted() == [("released", 1)]


async def test_an_svid_that_ends_while_it_is_held_is_expired_unless_a_successor_is_there(house: House) -> None:
    house.holders.take(house.svid("e1", 1), WORKLOAD_API)
    house.holders.take(house.svid("e2", 2), WORKLOAD_API)
    house.holders.take(house.svid("e2", 3, HOUR * 2), WORKLOAD_API)
    house.noted()
    house.clock.move(3601)
    house.store.expire(house.time.now())
    for _ in range(3):
        house.holders.sweep()
    assert house.noted() == [("expired", 1)]


async def test_a_reserve_is_noted_as_one_and_is_no_successor(house: House) -> None:
    house.holders.take(house.svid("e1", 1), WORKLOAD_API)
    held = house.store.svids["e1"]
    house.store.put_reserves({"e1": replace(held, serial=f"{9:032x}", not_after=held.not_after + HOUR)})
    house.clock.move(3601)
    house.store.expire(house.time.now())
    house.store.stand_in(["e1"])
    house.holders.take((("e1", f"{9:032x}"),), WORKLOAD_API)
    slots = [said.get("slot") for _, _, said in house.notes._noted]
    house.holders.sweep()
    assert house.noted() == [("delivered", 1), ("delivered", 9), ("expired", 1)] and slots == ["x509", "reserve"]


async def test_who_does_not_come_back_after_a_restart_has_let_go(house: House) -> None:
    house.store.put_entries([entry(3)])
    one, two, never = house.svid("e1", 1), house.svid("e2", 2), house.svid("e3", 3)
    house.store.use(["e1", "e2"], house.time.now())
    house.holders.resume()
    house.holders.take(one, WORKLOAD_API)
    house.clock.move(RETURN_SECONDS - 1)
    house.holders.sweep()
    assert house.noted() == [("delivered", 1)]
    house.clock.move(1)
    house.holders.sweep()
    assert house.noted() == [("released", 2)] and never
    house.holders.take(two, WORKLOAD_API)
    assert house.noted() == [("delivered", 2)]


async def test_an_entry_that_was_taken_away_did_not_expire(house: House) -> None:
    house.holders.take(house.svid("e1", 1), WORKLOAD_API)
    house.store.put_entries((), ["e1"])
    house.noted()
    house.clock.move(3601)
    house.holders.sweep()
    assert not house.noted()


async def test_what_an_envoy_loads_is_noted_once_for_each_envoy_and_bounded(house: House) -> None:
    (pair,) = house.svid("e1", 1)
    house.holders.take((pair,), SDS)
    house.noted()
    for _ in range(3):
        for number in range(100):
            house.holders.loaded([pair], f"proxy~{number}")
    assert house.noted() == [("loaded", 1)] * 64


async def test_a_moment_is_the_clusters_time_and_what_passed_since_whatever_the_wall_clock_says(house: House) -> None:
    moments = house.evidence.moments
    assert moments.now() == (0, 0, 0) and moments.offset() is None
    house.clock.move(2)
    moments.told(1_000_000)
    house.clock.move(5)
    house.clock.set_wall(START - timedelta(days=400))
    house.notes.note("offset", offset_ms=1)
    ((_, moment, _),) = house.notes._noted
    assert moment == (1_000_000, 2_000, 7_000)
    assert moments.boot == hashlib.sha256(b"boot-1").digest()[:8]


async def test_after_a_restart_in_the_same_boot_the_kept_time_is_the_anchor(house: House, tmp_path: Path) -> None:
    told = START - timedelta(hours=1)
    house.time.restore(None, Authenticated(told, -60.0, "boot-1"))
    assert house.evidence.moments.now() == (to_ms(told), -60_000, 0)
    rebooted = House(tmp_path, "boot-2")
    rebooted.time.restore(None, Authenticated(told, -60.0, "boot-1"))
    assert rebooted.evidence.moments.now() == (0, 0, 0)
    assert rebooted.evidence.moments.boot != house.evidence.moments.boot


async def test_more_than_is_held_for_a_batch_is_counted_as_lost(house: House) -> None:
    platter = Platter()
    held = spool(platter)
    notes = Notes(held, house.evidence.moments, house.time, Registry())
    for _ in range(MOST_NOTED + 30):
        notes.note("loaded", serial="1")
    await notes.flush()
    intake = await asyncio.to_thread(drain, held, EvidenceIntake())
    assert len(intake.facts) == MOST_NOTED + 1 and lost(intake.facts) == 30


async def _pass(house: House, seconds: float, met: Callable[[], object]) -> None:
    """Let time pass until something has happened; the disk works in threads meanwhile."""

    async def step() -> bool:
        await house.clock.advance(0.01)  # slowly: a thread that is late must not cost much of this time
        return bool(met())

    await house.clock.advance(seconds)
    async with asyncio.timeout(20):
        while not await step():
            await asyncio.sleep(0.002)


async def test_an_inventory_goes_out_after_each_connection_and_every_hour_of_it(house: House) -> None:
    house.store.put_entries([entry(number) for number in range(3, 701)])
    for number in range(1, 701):
        house.svid(f"e{number}", number, HOUR * 9)
    running = asyncio.create_task(house.evidence.run())

    def held() -> list[pb.AgentFact]:
        return [one for one in house.intake.facts if one.kind == "held"]

    house.evidence.connected()
    await _pass(house, 1, lambda: len(held()) == 2)
    assert [(one.part, one.parts, len(one.serials)) for one in held()] == [(1, 2, 500), (2, 2, 201)]
    assert {serial for one in held() for serial in one.serials} == {f"{n:032x}" for n in range(1, 701)}
    house.connected = False
    await house.clock.advance(INVENTORY_SECONDS)
    assert len(held()) == 2 and house.evidence.status()["waiting"] == 0
    house.connected = True
    house.evidence.connected()
    await _pass(house, 1, lambda: len(held()) == 4)
    await house.clock.advance(INVENTORY_SECONDS - 600)
    assert len(held()) == 4
    await _pass(house, 600, lambda: len(held()) == 6)
    running.cancel()


async def test_an_offset_is_told_when_it_changes_by_more_than_a_second_at_most_once_a_minute(house: House) -> None:
    running = asyncio.create_task(house.evidence.run())
    house.evidence.moments.told(to_ms(house.clock.now()))

    def offsets() -> list[int]:
        return [one.offset_ms for one in house.intake.facts if one.kind == "offset"]

    for off, seconds, expected in (
        (0.9, 120.0, []),
        (30.0, SWEEP_SECONDS, [30_000]),
        (50.0, SWEEP_SECONDS * 2, [30_000]),
        (50.0, 60.0, [30_000, 50_000]),
        (0.0, 61.0, [30_000, 50_000, 0]),
        (0.5, 120.0, [30_000, 50_000, 0]),
        (-86_400.0, SWEEP_SECONDS, [30_000, 50_000, 0, -86_400_000]),
    ):
        house.clock.set_wall(START + timedelta(seconds=house.clock.monotonic() + off))
        await _pass(house, seconds, lambda expected=expected: offsets() == expected)
    running.cancel()


async def test_what_breaks_in_evidence_stops_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def broken() -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("broken")

    monkeypatch.setattr(house.holders, "sweep", broken)
    running = asyncio.create_task(house.evidence.run())
    await house.clock.advance(120)
    assert calls > 2 and not running.done()
    house.notes.note("offset", offset_ms=5)
    await _pass(house, 1, lambda: house.intake.facts)
    running.cancel()
    await until(running.done)
