"""Rows leave a chained table at its beginning, in whole subtrees of its Merkle log, while others go on writing.

First the anchor moves, durably: from then on nothing below it is read or proven. Then rows and tiles are deleted in small
steps, each a transaction of its own among those of the writers. A crash in between leaves rows that nobody sees; they
go with the next call.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from trustfed.journal.chain import Chain
from trustfed.journal.database import Database
from trustfed.journal.merkle import tile_table
from trustfed.journal.merkle.log import SEGMENT

_STEP_ROWS = 2048  # some 20 ms of the writer
_STEP_TILES = 64


def segments_before(before: int, head: int) -> int:
    """How many rows lie in whole segments below position `before` of a table that ends at `head`."""
    return min(before - 1, head) // SEGMENT * SEGMENT


async def trim(database: Database, chain: Chain, last: int, moved: Callable[[int], None]) -> None:
    """Let the rows up to position `last` go: whole segments, all of whose tiles are written.

    `moved` is told the first retained position once that is durable.
    """

    def move(connection: sqlite3.Connection) -> int:
        anchored = chain.anchor(connection)[0]
        if last > anchored:
            chain.move_anchor(connection, last)
            return last
        return anchored

    def drop(connection: sqlite3.Connection) -> int:
        return chain.drop(connection, _STEP_ROWS)

    anchored = await database.write(move, lambda position: moved(position + 1), 0)

    def drop_tiles(connection: sqlite3.Connection) -> int:
        return tile_table.drop(connection, anchored, _STEP_TILES)

    for step in (drop, drop_tiles):
        while await database.write(step, lambda _: None, 0):
            pass
