"""One append-only table whose rows are chained by hash: what is read is what was written, in the order it was written.

Row n stores sha256(hash of row n - 1 || canonical bytes); row 0 is the hash of the table's name. So a flipped bit, a
swapped, missing or inserted row is found by whoever reads past it, and named by position. The chain has no key: it
shows damage, not forgery by someone who may write the file. That takes the signed checkpoints of the Merkle log.

Rows may leave at the beginning. The anchor then keeps the position and hash of the last that left: the chain goes on from
it, and what is still there below it is as good as gone.

Rows are found by `lookup`, the first 8 bytes of the SHA-256 of a name: a third of the size of an index over the names
themselves. Callers compare the full name, so a collision costs a look and nothing else. Names are random (serials), so
a plain index would dirty one more page per row, all over a growing file. This one is cut into eras of 65,536 rows:
writes stay within some 300 pages, and a look-up probes every era (about 10 µs each when the pages are cached).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence

from trustfed.journal.ports import MAX_APPEND_BYTES, Corrupt, Trimmed

ANCHOR_TABLE = (
    "CREATE TABLE anchor (slot INTEGER PRIMARY KEY CHECK (slot = 1), position INTEGER NOT NULL, hash BLOB NOT NULL)"
)

_ERA = "position >> 16"

# Rows per INSERT. One statement takes and gives back the GIL once, however many rows it has: with a statement per row,
# a busy event loop would make the writer wait up to 5 ms for each. Few sizes keep the statements cached.
_ROWS = (128, 16, 4, 1)


def lookup_of(*names: str) -> int:
    """The 64-bit index value of a name, or of several."""
    digest = hashlib.sha256("\x00".join(names).encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class Chain:
    """The SQL of one chained table; holds no state, so the writer's and the reader's thread share it."""

    def __init__(self, table: str, names_of: Callable[[int, bytes], tuple[str, ...]]) -> None:
        self.table = table
        self._names_of = names_of
        self._genesis = hashlib.sha256(f"trustfed {table} 1".encode()).digest()
        self._inserts = {
            rows: f"INSERT INTO {table} VALUES " + ", ".join(["(?, ?, ?, ?)"] * rows)  # noqa: S608
            for rows in _ROWS
        }

    @property
    def schema(self) -> tuple[str, ...]:
        """The statements that make the table."""
        return (
            f"CREATE TABLE {self.table} (position INTEGER PRIMARY KEY, lookup INTEGER NOT NULL,"
            " hash BLOB NOT NULL, canonical BLOB NOT NULL)",
            f"CREATE INDEX {self.table}_lookup ON {self.table} ({_ERA}, lookup)",
        )

    def head(self, connection: sqlite3.Connection) -> tuple[int, bytes]:
        """Give the last position and its hash."""
        row = connection.execute(f"SELECT position, hash FROM {self.table} ORDER BY position DESC LIMIT 1").fetchone()  # noqa: S608
        return row if row is not None else self.anchor(connection)

    def anchor(self, connection: sqlite3.Connection) -> tuple[int, bytes]:
        """Give the position and hash that the first retained row follows from: 0 and the genesis if nothing left."""
        row = connection.execute("SELECT position, hash FROM anchor").fetchone()
        return row if row is not None else (0, self._genesis)

    def move_anchor(self, connection: sqlite3.Connection, position: int) -> None:
        """Let the chain begin behind `position`, which has a row; the rows up to there go with `drop`."""
        digest = self.hash_at(connection, position)
        if digest is None:
            raise self._corrupt(position, "is missing")
        connection.execute("REPLACE INTO anchor VALUES (1, ?, ?)", (position, digest))

    def drop(self, connection: sqlite3.Connection, limit: int) -> int:
        """Delete up to `limit` rows that the anchor has left behind; gives how many went."""
        last = self.anchor(connection)[0]
        (first,) = connection.execute(f"SELECT min(position) FROM {self.table}").fetchone()  # noqa: S608
        if first is None or first > last:
            return 0
        return connection.execute(
            f"DELETE FROM {self.table} WHERE position <= ?",  # noqa: S608
            (min(last, first + limit - 1),),
        ).rowcount

    def append(self, connection: sqlite3.Connection, rows: Sequence[tuple[int, bytes]]) -> int:
        """Write (lookup, canonical) rows behind the head, inside the caller's transaction; gives the new head."""
        position, digest = self.head(connection)
        values: list[int | bytes] = []
        for lookup, canonical in rows:
            position += 1
            digest = hashlib.sha256(digest + canonical).digest()
            values += (position, lookup, digest, canonical)
        start = 0
        for size in _ROWS:
            while len(values) - start >= 4 * size:
                connection.execute(self._inserts[size], values[start : start + 4 * size])
                start += 4 * size
        return position

    def hash_at(self, connection: sqlite3.Connection, position: int) -> bytes | None:
        """Give the chain's hash at `position`; None if there is no such row."""
        anchored, digest = self.anchor(connection)
        if position <= anchored:
            return digest if position == anchored else None
        row = connection.execute(f"SELECT hash FROM {self.table} WHERE position = ?", (position,)).fetchone()  # noqa: S608
        return row[0] if row is not None else None

    def read(self, connection: sqlite3.Connection, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Give up to `limit` (position, canonical) above `after`, each checked against its predecessor's hash.

        Ends early after 16 MiB, never before the first row. Trimmed when rows above `after` have left.
        """
        return [(position, data) for position, _, data in self._verified(connection, after, limit)]

    def find(self, connection: sqlite3.Connection, lookup: int, limit: int) -> list[tuple[int, bytes]]:
        """Give up to `limit` (position, canonical) with this lookup, in order, each checked like `read`."""
        first = self.anchor(connection)[0] + 1
        rows = connection.execute(
            f"WITH RECURSIVE era(n) AS (SELECT ? UNION ALL SELECT n + 1 FROM era WHERE n < ?)"  # noqa: S608
            f" SELECT position FROM era CROSS JOIN {self.table} ON {_ERA} = n AND lookup = ? AND position >= ?"
            " ORDER BY n, position LIMIT ?",
            (first >> 16, self.head(connection)[0] >> 16, lookup, first, limit),
        ).fetchall()
        return [record for (position,) in rows for record in self.read(connection, position - 1, 1)]

    def verify(self, connection: sqlite3.Connection, after: int, limit: int) -> int:
        """Check up to `limit` rows above `after`, their index values too; gives the last position checked."""
        for position, lookup, data in self._verified(connection, after, limit):
            if lookup_of(*self._names_of(position, data)) != lookup:
                raise self._corrupt(position, "is indexed under another name")
            after = position
        return after

    def _verified(self, connection: sqlite3.Connection, after: int, limit: int) -> list[tuple[int, int, bytes]]:
        anchored = self.anchor(connection)[0]
        if after < anchored:
            raise Trimmed(f"the first {anchored} records of {self.table} left by retention", first=anchored + 1)
        rows = connection.execute(
            f"SELECT position, lookup, hash, canonical FROM {self.table} WHERE position > ? ORDER BY position LIMIT ?",  # noqa: S608
            (after, limit),
        )
        expected, digest, size = after + 1, self.hash_at(connection, after), 0
        verified = []
        for position, lookup, stored, data in rows:
            if digest is None:
                raise self._corrupt(after, "is missing")
            if position != expected:
                raise self._corrupt(expected, "is missing")
            if type(data) is not bytes or type(digest) is not bytes:
                raise self._corrupt(position, "is not what was written")
            digest = hashlib.sha256(digest + data).digest()
            if digest != stored:
                raise self._corrupt(position, "does not follow from the one before it")
            verified.append((position, lookup, data))
            expected += 1
            size += len(data)
            if size >= MAX_APPEND_BYTES:
                break
        return verified

    def _corrupt(self, position: int, why: str) -> Corrupt:
        return Corrupt(f"record {position} of {self.table} {why}", position=position)
