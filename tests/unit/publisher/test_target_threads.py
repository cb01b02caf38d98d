"""Threads of a target: so many at once, and one that hangs keeps its place but nobody waiting."""

from __future__ import annotations

import asyncio
import threading

import pytest

from bundle_publisher.targets.threads import Threads


async def test_results_and_errors_come_back() -> None:
    threads = Threads(2, "tests")
    assert await threads.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)


async def test_so_many_at_once_and_a_cancelled_caller_does_not_free_a_place() -> None:
    threads, gate, running = Threads(2, "tests"), threading.Event(), []

    def hang() -> None:
        running.append(1)
        gate.wait(10)

    waiting = [asyncio.create_task(threads.run(hang)) for _ in range(4)]
    while len(running) < 2:
        await asyncio.sleep(0.001)
    waiting[0].cancel()
    waiting[3].cancel()
    await asyncio.sleep(0.02)
    assert len(running) == 2  # its thread still hangs
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await threads.run(lambda: None)
    gate.set()
    await asyncio.gather(waiting[1], waiting[2])
    assert len(running) == 3
    assert await threads.run(lambda: 7) == 7
