"""The keeper: one save at a time, paced; what is soft waits; a disk that fails is alarmed, and tried again."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import threading
import time
import tracemalloc
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agent.cache.disk import FolderDisk
from agent.cache.keeper import PACE_SECONDS, RETRY_SECONDS, SOFT_SECONDS, SealedCache
from agent.cache.keys import MachineKey
from agent.cache.port import Kept
from agent.cache.vault import Vault
from tests.fakes.clocks import ManualClock
from tests.fakes.disk import Platter, Step
from tests.fakes.waiting import until
from tests.unit.agent_cache.cached import NODE, NOW, large, same, small, svid, vault, without
from trustfed.errors import TrustfedError, Unavailable
from trustfed.runtime.metrics import Registry


class Kept1:
    """A keeper on a disk in memory, with the clock in the test's hand."""

    def __init__(self) -> None:
        self.platter, self.clock, self.registry = Platter(), ManualClock(), Registry()
        self.vault = vault(self.platter)
        self.cache = SealedCache(self.vault, self.clock, self.registry)
        self.cache.load(NOW)

    def metric(self, name: str) -> str:
        lines = self.registry.exposition().decode().splitlines()
        return next((line.rpartition(" ")[2] for line in lines if line.startswith(f"trustfed_agent_cache_{name} ")), "")

    @property
    def saves(self) -> int:
        return sum(step.kind == "rename" and step.target == "manifest" for step in self.platter.log)

    def disk(self) -> Kept | None:
        return vault(Platter(self.platter.files)).open()

    async def quiet(self) -> None:
        """Until the writer has nothing to do, or waits for the clock."""

        def idle() -> bool:
            task = self.cache._task
            return task is None or task.done() or self.clock.sleeping > 0

        await until(idle)


async def test_the_newest_wins_and_saves_are_paced() -> None:
    world = Kept1()
    for number in range(50):
        world.cache.changed(replace(small(), svids={"e0": svid(number)}))
    await world.quiet()
    assert world.saves == 1
    for number in range(50, 60):
        world.cache.changed(replace(small(), svids={"e0": svid(number)}))
        await asyncio.sleep(0)
    await world.quiet()
    assert world.saves == 1
    await world.clock.advance(PACE_SECONDS)
    await world.quiet()
    assert world.saves == 2 and same(world.disk(), replace(small(), svids={"e0": svid(59)}))


async def test_what_is_soft_waits_and_goes_along_with_what_is_not() -> None:
    world = Kept1()
    world.cache.changed(small())
    await world.quiet()
    for second in range(1, 4):
        world.cache.changed(replace(small(), position=100 + second, used={"e0": NOW}))
        await world.clock.advance(1)
        await world.quiet()
    assert world.saves == 1
    world.cache.changed(replace(small(), position=200, svids={"e0": svid(3)}))
    await world.clock.advance(PACE_SECONDS)
    await until(lambda: world.saves == 2)
    found = world.disk()
    assert found is not None and found.position == 200
    world.cache.changed(replace(small(), position=201, svids={"e0": svid(3)}))
    await world.clock.advance(PACE_SECONDS)
    await world.quiet()
    assert world.saves == 2
    await world.clock.advance(SOFT_SECONDS)
    await until(lambda: world.saves == 3)


async def test_flush_waits_for_neither_pace_nor_softness() -> None:
    world = Kept1()
    world.cache.changed(small())
    await world.cache.flush()
    world.cache.changed(replace(small(), position=77))
    await world.cache.flush()
    banned = Kept(banned="stolen", floor=NOW)
    world.cache.changed(banned)
    await world.cache.flush()
    assert same(world.disk(), banned) and world.clock.monotonic() == 0
    await world.cache.flush()
    status = world.cache.status()
    assert status["generation"] == 2 and status["written_at"] == world.clock.now().isoformat()
    assert (status["records"], status["bytes"]) == (4, world.vault.size) and world.metric("generation") == "2"


async def test_nothing_new_is_not_written() -> None:
    world = Kept1()
    world.cache.changed(small())
    await world.cache.flush()
    before = len(world.platter.log)
    world.cache.changed(replace(small()))
    await world.cache.flush()
    assert len(world.platter.log) == before


@pytest.mark.parametrize("error", ["no space left on device", "input/output error", "read-only file system"])
async def test_a_disk_that_fails_is_alarmed_and_tried_again(error: str, caplog: pytest.LogCaptureFixture) -> None:
    world = Kept1()
    world.cache.changed(small())
    await world.cache.flush()

    def fault(step: Step) -> TrustfedError | None:
        return Unavailable(f"cannot {step.kind} {step.name}: {error}", hint="make room")

    world.platter.fault = fault
    target = without(small(), "e1")
    world.cache.changed(target)
    # Who flushes waits for one try, not for the disk.
    await world.cache.flush()
    assert error in str(world.cache.status()["error"]) and world.metric("unsaved") == "1"
    wait, tries = RETRY_SECONDS[0], world.cache._tries
    for _ in range(8):
        await until(lambda: world.clock.sleeping == 1)
        left = world.cache._next - world.clock.monotonic()
        assert world.cache._tries == tries and 0 < left <= wait + 0.001
        await world.clock.advance(left + 0.001)
        await until(lambda now=tries: world.cache._tries == now + 1)
        tries, wait = tries + 1, min(wait * 2, RETRY_SECONDS[1])
    assert sum("not written" in record.message for record in caplog.records) == 1
    assert same(world.disk(), small())
    await until(lambda: world.clock.sleeping == 1)
    world.platter.fault = lambda step: None
    await world.clock.advance(RETRY_SECONDS[1] * 2)
    await until(lambda: world.cache.status()["error"] == "")
    assert same(world.disk(), target) and world.metric("unsaved") == "0"


async def test_our_own_fault_tells_no_content_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = Kept1()

    def broken(kept: Kept) -> None:
        raise RuntimeError("SECRET " + repr(kept))

    save, world.vault.save = world.vault.save, broken  # type: ignore[method-assign]
    world.cache.changed(small())
    await world.cache.flush()
    assert world.cache.status()["error"] == "internal error RuntimeError (report it)" and "SECRET" not in caplog.text
    world.vault.save = save  # type: ignore[method-assign]
    world.cache.changed(small())
    await world.cache.flush()
    assert world.cache.status()["error"] == "" and same(world.disk(), small())


async def test_one_save_at_a_time_and_never_in_the_loop() -> None:
    world = Kept1()
    running, most, threads = 0, 0, set()
    save = world.vault.save

    def slow(kept: Kept) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threads.add(threading.current_thread())
        time.sleep(0.02)
        save(kept)
        running -= 1

    world.vault.save = slow  # type: ignore[method-assign]
    turns = 0
    for number in range(5):
        world.cache.changed(replace(small(), svids={"e0": svid(number)}))
        flushes = asyncio.gather(*(world.cache.flush() for _ in range(5)))
        while not flushes.done():
            turns += 1
            await asyncio.sleep(0.001)
    assert most == 1 and threading.main_thread() not in threads and turns > 20


async def test_a_loop_that_ends_keeps_nobody_waiting() -> None:
    world = Kept1()
    started, go_on = threading.Event(), threading.Event()

    def stuck(kept: Kept) -> None:
        started.set()
        go_on.wait(5)

    world.vault.save = stuck  # type: ignore[method-assign]
    world.cache.changed(small())
    waiting = asyncio.ensure_future(world.cache.flush())
    await until(started.is_set)
    task = world.cache._task
    assert task is not None
    task.cancel()
    await asyncio.wait_for(waiting, 20)
    go_on.set()


async def test_a_refusal_is_told_and_the_next_life_is_written() -> None:
    world = Kept1()
    world.cache.changed(small())
    await world.cache.flush()
    platter = Platter({**world.platter.files, ("cache", "manifest"): b""})
    registry = Registry()
    cache = SealedCache(vault(platter), ManualClock(), registry)
    assert cache.load(NOW) is None
    assert str(cache.status()["refused"]).startswith("truncated: the manifest")
    assert b'trustfed_agent_cache_refused_total{reason="truncated"} 1' in registry.exposition()
    cache.changed(large(2))
    await cache.flush()
    assert same(vault(platter).open(), large(2))


def test_a_disk_that_takes_half_a_write(tmp_path: Path) -> None:
    """A real short write: the old state holds, and no half file is left."""
    tmp_path.chmod(0o700)
    outside = FolderDisk(tmp_path)
    real = Vault(FolderDisk(tmp_path / "cache"), outside, MachineKey(outside, os.urandom), NODE, os.urandom)
    real.save(small())
    names = sorted((tmp_path / "cache").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(TrustfedError, match="file too large"):
            real.save(large(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted((tmp_path / "cache").iterdir()) == names
    real.save(large(3))
    assert same(
        Vault(FolderDisk(tmp_path / "cache"), outside, MachineKey(outside, os.urandom), NODE, os.urandom).open(),
        large(3),
    )


def test_keys_are_not_held_twice(tmp_path: Path) -> None:
    """What the vault remembers of a save are the very objects it was given."""
    platter = Platter()
    keeper, kept = vault(platter), large(100)
    keeper.save(kept)
    platter.log.clear()
    gc.collect()
    tracemalloc.start()
    try:
        again = large(100)
        gc.collect()
        of_the_agent = tracemalloc.get_traced_memory()[0]
        keeper.save(again)
        platter.log.clear()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - of_the_agent
    finally:
        tracemalloc.stop()
    assert again.floor + timedelta(0) == kept.floor and grown < 60_000, grown
