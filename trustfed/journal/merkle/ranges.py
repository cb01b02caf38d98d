"""The compact range [0, n): the roots of the perfect subtrees whose leaves, side by side, are the first n.

Their levels are the ones in the binary form of n, the largest first, so at most 62 hashes stand for any tree. With them
a reader who holds none of the first n entries can go on from there: append what follows, and have the tree's root.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trustfed.errors import Invalid
from trustfed.journal.merkle.hashing import EMPTY_ROOT, HASH_BYTES, node_hash

MAX_SIZE = (1 << 62) - 1
"""The largest tree: no proof within it has more than the 63 hashes that C2SP tlog-witness allows."""

Subtree = tuple[int, bytes]
"""A perfect subtree: its level (it has 2^level leaves) and its root."""


def levels_of(size: int) -> list[int]:
    """The levels of the perfect subtrees of [0, size), from left to right."""
    check_size(size)
    return [level for level in range(size.bit_length() - 1, -1, -1) if size >> level & 1]


def check_size(size: int) -> None:
    """Raise Invalid unless a tree may have so many leaves."""
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        raise Invalid(f"a tree of {str(size)[:40]} leaves", hint=f"0 to {MAX_SIZE}")


class CompactRange:
    """The tree of the first `size` leaves, by its subtrees; appending is O(1) amortised, the root O(log size).

    `CompactRange()` is the empty tree; `CompactRange(size, subtrees)` goes on behind what somebody else has hashed.
    Raises Invalid when the subtrees are not those of a tree of that size.
    """

    def __init__(self, size: int = 0, subtrees: Sequence[Subtree] = ()) -> None:
        if [level for level, _ in subtrees] != levels_of(size):
            raise Invalid(f"these are not the subtrees of the first {size} leaves", hint="one for each one bit of it")
        if any(type(root) is not bytes or len(root) != HASH_BYTES for _, root in subtrees):
            raise Invalid(f"a subtree of the first {size} leaves has no SHA-256 hash as its root")
        self._size = size
        self._roots = [root for _, root in subtrees]

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._size

    @property
    def subtrees(self) -> list[Subtree]:
        """(level, root) of each perfect subtree, from left to right."""
        return list(zip(levels_of(self._size), self._roots, strict=True))

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next leaf."""
        carry, size = leaf, self._size
        while size & 1:
            carry = node_hash(self._roots.pop(), carry)
            size >>= 1
        self._roots.append(carry)
        self._size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add the hashes of the next leaves."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """The root of the tree so far."""
        return folded(self._roots)


def folded(roots: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees of falling size, side by side."""
    if not roots:
        return EMPTY_ROOT
    root = roots[-1]
    for left in reversed(roots[:-1]):
        root = node_hash(left, root)
    return root
