"""The Merkle log of a journal or a ledger in memory: every node of the tree, integrated as it is appended."""

from __future__ import annotations

from collections.abc import Iterable

from trustfed.errors import Unavailable
from trustfed.journal.head import Head
from trustfed.journal.merkle import proofs
from trustfed.journal.merkle.hashing import leaf_hash, node_hash
from trustfed.journal.merkle.log import check_retained, check_within
from trustfed.journal.merkle.ranges import Subtree


class MemoryLog:
    """A MerkleLog in lists of hashes, one for each level."""

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]
        self._trimmed = 0
        self._head = Head(0)
        self._open = True

    @property
    def size(self) -> int:
        """See MerkleLog."""
        return len(self._levels[0])

    @property
    def lag(self) -> int:
        """See MerkleLog: always 0."""
        return 0

    async def integrated(self, position: int) -> None:
        """See MerkleLog."""
        await self._head.beyond(position - 1)

    async def root(self, size: int) -> bytes:
        """See MerkleLog."""
        self._check(size)
        return proofs.tree_root(self._node, size)

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """See MerkleLog."""
        self._check(new)
        return proofs.consistency(self._node, old, new)

    async def inclusion(self, index: int, size: int) -> list[bytes]:
        """See MerkleLog."""
        self._check(size)
        return proofs.inclusion(self._node, index, size)

    async def subtrees(self, begin: int) -> list[Subtree]:
        """See MerkleLog."""
        self._check(begin)
        return proofs.subtree_roots(self._node, begin)

    def append(self, entries: Iterable[bytes]) -> None:
        """Integrate what was just recorded."""
        for entry in entries:
            carry, level = leaf_hash(entry), 0
            self._levels[0].append(carry)
            while len(self._levels[level]) % 2 == 0:
                carry = node_hash(self._levels[level][-2], carry)
                level += 1
                if level == len(self._levels):
                    self._levels.append([])
                self._levels[level].append(carry)
        self._head.advance(self.size)

    def trim(self, trimmed: int) -> None:
        """Forget the insides of the segments below."""
        self._trimmed = trimmed

    def close(self) -> None:
        """Wake who waits, and answer no more."""
        self._open = False
        self._head.close()

    def _node(self, level: int, index: int) -> bytes:
        check_retained(level, index, self._trimmed)
        return self._levels[level][index]

    def _check(self, size: int) -> None:
        if not self._open:
            raise Unavailable("the log is closed")
        check_within(size, self.size)
