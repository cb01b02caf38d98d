"""The tiles of one log in a table beside its rows: SQL only, no state.

A tile has a checksum, for a flipped bit in a hash would make proofs that nobody can verify, and no one could say why.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable

from trustfed.journal.merkle.hashing import HASH_BYTES
from trustfed.journal.merkle.log import SEGMENT
from trustfed.journal.merkle.tiles import HEIGHT, MAX_LEVEL, WIDTH, Tile
from trustfed.journal.merkle.tree import Edges, split
from trustfed.journal.ports import Corrupt

TILE_TABLE = "CREATE TABLE tile (place INTEGER PRIMARY KEY, checksum BLOB NOT NULL, hashes BLOB NOT NULL)"
_LEVEL = 56  # a place is the level in the highest bits, and the number of the tile in the level


def write(connection: sqlite3.Connection, tiles: Iterable[tuple[Tile, bytes]]) -> None:
    """Write tiles, in the place of narrower ones."""
    for tile, hashes in tiles:
        place = tile.level << _LEVEL | tile.number
        connection.execute("REPLACE INTO tile VALUES (?, ?, ?)", (place, _checksum(place, hashes), hashes))


def load(connection: sqlite3.Connection, level: int, number: int) -> bytes:
    """The hashes of a tile. Corrupt if it is not there, or not what was written."""
    place = level << _LEVEL | number
    row = connection.execute("SELECT checksum, hashes FROM tile WHERE place = ?", (place,)).fetchone()
    path = Tile(level, number).path
    position = (number << HEIGHT * (level + 1)) + 1
    if row is None:
        raise Corrupt(f"{path} of the Merkle log is missing", position=position)
    checksum, hashes = row
    if type(hashes) is not bytes or checksum != _checksum(place, hashes):
        raise Corrupt(f"{path} of the Merkle log is not what was written", position=position)
    return bytes(hashes)


def written(connection: sqlite3.Connection) -> tuple[int, Edges]:
    """How many leaves lie in full tiles, and the partial tiles above them. Corrupt if the two do not fit."""
    lasts = [_last(connection, level) for level in range(1, MAX_LEVEL + 1)]
    tiles = max((count << HEIGHT * level for level, count in enumerate(lasts)), default=0)
    edges = []
    for level in range(1, MAX_LEVEL + 1):
        number, width = divmod(tiles >> HEIGHT * (level - 1), WIDTH)
        if not tiles >> HEIGHT * (level - 1):
            break
        hashes = split(load(connection, level, number)) if width else []
        if len(hashes) != width:
            raise Corrupt(f"{Tile(level, number).path} of the Merkle log holds {len(hashes)} hashes, not {width}")
        edges.append(tuple(hashes))
    return tiles * WIDTH, tuple(edges)


def drop(connection: sqlite3.Connection, trimmed: int, limit: int) -> int:
    """Delete up to `limit` tiles inside of the segments below the first `trimmed` leaves; gives how many went."""
    gone = 0
    for level in range(2):
        assert trimmed % SEGMENT == 0
        bounds = (level << _LEVEL, (level << _LEVEL) + (trimmed >> HEIGHT * (level + 1)))
        gone += connection.execute(
            "DELETE FROM tile WHERE place IN (SELECT place FROM tile WHERE place >= ? AND place < ? LIMIT ?)",
            (*bounds, limit - gone),
        ).rowcount
    return gone


def _last(connection: sqlite3.Connection, level: int) -> int:
    """How many hashes the tiles of a level hold, those before the last one all being full."""
    (place,) = connection.execute(
        "SELECT max(place) FROM tile WHERE place >= ? AND place < ?", (level << _LEVEL, level + 1 << _LEVEL)
    ).fetchone()
    if place is None:
        return 0
    number = int(place) - (level << _LEVEL)
    return number * WIDTH + len(load(connection, level, number)) // HASH_BYTES


def _checksum(place: int, hashes: bytes) -> bytes:
    return hashlib.sha256(place.to_bytes(8, "big") + hashes).digest()
