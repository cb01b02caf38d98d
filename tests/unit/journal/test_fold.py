"""The fold: decide, record, apply, follow, resume."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.fakes.journals import FaultyJournal
from trustfed.errors import Conflict, Denied, Invalid, Unavailable
from trustfed.journal.events import Codec, Event, TypedEvent
from trustfed.journal.feed import RECENT
from trustfed.journal.fold import TRIES, Fold
from trustfed.journal.memory import MemoryJournal, MemorySnapshots
from trustfed.journal.ports import Journal, Snapshot, Snapshots

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Put(msgspec.Struct, frozen=True):
    amount: int


class Total(msgspec.Struct, frozen=True):
    """The sum of what was put, and how often."""

    sum: int = 0
    count: int = 0


CODEC = Codec({"total.put": Put})


def apply(state: Total, event: Put) -> Total:
    if event.amount < 0:
        raise ValueError("this state holds no debts")
    return Total(state.sum + event.amount, state.count + 1)


def put(*amounts: int) -> Callable[[Total], Sequence[TypedEvent]]:
    return lambda _: [Put(amount) for amount in amounts]


def by_other(amount: int, command: str = "other") -> Event:
    return Event("f" * 32, command, 1, "actor-2", "", "", "total.put", 1, {"amount": amount})


def make(journal: Journal, snapshots: Snapshots | None = None, *, schema: int = 1, every: int = 1_000) -> Fold[Total]:
    return Fold(
        journal,
        snapshots or MemorySnapshots(),
        Total(),
        apply,
        CODEC,
        msgspec.json.encode,
        lambda data: msgspec.json.decode(data, type=Total),
        schema,
        every,
    )


@contextlib.asynccontextmanager
async def running(*args: Any, **kwargs: Any) -> AsyncIterator[Fold[Total]]:
    fold = make(*args, **kwargs)
    await fold.start()
    try:
        yield fold
    finally:
        await fold.close()


async def run(fold: Fold[Total], command: str, *amounts: int, actor: str = "actor-1") -> list[int]:
    records = await fold.execute(put(*amounts), command_id=command, actor=actor, now=NOW)
    return [record.position for record in records]


async def take(fold: Fold[Total], after: int, count: int) -> list[tuple[int, int]]:
    taken = []
    async for position, event in fold.subscribe(after):
        assert isinstance(event, Put)
        taken.append((position, event.amount))
        if len(taken) == count:
            break
    return taken


async def test_what_is_decided_is_recorded_with_its_circumstances_and_applied() -> None:
    journal = MemoryJournal()
    async with running(journal) as fold:
        records = await fold.execute(
            put(1, 2), command_id="c1", actor="actor-1", owner="payments", reason="why not", now=NOW
        )
        assert (fold.state, fold.position) == (Total(3, 2), 2)
        assert await journal.read(0, 10) == records
        event = records[1].event
        assert (event.command_id, event.actor, event.owner, event.reason) == ("c1", "actor-1", "payments", "why not")
        assert (event.kind, event.version, event.body) == ("total.put", 1, {"amount": 2})
        assert event.at == int(NOW.timestamp() * 1000)
        assert records[0].event.id != event.id


async def test_a_refused_command_records_nothing() -> None:
    def refuse(state: Total) -> list[TypedEvent]:
        raise Denied("not today")

    async with running(MemoryJournal()) as fold:
        with pytest.raises(Denied, match="not today"):
            await fold.execute(refuse, command_id="c1", actor="a", now=NOW)
        assert await fold.execute(put(), command_id="c2", actor="a", now=NOW) == []
        assert fold.position == 0


async def test_an_event_that_the_state_cannot_hold_is_never_recorded() -> None:
    journal = MemoryJournal()
    async with running(journal) as fold:
        with pytest.raises(ValueError, match="no debts"):
            await run(fold, "c1", 1, -666)
        assert await journal.read(0, 10) == []
        assert await run(fold, "c2", 1) == [1]


async def test_a_retried_command_is_applied_once_also_by_the_next_process() -> None:
    journal = MemoryJournal()
    async with running(journal) as fold:
        first = await fold.execute(put(5), command_id="c1", actor="a", now=NOW)
        assert await fold.execute(put(7), command_id="c1", actor="a", now=NOW) == first
        assert fold.state == Total(5, 1)
    async with running(journal) as fold:
        assert await fold.execute(put(7), command_id="c1", actor="a", now=NOW) == first
        assert fold.state == Total(5, 1)


async def test_a_command_id_belongs_to_the_actor_who_used_it_first() -> None:
    async with running(MemoryJournal()) as fold:
        await run(fold, "c1", 5, actor="alice")
        with pytest.raises(Conflict, match="used by another actor"):
            await run(fold, "c1", 5, actor="mallory")


async def test_retries_of_one_command_at_once_are_applied_once() -> None:
    async with running(MemoryJournal()) as fold:
        assert await asyncio.gather(*(run(fold, "c1", 5) for _ in range(20))) == [[1]] * 20
        assert fold.state == Total(5, 1)


async def test_an_append_whose_answer_was_lost_is_found_again() -> None:
    journal = FaultyJournal()
    async with running(journal) as fold:
        journal.fail(Unavailable("the answer was lost"), after_recording=True)
        with pytest.raises(Unavailable, match="lost"):
            await run(fold, "c1", 5)
        assert await run(fold, "c1", 5) == [1]
        assert fold.state == Total(5, 1)


async def test_a_full_disk_fails_the_command_and_nothing_else() -> None:
    journal = FaultyJournal()
    async with running(journal) as fold:
        journal.fail(Unavailable("the disk is full"), times=2)
        for _ in range(2):
            with pytest.raises(Unavailable, match="disk is full"):
                await run(fold, "c1", 5)
        assert fold.state == Total()
        assert await run(fold, "c1", 5) == [1]


async def test_after_a_conflict_it_is_decided_again_on_the_new_state() -> None:
    journal, seen = FaultyJournal(), []

    def decide(state: Total) -> list[TypedEvent]:
        seen.append(state)
        return [Put(state.sum)]

    async with running(journal) as fold:
        journal.overtake([by_other(10)])
        records = await fold.execute(decide, command_id="c1", actor="a", now=NOW)
        assert seen == [Total(), Total(10, 1)]
        assert [(record.position, record.event.body) for record in records] == [(2, {"amount": 10})]
        assert fold.state == Total(20, 2)


async def test_the_same_command_by_another_replica_is_applied_once() -> None:
    journal = FaultyJournal()
    async with running(journal) as fold:
        other = msgspec.structs.replace(by_other(5, command="c1"), actor="actor-1")
        journal.overtake([other])
        assert await run(fold, "c1", 5) == [1]
        assert fold.state == Total(5, 1)


async def test_endless_conflicts_end() -> None:
    journal = FaultyJournal()
    async with running(journal) as fold:
        journal.overtake([by_other(1)], times=TRIES)
        with pytest.raises(Conflict, match=f"changed {TRIES} times"):
            await run(fold, "c1", 5)
        assert journal.appends == TRIES
        assert await run(fold, "c1", 5) == [TRIES + 1]


async def test_a_caller_that_leaves_while_it_is_recorded_leaves_nothing_half_done() -> None:
    journal = FaultyJournal()
    async with running(journal) as fold:
        journal.hold()
        leaving = asyncio.create_task(run(fold, "c1", 5))
        while not journal.appends:
            await asyncio.sleep(0)
        waiting = asyncio.create_task(run(fold, "c2", 7))
        leaving.cancel()
        await asyncio.sleep(0)
        assert not leaving.done()
        journal.release()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await waiting == [2]
        assert fold.state == Total(12, 2)


async def test_a_time_without_zone_is_refused() -> None:
    async with running(MemoryJournal()) as fold:
        with pytest.raises(Invalid, match="time zone"):
            await fold.execute(put(1), command_id="c", actor="a", now=NOW.replace(tzinfo=None))


async def test_a_fold_that_is_not_running_refuses() -> None:
    fold = make(MemoryJournal())
    with pytest.raises(Unavailable):
        await run(fold, "c1", 1)
    await fold.start()
    await fold.close()
    await fold.close()
    with pytest.raises(Unavailable):
        await run(fold, "c1", 1)


async def test_too_many_waiting_commands_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trustfed.journal.fold.WAITING_COMMANDS", 3)
    journal = FaultyJournal()
    async with running(journal) as fold:
        journal.hold()
        waiting = [asyncio.create_task(run(fold, f"c{n}", n)) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="are waiting already"):
            await run(fold, "c4", 1)
        journal.release()
        assert sorted(await asyncio.gather(*waiting)) == [[1], [2], [3]]


async def test_what_others_append_is_followed() -> None:
    journal = MemoryJournal()
    async with running(journal) as fold:
        await journal.append(0, [by_other(1), by_other(2)])
        assert await take(fold, 0, 2) == [(1, 1), (2, 2)]
        assert fold.state == Total(3, 2)


async def test_a_snapshot_spares_the_replay_and_gives_the_same_state() -> None:
    journal, snapshots = FaultyJournal(), MemorySnapshots()
    async with running(journal, snapshots, every=10) as fold:
        for number in range(25):
            await run(fold, f"c{number}", number)
        expected = fold.state
        taken = await snapshots.load()
        assert taken is not None
        assert taken.position >= 10
    at_close = await snapshots.load()
    assert at_close is not None
    assert at_close.position == 25
    before = journal.reads
    async with running(journal, snapshots) as fold:
        assert (fold.state, fold.position) == (expected, 25)
        assert journal.reads - before <= 3
        assert await run(fold, "c3", 1) == [4]
        assert await take(fold, 0, 25) == [(number + 1, number) for number in range(25)]


@pytest.mark.parametrize(
    ("snapshot", "fields"),
    [
        (Snapshot(2, 99, b'{"sum": 1000, "count": 2}'), {"schema": 99, "ours": 1}),
        (Snapshot(77, 1, b'{"sum": 1000, "count": 2}'), {"position": 77}),
        (Snapshot(2, 1, b"{not json"), {"error": "DecodeError"}),
        (Snapshot(2, 1, b'{"sum": "x"}'), {"error": "ValidationError"}),
    ],
    ids=["foreign-schema", "ahead-of-the-journal", "undecodable", "does-not-fit"],
)
async def test_an_unusable_snapshot_is_ignored_with_a_line_in_the_log(
    snapshot: Snapshot, fields: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    journal, snapshots = MemoryJournal(), MemorySnapshots()
    await journal.append(0, [by_other(1), by_other(2)])
    await snapshots.save(snapshot)
    with caplog.at_level(logging.WARNING):
        async with running(journal, snapshots) as fold:
            assert (fold.state, fold.position) == (Total(3, 2), 2)
    (record,) = caplog.records
    assert record.message.startswith("snapshot ignored") and record.fields == fields  # type: ignore[attr-defined]


class FullSnapshots(MemorySnapshots):
    async def save(self, snapshot: Snapshot) -> None:
        raise Unavailable("the disk is full")


async def test_a_snapshot_that_cannot_be_saved_costs_a_log_line_only(caplog: pytest.LogCaptureFixture) -> None:
    async with running(MemoryJournal(), FullSnapshots(), every=2) as fold:
        for number in range(5):
            await run(fold, f"c{number}", 1)
        assert fold.state == Total(5, 5)
    assert "snapshot not saved" in caplog.text
    assert caplog.records[0].fields == {"position": 2, "error": "the disk is full"}  # type: ignore[attr-defined]


async def test_a_journal_of_a_newer_program_is_refused_at_start() -> None:
    journal = MemoryJournal()
    await journal.append(0, [msgspec.structs.replace(by_other(1), version=2)])
    with pytest.raises(Invalid, match="version 2; this program knows versions up to 1"):
        await make(journal).start()


async def test_subscribers_that_never_keep_up_lose_nothing() -> None:
    journal = FaultyJournal()
    async with running(journal) as fold:
        slow = fold.subscribe(after=0)
        seen = []
        total = 2 * RECENT + 300
        for start in range(0, total, 100):
            await run(fold, f"c{start}", *range(start, start + 100))
            if start % 300 == 0:
                seen.append(await anext(slow))
        async for step in slow:
            seen.append(step)
            if step[0] == fold.position:
                break
        assert [position for position, _ in seen] == list(range(1, fold.position + 1))
        assert [event.amount for _, event in seen] == list(range(fold.position))  # type: ignore[attr-defined]


async def test_subscribers_start_anywhere_and_see_an_event_once_it_is_part_of_the_state() -> None:
    async with running(MemoryJournal()) as fold:
        await run(fold, "c0", 1, 2, 3)
        live = asyncio.create_task(take(fold, 1, 4))
        resumed = asyncio.create_task(take(fold, 3, 2))
        positions = []

        async def watch() -> None:
            async for position, _ in fold.subscribe(3):
                positions.append((position, fold.position))

        watcher = asyncio.create_task(watch())
        await asyncio.sleep(0)
        await run(fold, "c1", 4)
        await run(fold, "c2", 5)
        assert await live == [(2, 2), (3, 3), (4, 4), (5, 5)]
        assert await resumed == [(4, 4), (5, 5)]
        await fold.close()
        await watcher
        assert [position for position, _ in positions] == [4, 5]
        assert all(position <= state for position, state in positions)


async def test_a_subscriber_from_a_lost_future_is_told() -> None:
    async with running(MemoryJournal()) as fold:
        with pytest.raises(Conflict, match="beyond the journal's head 0"):
            fold.subscribe(after=1)


async def test_whatever_fails_each_command_is_applied_once_and_a_replay_agrees() -> None:
    dice = random.Random(3)
    journal, snapshots = FaultyJournal(), MemorySnapshots()
    async with running(journal, snapshots, every=50) as fold:
        for number in range(300):
            fault = dice.randrange(6)
            if fault == 0:
                journal.fail(Unavailable("nothing recorded"))
            elif fault == 1:
                journal.fail(Unavailable("the answer was lost"), after_recording=True)
            elif fault == 2:
                journal.overtake([by_other(1, f"other-{number}")], times=dice.randint(1, 3))
            for _ in range(dice.randint(2, 3)):
                with contextlib.suppress(Unavailable):
                    await run(fold, f"c{number}", *range(dice.randint(1, 3)))
        expected = fold.state
    commands = [(await journal.find(f"c{number}"))[0].position for number in range(300)]
    assert commands == sorted(set(commands))
    for kept in (snapshots, MemorySnapshots()):
        async with running(journal, kept) as fold:
            assert fold.state == expected
            assert fold.state.count == fold.position
