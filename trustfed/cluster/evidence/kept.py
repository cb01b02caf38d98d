"""What this room remembers in a file of its own: how far it has read the ledger, and the notes that others signed.

Trust sentence: the first half is derived, and is made anew from the ledger when the file is gone. The second half, under
"note/", is not: without it the newest checkpoints of the hub are believed anew, and a fork before that is not found.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from trustfed.journal.database import Database, Format

NOTES = "note/"
_TABLE = "CREATE TABLE kept (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
_FORMAT = Format(0x74664B31, 1, (_TABLE,))  # "tfK1"


class Kept:
    """Names and values. `values` are what was there when it was opened, and the notes as they are now. None removes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.values: dict[str, bytes] = database.read_now(_all)

    async def save(self, changes: Mapping[str, bytes | None]) -> None:
        """Write all changes or none, durable on return. Raises Unavailable."""
        if not changes:
            return

        def work(connection: sqlite3.Connection) -> None:
            for name, value in changes.items():
                if value is None:
                    connection.execute("DELETE FROM kept WHERE name = ?", (name,))
                else:
                    connection.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (name, value))

        await self._database.write(work, lambda _: None, sum(len(value or b"") for value in changes.values()))
        self.values.update({name: value or b"" for name, value in changes.items() if name.startswith(NOTES)})

    async def close(self) -> None:
        """Finish and close the file."""
        await self._database.close()


def _all(connection: sqlite3.Connection) -> dict[str, bytes]:
    return {name.decode(): bytes(value) for name, value in connection.execute("SELECT name, value FROM kept")}


async def open_kept(path: Path) -> Kept:
    """Open or make the file (0600). Raises Invalid, Corrupt, Unavailable."""
    return await asyncio.to_thread(_open, path)


def _open(path: Path) -> Kept:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(path, _FORMAT)
    try:
        return Kept(database)
    except BaseException:
        database.close_now()
        raise
