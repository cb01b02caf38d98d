"""What an append costs in a long log, against an empty one: the same facts, in turn, in processor time.

The long ledger is one whose first 99,942,400 entries have left by retention: its anchor and the right edge of its tree are
written into the file as they would be then. So its tree is as high as a whole one's; its table of rows is not as large, which
an append at the end of it sees only by the depth of a B-tree.
"""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from bench.figures import Run
from tests.fakes.evidence_facts import START
from trustfed.journal.events import Fact
from trustfed.journal.merkle import tile_table
from trustfed.journal.merkle.log import SEGMENT
from trustfed.journal.merkle.tiles import HEIGHT, MAX_LEVEL, WIDTH, Tile
from trustfed.journal.sqlite import Store, open_store

GROUP = "evidence"
LONG = 1_525 * SEGMENT
ROUNDS, APPENDS, BATCH = 10, 12, 500


async def take(run: Run, folder: Path, fact: Callable[[int, int], Fact]) -> None:
    """Add the two costs and their ratio; `fact` makes one by its number and its time."""
    stores = [await _store(folder / "empty", 0), await _store(folder / "long", LONG)]
    taken: list[list[float]] = [[], []]
    try:
        for number in range(ROUNDS):
            batches = [
                [fact(one, START + one) for one in range(start, start + BATCH)]
                for start in range(number * APPENDS * BATCH, (number + 1) * APPENDS * BATCH, BATCH)
            ]
            for side in (0, 1) if number % 2 else (1, 0):
                begun = time.process_time()
                for batch in batches:
                    await stores[side].ledger.append(batch)
                await stores[side].facts_log.integrated(stores[side].ledger.position)
                taken[side].append((time.process_time() - begun) / (APPENDS * BATCH))
    finally:
        for store in stores:
            await store.close()
    empty, long = (statistics.median(side) for side in taken)
    run.own(GROUP, "an entry appended and in its Merkle log, processor time: in an empty log", "µs", 1e6 * empty)
    run.own(GROUP, f"an entry appended and in its Merkle log, processor time: behind {LONG:,} others", "µs", 1e6 * long)


async def _store(folder: Path, behind: int) -> Store:
    """A store whose ledger goes on behind so many entries, a multiple of a segment."""
    await open_store(folder).close()
    if behind:
        with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
            connection.execute("INSERT INTO anchor VALUES (1, ?, ?)", (behind, sha256(b"the last that left").digest()))
            tile_table.write(connection, _edge(behind))
    store = open_store(folder)
    assert store.facts_log.size == behind, "the ledger does not go on where it should"
    return store


def _edge(size: int) -> list[tuple[Tile, bytes]]:
    """The last tile of each level of a tree of `size` leaves."""
    tiles = []
    for level in range(MAX_LEVEL + 1):
        hashes = size >> HEIGHT * level
        if hashes:
            number, width = divmod(hashes - 1, WIDTH)
            tiles.append((Tile(level, number, width + 1), sha256(b"%d" % level).digest() * (width + 1)))
    return tiles
