"""The Merkle log of a journal or a ledger, as those see it who sign its checkpoints and prove its entries.

Leaf n - 1 is the entry at position n, so a size is the position of the last entry that it holds.
"""

from __future__ import annotations

from typing import Protocol

from trustfed.errors import Invalid, NotFound
from trustfed.journal.merkle.ranges import Subtree

SEGMENT_LEVEL = 16
SEGMENT = 1 << SEGMENT_LEVEL
"""Entries leave by retention in whole subtrees of so many; the roots of those stay."""


class MerkleLog(Protocol):
    """The tree over what is recorded, kept behind the writes. Every driver passes tests/contract/test_merkle_logs.py.

    Errors: Invalid (beyond what is recorded), NotFound (left by retention), Unavailable (closed, or the store cannot be read),
    Corrupt (what is stored is not what was written). No method blocks the loop.
    """

    @property
    def size(self) -> int:
        """How many entries are integrated: up to this every method answers at once, and waits for what is recorded."""
        ...

    @property
    def lag(self) -> int:
        """How many recorded entries are not integrated yet."""
        ...

    async def integrated(self, position: int) -> None:
        """Return as soon as the entry at `position` is integrated; it must be recorded, or be about to be."""
        ...

    async def root(self, size: int) -> bytes:
        """The root of the first `size` entries."""
        ...

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the first `old` of `new` entries are what they were: RFC 6962 §2.1.2."""
        ...

    async def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that leaf `index` (position - 1) is in the tree of `size`: RFC 6962 §2.1.1."""
        ...

    async def subtrees(self, begin: int) -> list[Subtree]:
        """(level, root) of the compact range [0, begin): what a reader of later entries goes on from."""
        ...


def check_within(size: int, integrated: int) -> None:
    """Raise Invalid unless a tree of `size` is integrated."""
    if type(size) is not int or not 0 <= size <= integrated:
        raise Invalid(f"a tree of {str(size)[:40]} entries is not there", hint=f"{integrated} are integrated")


def check_retained(level: int, index: int, trimmed: int) -> None:
    """Raise NotFound if a node lies below the `trimmed` entries that left by retention, and inside of a segment."""
    if level < SEGMENT_LEVEL and (index + 1) << level <= trimmed:
        raise NotFound(
            f"the hashes of the first {trimmed} entries left with them by retention",
            hint=f"proofs and roots begin at the size {trimmed}",
        )
