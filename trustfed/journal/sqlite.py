"""The journal, its snapshots and the ledger of one process, in one data directory.

    store = open_store(Path("/var/lib/trustfed/hub"))        # lock, journal.db, ledger.db; 0600 in a 0700 directory
    await store.journal.append(0, events)
    await store.close()

Trust sentence: the disk is trusted to keep what it has synced. What it damages is found: everything after the last
snapshot when the store is opened, everything else when it is read (the newest facts are read from memory, as they were
written), and all of it by `verify`. Records cut off the end are
missed if they lay in a full tile of the Merkle log; a cut within the last thousand, one of the tiles too, or a forgery by
someone who may write the files is not found here: signed, cosigned checkpoints show them.
Only a local disk will do: WAL needs shared memory and working locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from trustfed.journal.bounds import check_head, check_trim, check_window, encode_events, encode_facts
from trustfed.journal.chain import ANCHOR_TABLE, Chain, lookup_of
from trustfed.journal.database import Database, Format
from trustfed.journal.directory import prepare
from trustfed.journal.events import Event, Fact, Recorded, RecordedFact
from trustfed.journal.head import Head
from trustfed.journal.merkle.check import check_tiles
from trustfed.journal.merkle.sequencer import TileLog
from trustfed.journal.merkle.tile_table import TILE_TABLE
from trustfed.journal.ports import MAX_EVENTS, MAX_READ, Corrupt
from trustfed.journal.retention import segments_before, trim
from trustfed.journal.sqlite_snapshots import SNAPSHOT_TABLE, SqliteSnapshots, load_snapshot
from trustfed.journal.tail import Tail
from trustfed.runtime.files import DirectoryLock

SCHEMA_VERSION = 2
_TAIL = 1_000
_STEP = 1_000

_EVENT = msgspec.json.Decoder(Event)
_FACT = msgspec.json.Decoder(Fact)


def _event(position: int, data: bytes) -> Recorded:
    try:
        return Recorded(position, _EVENT.decode(data), data)
    except msgspec.DecodeError:
        raise Corrupt(f"record {position} of events is not an event", position=position) from None


def _fact(position: int, data: bytes) -> RecordedFact:
    try:
        return RecordedFact(position, _FACT.decode(data), data)
    except msgspec.DecodeError:
        raise Corrupt(f"record {position} of facts is not a fact", position=position) from None


def _event_names(position: int, data: bytes) -> tuple[str, ...]:
    return (_event(position, data).event.command_id,)


def _fact_names(position: int, data: bytes) -> tuple[str, ...]:
    fact = _fact(position, data).fact
    return fact.kind, fact.key


_EVENTS = Chain("events", _event_names)
_FACTS = Chain("facts", _fact_names)
# Application ids: "tfJ1" and "tfL1" in ASCII.
# Version 1 had no Merkle log: its files get the last two tables, and the sequencer integrates what is there.
_JOURNAL_FORMAT = Format(0x74664A31, SCHEMA_VERSION, (*_EVENTS.schema, SNAPSHOT_TABLE, TILE_TABLE, ANCHOR_TABLE), 3)
_LEDGER_FORMAT = Format(0x74664C31, SCHEMA_VERSION, (*_FACTS.schema, TILE_TABLE, ANCHOR_TABLE), 2)


class SqliteJournal:
    """A Journal in journal.db: one durable write per group of appends, each row chained to the one before."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._head = Head(database.read_now(_EVENTS.head)[0])
        self.log = TileLog(database, _EVENTS, self._head)

    async def append(self, expected: int, events: Sequence[Event]) -> int:
        encoded = encode_events(events)
        rows = [(lookup_of(event.command_id), data) for event, data in zip(events, encoded, strict=True)]

        def work(connection: sqlite3.Connection) -> int:
            check_head(_EVENTS.head(connection)[0], expected)
            return _EVENTS.append(connection, rows)

        def durable(head: int) -> None:
            self.log.hand_over(head, encoded)
            self._head.advance(head)

        return await self._database.write(work, durable, sum(map(len, encoded)))

    async def read(self, after: int, limit: int) -> list[Recorded]:
        check_window(after, limit)
        head = self._head.position
        rows = await self._database.read(lambda connection: _EVENTS.read(connection, after, limit))
        if not rows:
            _check_end(_EVENTS, after, head)
        return [_event(position, data) for position, data in rows]

    async def find(self, command_id: str) -> list[Recorded]:
        rows = await self._database.read(lambda connection: _EVENTS.find(connection, lookup_of(command_id), MAX_EVENTS))
        records = [_event(position, data) for position, data in rows]
        return [record for record in records if record.event.command_id == command_id]

    async def wait(self, after: int) -> int:
        return await self._head.beyond(after)

    async def verify(self) -> int:
        """Check the whole file; gives the position reached."""
        return await _verify(self._database, _EVENTS, self._head.position)

    async def close(self) -> None:
        self._head.close()
        await self.log.close()
        await self._database.close()


class SqliteLedger:
    """A Ledger in ledger.db: all who wait share one durable write, facts are found by kind and key."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._head = Head(database.read_now(_FACTS.head)[0])
        self._first = database.read_now(_FACTS.anchor)[0] + 1
        self._trimming = asyncio.Lock()
        self._tail = Tail()
        self.log = TileLog(database, _FACTS, self._head)

    @property
    def first(self) -> int:
        return self._first

    @property
    def position(self) -> int:
        """The last durable position; 0 before the first."""
        return self._head.position

    async def append(self, facts: Sequence[Fact]) -> None:
        encoded = encode_facts(facts)
        rows = [(lookup_of(fact.kind, fact.key), data) for fact, data in zip(facts, encoded, strict=True)]

        def durable(head: int) -> None:
            self.log.hand_over(head, encoded)
            self._tail.put(head, facts, encoded)
            self._head.advance(head)

        await self._database.write(lambda connection: _FACTS.append(connection, rows), durable, sum(map(len, encoded)))

    async def read(self, after: int, limit: int) -> list[RecordedFact]:
        check_window(after, limit)
        head = self._head.position
        if after + 1 >= self._first and (newest := self._tail.read(after, limit)):
            return newest
        rows = await self._database.read(lambda connection: _FACTS.read(connection, after, limit))
        if not rows:
            _check_end(_FACTS, after, head)
        return [_fact(position, data) for position, data in rows]

    async def find(self, kind: str, key: str) -> list[Fact]:
        return [recorded.fact for recorded in await self.located(kind, key)]

    async def located(self, kind: str, key: str) -> list[RecordedFact]:
        rows = await self._database.read(lambda connection: _FACTS.find(connection, lookup_of(kind, key), MAX_READ))
        found = [_fact(position, data) for position, data in rows]
        return [recorded for recorded in found if (recorded.fact.kind, recorded.fact.key) == (kind, key)]

    async def trim(self, before: int) -> int:
        """Let the facts before position `before` go, in whole segments; gives the first that is retained."""

        def moved(first: int) -> None:
            self._first = first
            self.log.trim(first - 1)

        check_trim(before)
        async with self._trimming:
            last = segments_before(before, self._head.position)
            await self.log.tiled(last)
            await trim(self._database, _FACTS, last, moved)
        return self._first

    async def verify(self) -> int:
        """Check the whole file; gives the position reached."""
        async with self._trimming:
            return await _verify(self._database, _FACTS, self._head.position)

    async def close(self) -> None:
        self._head.close()
        await self.log.close()
        await self._database.close()


class Verified(NamedTuple):
    """How far a full verification came, and that it found nothing: the heads it reached."""

    events: int
    facts: int


class Store:
    """The three drivers over one locked data directory."""

    def __init__(self, lock: DirectoryLock, journal: Database, ledger: Database) -> None:
        self._lock = lock
        self._journal_database, self._ledger_database = journal, ledger
        self.journal = SqliteJournal(journal)
        self.snapshots = SqliteSnapshots(journal, _EVENTS)
        self.ledger = SqliteLedger(ledger)
        self.events_log, self.facts_log = self.journal.log, self.ledger.log
        with contextlib.suppress(RuntimeError):  # opened before there is a loop: the first use starts them
            self.events_log.start()
            self.facts_log.start()

    async def trim_facts(self, before: int) -> int:
        """Let the facts before position `before` go, in whole segments of 65,536; gives the first that is retained.

        Of their Merkle tree the root of each segment stays. Writers go on meanwhile; the file does not shrink, its room
        is used again. A crash at any moment loses nothing: what was still to be deleted goes at the next call.
        """
        return await self.ledger.trim(before)

    async def verify(self) -> Verified:
        """Check every page, row, hash and index value of both files; Corrupt names the first that does not fit.

        Costs a full read of both, in a thread with connections of its own: nobody waits for it.
        """
        events = await self.journal.verify()
        facts = await self.ledger.verify()
        return Verified(events, facts)

    async def close(self) -> None:
        """Finish what was accepted, close both files, let go of the directory; twice is fine."""
        await self.journal.close()
        await self.ledger.close()
        self._lock.release()


def open_store(directory: Path) -> Store:
    """Open or make the store in `directory`, checked from its last snapshot on. Blocks: call it before serving.

    Conflict names the process that holds the directory; Corrupt names the first record that is not what was written;
    Invalid a file that is foreign or newer; Unavailable a disk that is full, read-only or failing.
    """
    prepare(directory)
    lock = DirectoryLock(directory)
    opened: list[Database] = []
    try:
        for name, form, check in (
            ("journal", _JOURNAL_FORMAT, _check_journal),
            ("ledger", _LEDGER_FORMAT, _check_ledger),
        ):
            database = Database(directory / f"{name}.db", form)
            opened.append(database)
            database.read_now(check)
        return Store(lock, *opened)
    except BaseException:
        for database in opened:
            database.close_now()
        lock.release()
        raise


def _check_journal(connection: sqlite3.Connection) -> None:
    """Check what the next start will fold: everything after the snapshot, and the newest 1,000 records anyway."""
    snapshot = load_snapshot(connection, _EVENTS)
    head = _EVENTS.head(connection)[0]
    _check_from(connection, _EVENTS, min(snapshot.position if snapshot else 0, max(0, head - _TAIL)))


def _check_ledger(connection: sqlite3.Connection) -> None:
    """Check the newest 1,000 facts: a crash damages the end, and the ledger is too long to read at every start."""
    _check_from(connection, _FACTS, max(_FACTS.anchor(connection)[0], _FACTS.head(connection)[0] - _TAIL))


def _check_from(connection: sqlite3.Connection, chain: Chain, after: int) -> int:
    while (reached := chain.verify(connection, after, _STEP)) != after:
        after = reached
    return after


async def _verify(database: Database, chain: Chain, head: int) -> int:
    reached = await asyncio.to_thread(database.inspect, lambda opened: _check_all(opened, chain))
    _check_end(chain, reached, head)
    return reached


def _check_end(chain: Chain, reached: int, head: int) -> None:
    """What was acknowledged by this process, or there when it opened the file, must still be there."""
    if reached < head:
        raise Corrupt(f"record {reached + 1} of {chain.table} is missing", position=reached + 1)


def _check_all(connection: sqlite3.Connection, chain: Chain) -> int:
    # The chain first: it can name a position, and pages only a page. The pages after it: they hold the index, too.
    reached = _check_from(connection, chain, chain.anchor(connection)[0])
    check_tiles(connection, chain, reached)
    problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if problem != b"ok":
        raise Corrupt(f"{chain.table}: SQLite's integrity check found: {problem.decode(errors='replace')}")
    return reached
