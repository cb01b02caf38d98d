"""Whether the tiles of a log are those of its rows: a full read, for `verify`."""

from __future__ import annotations

import sqlite3

from trustfed.journal.chain import Chain
from trustfed.journal.merkle import tile_table
from trustfed.journal.merkle.hashing import HASH_BYTES, leaf_hash, root_of
from trustfed.journal.merkle.log import SEGMENT_LEVEL
from trustfed.journal.merkle.tiles import HEIGHT, MAX_LEVEL, WIDTH, Tile
from trustfed.journal.merkle.tree import split
from trustfed.journal.ports import Corrupt


def check_tiles(connection: sqlite3.Connection, chain: Chain, reached: int) -> None:
    """Check each tile against the rows or the tiles below it; `reached` is the last row whose chain was checked.

    Others may append meanwhile: tiles that are full never change, and the others only get wider. Nobody may trim.
    Raises Corrupt with the first position of the first tile that does not fit.
    """
    connection.execute("BEGIN")  # one moment: a tile and the one above it are written together
    head, (base, _) = chain.head(connection)[0], tile_table.written(connection)
    connection.execute("COMMIT")
    base = min(base, reached // WIDTH * WIDTH) if head > reached else base
    if base > reached:
        raise Corrupt(f"record {reached + 1} of {chain.table} is missing", position=reached + 1)
    trimmed = chain.anchor(connection)[0]
    for level in range(MAX_LEVEL + 1):
        count = base >> HEIGHT * level  # hashes of this level
        retained = trimmed >> HEIGHT * level if HEIGHT * level < SEGMENT_LEVEL else 0
        for number in range(retained // WIDTH, -(-count // WIDTH)):
            _check_tile(connection, chain, Tile(level, number, min(WIDTH, count - number * WIDTH)), trimmed)


def _check_tile(connection: sqlite3.Connection, chain: Chain, tile: Tile, trimmed: int) -> None:
    hashes = split(tile_table.load(connection, tile.level, tile.number))[: tile.width]
    first = tile.number * WIDTH
    position = (first << HEIGHT * tile.level) + 1
    if len(hashes) != tile.width or any(len(each) != HASH_BYTES for each in hashes):
        raise Corrupt(f"{tile.path} of the Merkle log holds {len(hashes)} hashes", position=position)
    if tile.level == 0:
        rows = connection.execute(
            f"SELECT canonical FROM {chain.table} WHERE position BETWEEN ? AND ? ORDER BY position",  # noqa: S608
            (first + 1, first + WIDTH),
        )
        expected = [leaf_hash(data) for (data,) in rows]
    else:
        # Below the anchor only what lies above a segment has tiles under it.
        inside = HEIGHT * tile.level <= SEGMENT_LEVEL
        expected = [
            hashes[offset]
            if inside and first + offset + 1 << HEIGHT * tile.level <= trimmed
            else root_of(split(tile_table.load(connection, tile.level - 1, first + offset)))
            for offset in range(tile.width)
        ]
    if hashes != expected:
        raise Corrupt(f"{tile.path} of the Merkle log is not that of the records", position=position)
