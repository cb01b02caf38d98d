"""A damaged store is refused or answers what was written, never anything else; what is refused is named."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from trustfed.errors import TrustfedError
from trustfed.journal.events import Event, Fact
from trustfed.journal.ports import Corrupt, Snapshot
from trustfed.journal.sqlite import open_store

EVENTS = 1_500


def event(number: int) -> Event:
    return Event(
        f"id-{number}", f"command-{number}", 1, "actor", "", "", "x.y", 1, {"number": number, "text": "t" * 50}
    )


def fact(number: int) -> Fact:
    return Fact(1, "x509.issued", f"{number:040x}", {"number": number})


async def fill(directory: Path, *, snapshot_at: int = 0) -> None:
    store = open_store(directory)
    for start in range(0, EVENTS, 100):
        await store.journal.append(start, [event(number) for number in range(start + 1, start + 101)])
        await store.ledger.append([fact(number) for number in range(start + 1, start + 101)])
    if snapshot_at:
        await store.snapshots.save(Snapshot(snapshot_at, 1, b"state" * 1000))
    await store.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("filled")
    asyncio.run(fill(directory))
    return directory


@pytest.fixture(scope="module")
def with_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("snapshot")
    asyncio.run(fill(directory, snapshot_at=EVENTS))
    return directory


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def tamper(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    table = "events" if path.name == "journal.db" else "facts"

    def chained(position: int, data: bytes) -> bytes:
        (before,) = connection.execute(f"SELECT hash FROM {table} WHERE position = {position}").fetchone()
        return hashlib.sha256(before + data).digest()

    connection.create_function("sha256", 2, chained)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


async def read_all(directory: Path) -> tuple[list[Event], list[Fact], Snapshot | None]:
    """Open, verify and read everything, as an operator and then a process would."""
    store = open_store(directory)
    try:
        events: list[Event] = []
        facts: list[Fact] = []
        while records := await store.journal.read(len(events), 1000):
            events += [record.event for record in records]
        while recorded := await store.ledger.read(len(facts), 1000):
            facts += [each.fact for each in recorded]
        snapshot = await store.snapshots.load()
        await store.verify()
    finally:
        await store.close()
    return events, facts, snapshot


SWAP = (
    "UPDATE {table} SET position = -1 WHERE position = 1200",
    "UPDATE {table} SET position = 1200 WHERE position = 1201",
    "UPDATE {table} SET position = 1201 WHERE position = -1",
)
FAULTS = {
    "gap": (["DELETE FROM {table} WHERE position = 1200"], 1200, "is missing"),
    "rehashed": (
        [
            "UPDATE {table} SET canonical = x'7b7d', hash = sha256(1199, x'7b7d') WHERE position = 1200",
            "DELETE FROM {table} WHERE position > 1200",
        ],
        1200,
        "is not an? (event|fact)",
    ),
    "swapped": (SWAP, 1200, "does not follow"),
    "rewritten": (
        ["UPDATE {table} SET canonical = CAST(replace(canonical, '1200', '1201') AS BLOB) WHERE position = 1200"],
        1200,
        "does not follow",
    ),
    "not-a-blob": (
        ["UPDATE {table} SET canonical = 'text' WHERE position = 1200"],
        1200,
        "does not follow|not what was",
    ),
    "hash-rewritten": (["UPDATE {table} SET hash = zeroblob(32) WHERE position = 1200"], 1200, "does not follow"),
    "inserted": (
        ["INSERT INTO {table} SELECT 1501, lookup, hash, canonical FROM {table} WHERE position = 9"],
        1501,
        "fol",
    ),
    "index-rewritten": (["UPDATE {table} SET lookup = 5 WHERE position = 1200"], 1200, "indexed under another name"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("name", "table"), [("journal.db", "events"), ("ledger.db", "facts")])
def test_a_damaged_record_is_named_when_the_store_is_opened(
    filled: Path, tmp_path: Path, name: str, table: str, fault: str
) -> None:
    statements, position, message = FAULTS[fault]
    directory = copy(filled, tmp_path / "store")
    tamper(directory / name, *(statement.format(table=table) for statement in statements))
    with pytest.raises(Corrupt, match=f"record {position} of {table}.*({message})") as caught:
        open_store(directory)
    assert caught.value.position == position
    assert "backup" in caught.value.hint


@pytest.mark.parametrize(("name", "table", "position"), [("journal.db", "events", 1), ("ledger.db", "facts", 500)])
def test_a_lost_beginning_is_missed(filled: Path, tmp_path: Path, name: str, table: str, position: int) -> None:
    directory = copy(filled, tmp_path / "store")
    tamper(directory / name, f"DELETE FROM {table} WHERE position < 1200")
    with pytest.raises(Corrupt, match=f"record {position} of {table} is missing"):
        open_store(directory)


async def test_damage_before_the_checked_end_is_found_when_it_is_read_and_by_verify(
    with_snapshot: Path, tmp_path: Path
) -> None:
    directory = copy(with_snapshot, tmp_path / "store")
    for name, table in (("journal.db", "events"), ("ledger.db", "facts")):
        tamper(directory / name, f"UPDATE {table} SET canonical = x'7b7d' WHERE position = 100")
    store = open_store(directory)
    assert len(await store.journal.read(1000, 1000)) == 500
    assert len(await store.journal.read(0, 99)) == 99
    with pytest.raises(Corrupt, match="record 100 of events"):
        await store.journal.read(50, 100)
    with pytest.raises(Corrupt, match="record 100 of events"):
        await store.journal.find("command-100")
    with pytest.raises(Corrupt, match="record 100 of facts"):
        await store.ledger.read(0, 1000)
    with pytest.raises(Corrupt, match="record 100 of facts"):
        await store.ledger.find("x509.issued", f"{100:040x}")
    with pytest.raises(Corrupt, match="record 100 of events"):
        await store.verify()
    assert await store.journal.append(EVENTS, [event(EVENTS + 1)]) == EVENTS + 1
    await store.close()


async def test_records_that_vanish_while_the_store_is_open_are_missed(filled: Path, tmp_path: Path) -> None:
    directory = copy(filled, tmp_path / "store")
    store = open_store(directory)
    tamper(directory / "journal.db", "DELETE FROM events WHERE position > 1000")
    tamper(directory / "ledger.db", "DELETE FROM facts WHERE position > 1000")
    with pytest.raises(Corrupt, match="record 1001 of events is missing"):
        await store.journal.read(1000, 10)
    with pytest.raises(Corrupt, match="record 1001 of facts is missing"):
        await store.ledger.read(1000, 10)
    with pytest.raises(Corrupt, match="record 1001 of events is missing"):
        await store.verify()
    await store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE snapshot SET data = x'00'",
        "UPDATE snapshot SET schema = 2",
        "UPDATE snapshot SET position = 1400",
        "UPDATE snapshot SET position = 9999",
        "UPDATE snapshot SET data = 5",
        "UPDATE snapshot SET hash = zeroblob(32)",
        "UPDATE snapshot SET hash = 'text', checksum = NULL",
    ],
)
async def test_a_damaged_snapshot_is_ignored_with_a_line_in_the_log(
    with_snapshot: Path, tmp_path: Path, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory = copy(with_snapshot, tmp_path / "store")
    statement = statement.replace("checksum = NULL", "checksum = ''")
    tamper(directory / "journal.db", statement)
    with caplog.at_level(logging.WARNING):
        events, _, snapshot = await read_all(directory)
    assert snapshot is None
    assert len(events) == EVENTS
    assert "snapshot ignored: it is damaged or of another journal" in caplog.text


async def test_a_snapshot_of_another_journal_is_ignored(with_snapshot: Path, tmp_path: Path) -> None:
    other = open_store(tmp_path / "other")
    await other.journal.append(0, [event(1)] * 1000)
    await other.journal.append(1000, [event(1)] * 500)
    await other.close()
    tamper(
        tmp_path / "other" / "journal.db",
        f"ATTACH '{with_snapshot / 'journal.db'}' AS theirs",
        "INSERT INTO snapshot SELECT * FROM theirs.snapshot",
    )
    other = open_store(tmp_path / "other")
    assert await other.snapshots.load() is None
    await other.close()


def test_flipped_bytes_anywhere_never_change_an_answer(with_snapshot: Path, tmp_path: Path) -> None:
    """Flip one to three bytes of one page at a time; each copy is refused or still answers exactly what was written."""
    dice = random.Random(7)
    truth = ([event(n) for n in range(1, EVENTS + 1)], [fact(n) for n in range(1, EVENTS + 1)])
    refused = harmless = 0
    for name in ("journal.db", "ledger.db"):
        pristine = (with_snapshot / name).read_bytes()
        for page in sorted(dice.sample(range(1, len(pristine) // 4096), 25)) + [0] * 10:
            directory = copy(with_snapshot, tmp_path / f"{name}-{page}-{dice.random()}")
            damaged = bytearray(pristine)
            for _ in range(dice.randint(1, 3)):
                damaged[page * 4096 + dice.randrange(4096 if page else 200)] ^= dice.randrange(1, 256)
            (directory / name).write_bytes(damaged)
            answer: Any = None
            try:
                answer = asyncio.run(read_all(directory))
            except TrustfedError as error:
                refused += 1
                assert str(error)
            if answer is not None:
                harmless += 1
                assert answer[:2] == truth
                assert answer[2] in (None, Snapshot(EVENTS, 1, b"state" * 1000))
            shutil.rmtree(directory)
    assert refused > 2 * harmless


def test_a_log_cut_or_flipped_anywhere_leaves_whole_appends_only(tmp_path: Path) -> None:
    """What a crash can do to the write-ahead log: each copy opens with a prefix of whole appends, or is refused."""
    source = tmp_path / "source"
    asyncio.run(_crashed(source))
    log = (source / "journal.db-wal").read_bytes()
    assert len(log) > 100_000
    dice = random.Random(11)
    lengths = set()
    for trial in range(40):
        directory = copy(source, tmp_path / f"copy-{trial}")
        damaged = bytearray(log[: dice.randrange(len(log))] if trial % 2 else log)
        if trial % 2 == 0:
            damaged[dice.randrange(len(damaged))] ^= 0x40
        (directory / "journal.db-wal").write_bytes(damaged)
        (directory / "journal.db-shm").unlink()
        events, _, _ = asyncio.run(read_all(directory))
        assert events == [event(number) for number in range(1, len(events) + 1)]
        assert len(events) % 5 == 0
        lengths.add(len(events))
        shutil.rmtree(directory)
    assert len(lengths) > 10


async def _crashed(target: Path) -> None:
    """A copy of the files of a store that is still open: what a dead process leaves behind."""
    store = open_store(target.with_name("live"))
    for start in range(0, 200, 5):
        await store.journal.append(start, [event(number) for number in range(start + 1, start + 6)])
    copy(target.with_name("live"), target)
    await store.close()
