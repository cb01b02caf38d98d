"""The snapshot of the fold, in one row beside the events it was folded from."""

from __future__ import annotations

import hashlib
import sqlite3

import msgspec

from trustfed.errors import Invalid
from trustfed.journal.chain import Chain
from trustfed.journal.database import Database
from trustfed.journal.ports import Snapshot
from trustfed.runtime import logs

MAX_SNAPSHOT_BYTES = 256 << 20

SNAPSHOT_TABLE = (
    "CREATE TABLE snapshot (slot INTEGER PRIMARY KEY CHECK (slot = 1), position INTEGER NOT NULL,"
    " schema INTEGER NOT NULL, hash BLOB NOT NULL, checksum BLOB NOT NULL, data BLOB NOT NULL)"
)

_log = logs.get("journal")


class SqliteSnapshots:
    """Snapshots in journal.db, bound by hash to the journal they were folded from: a backup holds both or neither."""

    def __init__(self, database: Database, events: Chain) -> None:
        self._database, self._events = database, events

    async def load(self) -> Snapshot | None:
        return await self._database.read(lambda connection: load_snapshot(connection, self._events))

    async def save(self, snapshot: Snapshot) -> None:
        if len(snapshot.data) > MAX_SNAPSHOT_BYTES:
            raise Invalid(f"a snapshot of {len(snapshot.data)} bytes; at most {MAX_SNAPSHOT_BYTES} are kept")

        def work(connection: sqlite3.Connection) -> None:
            digest = self._events.hash_at(connection, snapshot.position)
            if digest is None:
                raise Invalid(f"a snapshot of position {snapshot.position}, which the journal lacks")
            connection.execute(
                "REPLACE INTO snapshot VALUES (1, ?, ?, ?, ?, ?)",
                (snapshot.position, snapshot.schema, digest, _checksum(snapshot, digest), snapshot.data),
            )

        await self._database.write(work, lambda _: None, len(snapshot.data))


def load_snapshot(connection: sqlite3.Connection, events: Chain) -> Snapshot | None:
    """Give the snapshot if it is intact and of this chain; otherwise None, and a line in the log."""
    row = connection.execute("SELECT position, schema, hash, checksum, data FROM snapshot").fetchone()
    if row is None:
        return None
    position, schema, digest, checksum, data = row
    try:
        snapshot = msgspec.convert({"position": position, "schema": schema, "data": data}, Snapshot)
        intact = _checksum(snapshot, digest) == checksum and events.hash_at(connection, position) == digest
    except (msgspec.ValidationError, TypeError):
        intact = False
    if not intact:
        _log.warning(
            "snapshot ignored: it is damaged or of another journal; the journal is replayed from its start",
            position=position,
        )
        return None
    return snapshot


def _checksum(snapshot: Snapshot, digest: bytes) -> bytes:
    head = f"{snapshot.position} {snapshot.schema} ".encode()
    return hashlib.sha256(head + digest + snapshot.data).digest()
