"""The right edge of a growing tree, and any node of it: pure, the full tiles come from a reader.

What is written down are full tiles of leaf hashes (level 0), and above them each tile as far as it is filled. The newest
leaf hashes, less than a few tiles full, are held in memory only: after a crash they are made anew from the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from trustfed.journal.merkle.hashing import HASH_BYTES, node_hash, root_of
from trustfed.journal.merkle.tiles import HEIGHT, MAX_LEVEL, WIDTH, Tile, place_of

TileReader: TypeAlias = Callable[[int, int], bytes]
"""Gives the hashes of tile (level, number), side by side; all 256 if it is full."""

Edges: TypeAlias = tuple[tuple[bytes, ...], ...]
"""The hashes of the partial tile of each level from 1 on."""


class Tree:
    """The first `base` leaves, in full tiles and `edges`, and behind them the hashes of `tail`.

    Only `tail` grows, at its end: a reader who remembers a size may go on reading while another thread appends.
    """

    def __init__(self, base: int, edges: Edges, tail: list[bytes]) -> None:
        assert base % WIDTH == 0, "only full tiles are written"
        self.base, self.edges, self.tail = base, edges, tail

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self.base + len(self.tail)

    def filled(self) -> tuple[Tree, list[tuple[Tile, bytes]]]:
        """The tree with all full tiles of its tail moved to its base, and the tiles to write for that, with their hashes."""
        count = len(self.tail) // WIDTH
        written: list[tuple[Tile, bytes]] = []
        roots: list[bytes] = []
        for number in range(count):
            hashes = self.tail[number * WIDTH : (number + 1) * WIDTH]
            written.append((Tile(0, self.base // WIDTH + number), b"".join(hashes)))
            roots.append(root_of(hashes))
        edges = list(self.edges)
        for level in range(1, MAX_LEVEL + 1):
            if not roots:
                break
            if len(edges) < level:
                edges.append(())
            first = self.base >> HEIGHT * (level + 1)
            tiles, edges[level - 1], roots = _filled(level, first, [*edges[level - 1], *roots])
            written += tiles
        return Tree(self.base + count * WIDTH, tuple(edges), self.tail[count * WIDTH :]), written

    def node(self, level: int, index: int, read: TileReader) -> bytes:
        """The root of the perfect subtree (level, index), which must be within the tree."""
        begin, end = index << level, index + 1 << level
        if begin >= self.base:
            return root_of(self.tail[begin - self.base : end - self.base])
        if end > self.base:
            return node_hash(self.node(level - 1, 2 * index, read), self.node(level - 1, 2 * index + 1, read))
        tile_level, number, offset, height = place_of(level, index)
        if tile_level and number == self.base >> HEIGHT * (tile_level + 1):
            return root_of(self.edges[tile_level - 1][offset : offset + (1 << height)])
        hashes = read(tile_level, number)[offset * HASH_BYTES : (offset + (1 << height)) * HASH_BYTES]
        return root_of(split(hashes))


def split(hashes: bytes) -> list[bytes]:
    """The single hashes of a tile."""
    return [hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)]


def _filled(
    level: int, first: int, hashes: Sequence[bytes]
) -> tuple[list[tuple[Tile, bytes]], tuple[bytes, ...], list[bytes]]:
    """(tiles to write, what is left for the edge, roots for the level above) of hashes from the start of tile `first` on."""
    full, rest = divmod(len(hashes), WIDTH)
    tiles, roots = [], []
    for number in range(full):
        part = hashes[number * WIDTH : (number + 1) * WIDTH]
        tiles.append((Tile(level, first + number), b"".join(part)))
        roots.append(root_of(part))
    edge = tuple(hashes[full * WIDTH :])
    if rest:
        tiles.append((Tile(level, first + full, rest), b"".join(edge)))
    return tiles, edge, roots
