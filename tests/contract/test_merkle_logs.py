"""What every driver of MerkleLog does, for journal and ledger alike: one suite, each driver."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from trustfed.errors import Invalid, NotFound, Unavailable
from trustfed.journal.events import Event, Fact, canonical, canonical_fact
from trustfed.journal.memory import MemoryJournal, MemoryLedger
from trustfed.journal.merkle.hashing import EMPTY_ROOT, leaf_hash, root_of
from trustfed.journal.merkle.log import SEGMENT, MerkleLog
from trustfed.journal.merkle.proofs import verify_consistency, verify_inclusion
from trustfed.journal.merkle.ranges import CompactRange
from trustfed.journal.ports import Journal, Trimmed
from trustfed.journal.sqlite import SqliteLedger, open_store


class Drivers(NamedTuple):
    """A journal and a ledger, each with its log, by one driver."""

    journal: Journal
    events_log: MerkleLog
    ledger: MemoryLedger | SqliteLedger
    facts_log: MerkleLog


@contextlib.asynccontextmanager
async def _memory(_directory: Path) -> AsyncIterator[Drivers]:
    journal, ledger = MemoryJournal(), MemoryLedger()
    yield Drivers(journal, journal.log, ledger, ledger.log)


@contextlib.asynccontextmanager
async def _sqlite(directory: Path) -> AsyncIterator[Drivers]:
    store = open_store(directory)
    try:
        yield Drivers(store.journal, store.events_log, store.ledger, store.facts_log)
    finally:
        await store.close()


@pytest.fixture(params=[_memory, _sqlite], ids=["memory", "sqlite"])
async def drivers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Drivers]:
    async with request.param(tmp_path / "store") as opened:
        yield opened


def event(number: int) -> Event:
    return Event(f"id-{number}", f"command-{number}", 1, "actor", "", "", "x.y", 1, {"number": number})


def fact(number: int) -> Fact:
    return Fact(1, "x.y", f"{number}", {})


async def fill(ledger: MemoryLedger | SqliteLedger, begin: int, end: int) -> list[bytes]:
    """Append facts for the leaves [begin, end), and give their hashes."""
    facts = [fact(number) for number in range(begin, end)]
    for start in range(0, len(facts), 1000):
        await ledger.append(facts[start : start + 1000])
    return [leaf_hash(canonical_fact(each)) for each in facts]


async def test_an_empty_log_has_the_empty_root(drivers: Drivers) -> None:
    for log in (drivers.events_log, drivers.facts_log):
        assert (log.size, log.lag) == (0, 0)
        assert await log.root(0) == EMPTY_ROOT
        assert await log.subtrees(0) == []
        await log.integrated(0)


async def test_each_event_is_a_leaf_at_its_position(drivers: Drivers) -> None:
    log, leaves = drivers.events_log, []
    for number in range(20):
        await drivers.journal.append(number, [event(number)])
        leaves.append(leaf_hash(canonical(event(number))))
        await log.integrated(number + 1)
        assert (log.size, log.lag) == (number + 1, 0)
        assert await log.root(number + 1) == root_of(leaves)
    assert [record.leaf_hash for record in await drivers.journal.read(0, 20)] == leaves


async def test_roots_and_proofs_of_every_kind_of_size(drivers: Drivers) -> None:
    leaves = await fill(drivers.ledger, 0, 5000)
    log = drivers.facts_log
    await log.integrated(5000)
    sizes = [1, 2, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 2047, 4095, 4096, 4097, 4500, 4864, 4999, 5000]
    roots = {size: root_of(leaves[:size]) for size in [0, *sizes]}
    for size in sizes:
        assert await log.root(size) == roots[size]
        for index in {0, size // 2, size - 1, min(255, size - 1), min(256, size - 1)}:
            verify_inclusion(leaves[index], index, size, await log.inclusion(index, size), roots[size])
        for old in [0, *(each for each in sizes if each <= size)]:
            verify_consistency(old, roots[old], size, roots[size], await log.consistency(old, size))
        held = CompactRange(size, await log.subtrees(size))
        held.extend(leaves[size:])
        assert held.root() == roots[5000]


async def test_what_is_not_integrated_is_refused(drivers: Drivers) -> None:
    await fill(drivers.ledger, 0, 3)
    log = drivers.facts_log
    await log.integrated(3)
    for size in (4, -1, 1 << 70):
        with pytest.raises(Invalid, match="is not there"):
            await log.root(size)
        with pytest.raises(Invalid):
            await log.subtrees(size)
        with pytest.raises(Invalid):
            await log.consistency(1, size)
    for index, size in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(Invalid, match="is not in a tree"):
            await log.inclusion(index, size)
    with pytest.raises(Invalid, match="cannot be the beginning"):
        await log.consistency(3, 2)


async def test_who_waits_for_a_position_goes_on_once_it_is_integrated(drivers: Drivers) -> None:
    log = drivers.facts_log
    waiting = asyncio.create_task(log.integrated(2))
    await fill(drivers.ledger, 0, 1)
    await log.integrated(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    await fill(drivers.ledger, 1, 2)
    async with asyncio.timeout(20):
        await waiting
    assert log.size == 2


async def test_closing_ends_those_who_wait(drivers: Drivers) -> None:
    await fill(drivers.ledger, 0, 1)
    waiting = asyncio.create_task(drivers.facts_log.integrated(9))
    await asyncio.sleep(0)
    await drivers.ledger.close()
    with pytest.raises(Unavailable, match="closed"):
        await waiting
    with pytest.raises(Unavailable, match="closed"):
        await drivers.facts_log.root(1)


async def test_facts_leave_in_whole_segments_and_the_rest_stays_provable(drivers: Drivers) -> None:
    ledger, log = drivers.ledger, drivers.facts_log
    end = SEGMENT + 2500
    leaves = await fill(ledger, 0, end)
    await log.integrated(end)
    before = {size: await log.root(size) for size in (1, SEGMENT - 1, SEGMENT, SEGMENT + 300, end)}
    assert (ledger.first, ledger.position) == (1, end)
    for kept in (1, SEGMENT):
        assert await ledger.trim(kept) == 1, "not a whole segment"
    assert await ledger.trim(SEGMENT + 1) == ledger.first == SEGMENT + 1
    assert await ledger.trim(SEGMENT + 1) == SEGMENT + 1

    assert ledger.position == end
    with pytest.raises(Trimmed, match=f"the first {SEGMENT} records of facts left by retention") as gone:
        await ledger.read(SEGMENT - 1, 10)
    assert gone.value.first == SEGMENT + 1
    assert f"begins at position {SEGMENT + 1}" in gone.value.hint
    assert [each.position for each in await ledger.read(SEGMENT, 2)] == [SEGMENT + 1, SEGMENT + 2]
    assert await ledger.find("x.y", "5") == []
    assert await ledger.find("x.y", f"{SEGMENT}") == [fact(SEGMENT)]

    for size in (SEGMENT, SEGMENT + 300, end):
        assert await log.root(size) == before[size]
        verify_consistency(SEGMENT, before[SEGMENT], size, before[size], await log.consistency(SEGMENT, size))
    verify_inclusion(leaves[-1], end - 1, end, await log.inclusion(end - 1, end), before[end])
    verify_inclusion(leaves[SEGMENT], SEGMENT, end, await log.inclusion(SEGMENT, end), before[end])
    held = CompactRange(SEGMENT, await log.subtrees(SEGMENT))
    held.extend(leaves[SEGMENT:])
    assert held.root() == before[end]
    for asked in (log.root(SEGMENT - 1), log.inclusion(5, end), log.subtrees(300)):
        with pytest.raises(NotFound, match=f"the hashes of the first {SEGMENT} entries left"):
            await asked

    leaves += await fill(ledger, end, end + 700)
    await log.integrated(end + 700)
    assert await log.root(end + 700) == root_of(leaves)


async def test_what_is_no_position_trims_nothing(drivers: Drivers) -> None:
    assert await drivers.ledger.trim(10**9) == 1
    await fill(drivers.ledger, 0, 3)
    assert await drivers.ledger.trim(10**9) == 1
    assert len(await drivers.ledger.read(0, 10)) == 3
    for before in (0, -1):
        with pytest.raises(Invalid, match="positions start at 1"):
            await drivers.ledger.trim(before)
