"""What clusters said, kept over a restart: fleet.db.

Trust sentence: it holds what was believed of clusters, and nothing that only it knows: deleted or damaged, it is made anew, and
every cluster tells all of its counters again. So no row of it is proof, and none is ever signed.
A delta's rows and its cursor are one transaction: a cluster is told `Taken` only after that, so kill -9 loses nothing and
counts nothing twice. Counters are kept as trustfed.hub.evidence.series has them, and days of 13 months beside.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trustfed.errors import Invalid
from trustfed.hub.evidence.series import DAY, Chunk, N
from trustfed.hub.evidence.views import Failure
from trustfed.journal.database import Database, Format
from trustfed.journal.ports import Corrupt

KEEP_DAYS = 400
_SCHEMA = (
    "CREATE TABLE domains (domain TEXT PRIMARY KEY, store TEXT NOT NULL, cursor INTEGER NOT NULL, standing BLOB NOT NULL, "
    "heard_ms INTEGER NOT NULL, summarised BLOB NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE chunks (domain TEXT, class TEXT, kind TEXT, at INTEGER, data BLOB NOT NULL, mask BLOB NOT NULL, "
    "PRIMARY KEY (domain, class, kind, at)) STRICT, WITHOUT ROWID",
    "CREATE TABLE days (domain TEXT, class TEXT, day INTEGER, counts BLOB NOT NULL, mask BLOB NOT NULL, "
    "PRIMARY KEY (domain, class, day)) STRICT, WITHOUT ROWID",
    "CREATE TABLE failed (domain TEXT, id TEXT, row BLOB NOT NULL, PRIMARY KEY (domain, id)) STRICT, WITHOUT ROWID",
)
_FORMAT = Format(0x74664631, 1, _SCHEMA, len(_SCHEMA))  # "tfF1"
_FAILURE = msgspec.json.Decoder(Failure)
_COUNTS = msgspec.json.Decoder(dict[str, int])

Day = tuple[str, int, Sequence[int], bytes]
"""Class, day since the epoch, counts, and the bits of the buckets that are in it."""


class Kept(msgspec.Struct):
    """What was kept of one trust domain."""

    domain: str
    store: str
    cursor: int
    standing: bytes
    heard_ms: int
    summarised: dict[str, int]
    chunks: dict[str, list[Chunk]] = {}
    failed: list[Failure] = []


class Batch(msgspec.Struct):
    """What one delta changes. `whole`: first forget what was held."""

    store: str
    cursor: int
    heard_ms: int
    whole: bool = False
    chunks: dict[str, list[Chunk]] = {}
    failed: list[tuple[str, Failure | None]] = []
    summarised: dict[str, int] = {}
    days: list[Day] = []


class FleetStore:
    """fleet.db, off the loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> FleetStore:
        """Open or make it; one that is damaged, foreign or of another version is put aside and made anew. Blocks."""
        try:
            return cls(Database(path, _FORMAT))
        except (Corrupt, Invalid):
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                held = path.with_name(name)
                if held.exists():
                    held.rename(path.with_name(f"{name}.damaged"))
            return cls(Database(path, _FORMAT))

    def load(self) -> list[Kept]:
        """Everything, by domain; a row that cannot be read is left out. Blocks."""
        return self._database.read_now(_load)

    async def take(self, domain: str, batch: Batch) -> None:
        """Keep what a delta changed, with its cursor; durable on return."""
        size = sum(len(one.data) for chunks in batch.chunks.values() for one in chunks) + 512 * len(batch.failed) + 512
        await self._database.write(lambda connection: _take(connection, domain, batch), _nothing, size)

    async def standing(self, rows: Sequence[tuple[str, bytes, int]]) -> None:
        """Keep the newest standings: (domain, JSON, when)."""

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO domains VALUES (?1, '', 0, ?2, ?3, x'7b7d') ON CONFLICT (domain) DO UPDATE "
                "SET standing = ?2, heard_ms = max(heard_ms, ?3)",
                rows,
            )

        await self._database.write(work, _nothing, sum(len(data) for _, data, _ in rows))

    async def forget(self, domain: str) -> None:
        """Nothing of this domain is kept any more."""
        await self._database.write(lambda connection: _forget(connection, domain, "domains"), _nothing, 64)

    async def days(self, domain: str, class_: str) -> list[tuple[int, list[int]]]:
        """The days that are older than the series: (Unix ms, counts), oldest first."""

        def work(connection: sqlite3.Connection) -> list[tuple[int, list[int]]]:
            rows = connection.execute(
                "SELECT day, counts FROM days WHERE domain = ? AND class = ? ORDER BY day", (domain, class_)
            )
            return [(day * 86_400_000, _counts(counts)) for day, counts in rows]

        return await self._database.read(work)

    async def close(self) -> None:
        """Finish what was accepted; twice is fine."""
        await self._database.close()


def _take(connection: sqlite3.Connection, domain: str, batch: Batch) -> None:
    if batch.whole:
        _forget(connection, domain)
    for class_, chunks in batch.chunks.items():
        for one in chunks:
            place = (domain, class_, one.kind, one.at)
            if one.data:
                values = (*place, one.data, one.mask)
                connection.execute("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?)", values)
            else:
                connection.execute("DELETE FROM chunks WHERE (domain, class, kind, at) = (?, ?, ?, ?)", place)
    for key, failure in batch.failed:
        if failure is None:
            connection.execute("DELETE FROM failed WHERE (domain, id) = (?, ?)", (domain, key))
        else:
            row = (domain, key, msgspec.json.encode(failure))
            connection.execute("INSERT OR REPLACE INTO failed VALUES (?, ?, ?)", row)
    for day in batch.days:
        _add_day(connection, domain, day)
    if batch.days:
        oldest = batch.heard_ms // 86_400_000 - KEEP_DAYS
        connection.execute("DELETE FROM days WHERE domain = ? AND day < ?", (domain, oldest))
    connection.execute(
        "INSERT INTO domains VALUES (?1, ?2, ?3, x'', ?4, ?5) ON CONFLICT (domain) DO UPDATE "
        "SET store = ?2, cursor = ?3, heard_ms = max(heard_ms, ?4), summarised = ?5",
        (domain, batch.store, batch.cursor, batch.heard_ms, msgspec.json.encode(batch.summarised)),
    )


def _add_day(connection: sqlite3.Connection, domain: str, day: Day) -> None:
    """Add buckets to a day, each once."""
    class_, number, counts, mask = day
    row = connection.execute(
        "SELECT counts, mask FROM days WHERE (domain, class, day) = (?, ?, ?)", (domain, class_, number)
    ).fetchone()
    held, bits, more = ([0] * N, 0, int.from_bytes(mask, "little"))
    if row:
        held, bits = _counts(row[0]), int.from_bytes(row[1], "little")
        if bits & more:
            return
    total = array("Q", [one + other for one, other in zip(held, counts, strict=True)])
    merged = (bits | more).to_bytes(DAY // 8, "little")
    connection.execute(
        "INSERT OR REPLACE INTO days VALUES (?, ?, ?, ?, ?)", (domain, class_, number, total.tobytes(), merged)
    )


def _counts(data: bytes) -> list[int]:
    found = array("Q")
    found.frombytes(data)
    return found.tolist()


def _forget(connection: sqlite3.Connection, domain: str, *more: str) -> None:
    for table in ("chunks", "days", "failed", *more):
        connection.execute(f"DELETE FROM {table} WHERE domain = ?", (domain,))  # noqa: S608 (our own names)


def _load(connection: sqlite3.Connection) -> list[Kept]:
    found: dict[str, Kept] = {}
    for domain, store, cursor, standing, heard, summarised in connection.execute("SELECT * FROM domains"):
        name = domain.decode()
        found[name] = Kept(name, store.decode(), cursor, standing, heard, _COUNTS.decode(summarised), {}, [])
    for domain, class_, kind, at, data, mask in connection.execute("SELECT * FROM chunks"):
        kept = found.get(domain.decode())
        if kept:
            kept.chunks.setdefault(class_.decode(), []).append(Chunk(kind.decode(), at, data, mask))
    for domain, row in connection.execute("SELECT domain, row FROM failed"):
        kept = found.get(domain.decode())
        if kept:
            kept.failed.append(_FAILURE.decode(row))
    return list(found.values())


def _nothing(_: object) -> None:
    """There is nobody to wake."""
