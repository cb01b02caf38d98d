"""Where the hashes of a tree lie: in tiles of 256 side by side, eight levels of the tree high (C2SP tlog-tiles).

Tile n of tile level l holds the roots of 256 neighbouring perfect subtrees of 256^l leaves each. Only full tiles are
hashed into the level above. Everything between two tile levels is computed from the tile below.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from trustfed.errors import Invalid
from trustfed.journal.merkle.ranges import check_size

HEIGHT = 8
WIDTH = 1 << HEIGHT
MAX_LEVEL = 7
"""The highest tile level of a tree below 2^62 leaves."""

_PATH = re.compile(r"tile/(0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)
_MAX_PATH = 64


class Tile(NamedTuple):
    """One tile: its level, its number in the level, and how many hashes it holds: 256 if it is full."""

    level: int
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Its path under the prefix of a log: tile/1/x001/x234/067, or tile/0/273.p/112 for a partial one."""
        digits = f"{self.number:d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        elements = [digits[start : start + 3] for start in range(0, len(digits), 3)]
        name = "/".join([*(f"x{element}" for element in elements[:-1]), elements[-1]])
        return f"tile/{self.level}/{name}" + ("" if self.width == WIDTH else f".p/{self.width}")


class Place(NamedTuple):
    """The 2^height hashes from `offset` on, of tile `number` of `level`, whose root is one node of the tree."""

    level: int
    number: int
    offset: int
    height: int


def place_of(level: int, index: int) -> Place:
    """Where the node `index` of tree level `level` comes from."""
    tile_level, height = divmod(level, HEIGHT)
    first = index << height
    return Place(tile_level, first >> HEIGHT, first & (WIDTH - 1), height)


def partial_tiles(size: int) -> list[Tile]:
    """The partial tiles of a tree of `size` leaves, from the leaves up; empty ones are none."""
    check_size(size)
    counts = [(level, size >> HEIGHT * level) for level in range(MAX_LEVEL + 1)]
    return [Tile(level, count >> HEIGHT, count % WIDTH) for level, count in counts if count % WIDTH]


def full_tiles(size: int, level: int) -> int:
    """How many full tiles of `level` a tree of `size` leaves has."""
    check_size(size)
    return size >> HEIGHT * (level + 1)


def parse_path(path: str) -> Tile:
    """The tile that a path names, in the one form that `Tile.path` writes. Raises Invalid."""
    found = _PATH.fullmatch(path) if len(path) <= _MAX_PATH else None
    if found is not None:
        level, digits, width = found.groups()
        tile = Tile(int(level), int(digits.replace("/", "").replace("x", "")), int(width or WIDTH))
        if tile.path == path:
            return tile
    raise Invalid(f"{path[:80]!r} is no path of a tile", hint="tile/LEVEL/NUMBER or tile/LEVEL/NUMBER.p/WIDTH")
