"""The clocks: the test's own behaves as the machine's, only slower."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta

from tests.fakes.clocks import START, ManualClock
from trustfed.runtime.clock import Clock, SystemClock


async def test_sleepers_wake_in_order_at_their_own_moment() -> None:
    clock, woken = ManualClock(), []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.monotonic()))

    tasks = [asyncio.create_task(sleeper("a", 3, 3)), asyncio.create_task(sleeper("b", 1, 1, 1.5))]
    await clock.advance(4)
    assert woken == [("b", 1), ("b", 2), ("a", 3), ("b", 3.5)] and clock.sleeping == 1
    assert clock.now() == START + timedelta(seconds=4)
    await clock.advance(2)
    assert woken[-1] == ("a", 6) and clock.sleeping == 0
    await asyncio.gather(*tasks)


async def test_cancelled_sleepers_and_zero() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)
    assert clock.sleeping == 1
    task.cancel()
    await clock.advance(10)
    assert clock.sleeping == 0 and task.cancelled()
    await clock.sleep(0)
    await clock.sleep(-1)


async def test_wall_time_can_be_set_alone() -> None:
    clock = ManualClock()
    clock.move(5)
    clock.set_wall(START - timedelta(days=1))
    assert clock.now() == START - timedelta(days=1) and clock.monotonic() == 5


async def test_system_clock() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0)
    await clock.sleep(-5)
    assert clock.now().tzinfo is UTC and clock.monotonic() >= before
