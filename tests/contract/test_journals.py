"""What every driver of the Journal, Snapshots and Ledger ports does: one suite, each driver."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from trustfed.errors import Conflict, Invalid, Unavailable
from trustfed.journal.events import Event, Fact, canonical, canonical_fact
from trustfed.journal.memory import MemoryJournal, MemoryLedger, MemorySnapshots
from trustfed.journal.ports import Journal, Ledger, Snapshot, Snapshots
from trustfed.journal.sqlite import open_store


class Drivers(NamedTuple):
    """One of each port, by one driver."""

    journal: Journal
    snapshots: Snapshots
    ledger: Ledger


@contextlib.asynccontextmanager
async def _memory(_directory: Path) -> AsyncIterator[Drivers]:
    yield Drivers(MemoryJournal(), MemorySnapshots(), MemoryLedger())


@contextlib.asynccontextmanager
async def _sqlite(directory: Path) -> AsyncIterator[Drivers]:
    store = open_store(directory)
    try:
        yield Drivers(store.journal, store.snapshots, store.ledger)
    finally:
        await store.close()


@pytest.fixture(params=[_memory, _sqlite], ids=["memory", "sqlite"])
async def drivers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Drivers]:
    async with request.param(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def journal(drivers: Drivers) -> Journal:
    return drivers.journal


@pytest.fixture
def ledger(drivers: Drivers) -> Ledger:
    return drivers.ledger


def event(number: int = 1, *, command: str = "", body: dict[str, Any] | None = None, **fields: Any) -> Event:
    return Event(
        **{
            "id": f"{number:032x}",
            "command_id": command or f"command-{number}",
            "at": 1_700_000_000_000 + number,
            "actor": "actor-1",
            "owner": "payments",
            "reason": "because",
            "kind": "grant.offered",
            "version": 1,
            "body": {"number": number} if body is None else body,
            **fields,
        }
    )


def fact(number: int = 1, *, key: str = "", kind: str = "x509.issued", body: dict[str, Any] | None = None) -> Fact:
    return Fact(1_700_000_000_000 + number, kind, key or f"{number:040x}", {"n": number} if body is None else body)


async def test_what_was_appended_is_read_in_order_with_dense_positions(journal: Journal) -> None:
    events = [event(number) for number in range(1, 6)]
    assert await journal.append(0, events[:2]) == 2
    assert await journal.append(2, events[2:]) == 5
    records = await journal.read(0, 100)
    assert [record.position for record in records] == [1, 2, 3, 4, 5]
    assert [record.event for record in records] == events
    assert [record.canonical for record in records] == [canonical(each) for each in events]


async def test_reading_resumes_from_any_position_and_stops_at_the_limit(journal: Journal) -> None:
    await journal.append(0, [event(number) for number in range(1, 11)])
    assert [record.position for record in await journal.read(3, 4)] == [4, 5, 6, 7]
    assert [record.position for record in await journal.read(8, 1000)] == [9, 10]
    assert await journal.read(10, 5) == []
    assert await journal.read(4711, 5) == []


async def test_an_append_behind_or_beyond_the_head_is_a_conflict_and_records_nothing(journal: Journal) -> None:
    await journal.append(0, [event(1), event(2)])
    for expected in (0, 1, 3, 99):
        with pytest.raises(Conflict, match="head is 2"):
            await journal.append(expected, [event(3)])
    assert len(await journal.read(0, 10)) == 2


async def test_of_many_appends_at_one_position_exactly_one_wins(journal: Journal) -> None:
    outcomes = await asyncio.gather(
        *(journal.append(0, [event(number), event(number)]) for number in range(20)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 19 + ["int"]
    assert len(await journal.read(0, 100)) == 2


async def test_one_bad_event_refuses_the_whole_append(journal: Journal) -> None:
    with pytest.raises(Invalid, match=r"body\.share is of type float"):
        await journal.append(0, [event(1), event(2, body={"share": 0.5})])
    assert await journal.read(0, 10) == []
    assert await journal.append(0, [event(1)]) == 1


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], "1 to 1000 events, not 0"),
        ([event(number) for number in range(1001)], "1 to 1000 events, not 1001"),
        ([event(1, body={"text": "x" * (1 << 20)})], "at most 1048576 are recorded"),
        ([event(number, body={"text": "x" * 1_000_000}) for number in range(17)], "recorded together"),
    ],
    ids=["none", "too-many", "too-large", "too-large-together"],
)
async def test_an_append_is_bounded(journal: Journal, events: list[Event], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        await journal.append(0, events)
    assert await journal.read(0, 10) == []


async def test_the_largest_append_that_is_allowed_is_recorded(journal: Journal) -> None:
    assert await journal.append(0, [event(number) for number in range(1000)]) == 1000
    assert await journal.append(1000, [event(1, body={"text": "x" * 1_000_000})] * 16) == 1016
    assert len(await journal.read(0, 1000)) == 1000


@pytest.mark.parametrize(("after", "limit"), [(-1, 1), (0, 0), (0, -1), (0, 1001)])
async def test_a_read_window_out_of_bounds_is_refused(drivers: Drivers, after: int, limit: int) -> None:
    with pytest.raises(Invalid):
        await drivers.journal.read(after, limit)
    with pytest.raises(Invalid):
        await drivers.ledger.read(after, limit)


async def test_a_command_is_found_by_its_id(journal: Journal) -> None:
    await journal.append(0, [event(1, command="a"), event(2, command="a")])
    await journal.append(2, [event(3, command="b")])
    assert [record.position for record in await journal.find("a")] == [1, 2]
    assert [record.position for record in await journal.find("b")] == [3]
    assert await journal.find("c") == []


async def test_wait_returns_at_once_below_the_head_and_with_the_next_append_at_it(journal: Journal) -> None:
    await journal.append(0, [event(1), event(2)])
    assert await journal.wait(0) == 2
    waiters = [asyncio.create_task(journal.wait(2)) for _ in range(3)]
    far = asyncio.create_task(journal.wait(3))
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters)
    await journal.append(2, [event(3)])
    assert await asyncio.gather(*waiters) == [3, 3, 3]
    await asyncio.sleep(0)
    assert not far.done()
    await journal.append(3, [event(4)])
    assert await far == 4


async def test_a_cancelled_append_still_wakes_those_who_wait(journal: Journal) -> None:
    appending = asyncio.create_task(journal.append(0, [event(1)]))
    await asyncio.sleep(0)
    appending.cancel()
    assert await journal.wait(0) == 1
    assert len(await journal.read(0, 10)) == 1


async def test_closing_ends_those_who_wait_and_refuses_what_follows(drivers: Drivers) -> None:
    waiter = asyncio.create_task(drivers.journal.wait(0))
    await asyncio.sleep(0)
    await drivers.journal.close()
    await drivers.ledger.close()
    with pytest.raises(Unavailable, match="closed"):
        await waiter
    with pytest.raises(Unavailable, match="closed"):
        await drivers.journal.append(0, [event(1)])
    with pytest.raises(Unavailable, match="closed"):
        await drivers.journal.read(0, 1)
    with pytest.raises(Unavailable, match="closed"):
        await drivers.ledger.append([fact(1)])
    await drivers.journal.close()
    await drivers.ledger.close()


async def test_what_a_reader_gets_is_its_own(journal: Journal) -> None:
    body = {"names": ["a"]}
    await journal.append(0, [event(1, body=body)])
    body["names"].append("b")
    (first,) = await journal.read(0, 1)
    first.event.body["names"].append("c")
    (second,) = await journal.read(0, 1)
    assert second.event.body == {"names": ["a"]}


async def test_a_snapshot_is_replaced_by_the_next(drivers: Drivers) -> None:
    assert await drivers.snapshots.load() is None
    await drivers.journal.append(0, [event(1), event(2)])
    await drivers.snapshots.save(Snapshot(1, 7, b"first"))
    await drivers.snapshots.save(Snapshot(2, 8, b"second"))
    assert await drivers.snapshots.load() == Snapshot(2, 8, b"second")


async def test_facts_are_read_in_order_and_found_by_kind_and_key(ledger: Ledger) -> None:
    facts = [fact(1), fact(2), fact(3, key="shared"), fact(4, key="shared"), fact(5, key="shared", kind="jwt.issued")]
    await ledger.append(facts[:3])
    await ledger.append(facts[3:])
    recorded = await ledger.read(0, 100)
    assert [each.position for each in recorded] == [1, 2, 3, 4, 5]
    assert [each.fact for each in recorded] == facts
    assert [each.canonical for each in recorded] == [canonical_fact(each) for each in facts]
    assert [each.position for each in await ledger.read(2, 2)] == [3, 4]
    assert await ledger.find("x509.issued", "shared") == facts[2:4]
    assert await ledger.find("jwt.issued", "shared") == facts[4:]
    assert await ledger.find("x509.issued", "unknown") == []
    located = await ledger.located("x509.issued", "shared")
    assert [(one.position, one.fact) for one in located] == [(3, facts[2]), (4, facts[3])]
    assert await ledger.located("x509.issued", "unknown") == []


async def test_all_facts_of_concurrent_callers_are_recorded_once(ledger: Ledger) -> None:
    await asyncio.gather(
        *(ledger.append([fact(10 * caller + n) for n in range(caller % 7 + 1)]) for caller in range(50))
    )
    recorded = await ledger.read(0, 1000)
    expected = sorted(10 * caller + n for caller in range(50) for n in range(caller % 7 + 1))
    assert sorted(each.fact.body["n"] for each in recorded) == expected
    assert [each.position for each in recorded] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([], "1 to 1000 facts, not 0"),
        ([fact(number) for number in range(1001)], "1 to 1000 facts, not 1001"),
        ([fact(1, body={"text": "x" * (64 << 10)})], "at most 65536"),
        ([fact(1, key="k" * 257)], "field key"),
        ([fact(1), fact(2, kind="Not A Kind")], "fact kind"),
        ([fact(1), fact(2, body={"at": 1.0})], r"body\.at is of type float"),
        ([fact(1, body={"key": b"secret"})], r"body\.key is of type bytes"),
    ],
    ids=["none", "too-many", "too-large", "long-key", "kind", "float", "bytes"],
)
async def test_a_bad_append_to_the_ledger_records_nothing(ledger: Ledger, facts: list[Fact], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        await ledger.append(facts)
    assert await ledger.read(0, 10) == []
