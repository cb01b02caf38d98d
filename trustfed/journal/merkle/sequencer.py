"""The one sequencer of a log: behind the writes it hashes what was recorded and keeps the tree in tiles.

What was just written is handed over in memory; what is missing there (after a restart, a burst, an upgrade) is read back
in batches, each row checked. Full tiles are written by the writer of the same file, in its transactions. A kill at any
moment loses no more than hashes that are made anew from the rows: a tile is never ahead of the rows it is of.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from trustfed.errors import TrustfedError, Unavailable
from trustfed.journal.chain import Chain
from trustfed.journal.database import Database
from trustfed.journal.head import Head
from trustfed.journal.merkle import proofs, tile_table
from trustfed.journal.merkle.hashing import leaf_hash
from trustfed.journal.merkle.log import check_retained, check_within
from trustfed.journal.merkle.proofs import HashReader
from trustfed.journal.merkle.ranges import Subtree
from trustfed.journal.merkle.tiles import WIDTH
from trustfed.journal.merkle.tree import Tree
from trustfed.journal.ports import MAX_READ, Corrupt
from trustfed.runtime import logs

T = TypeVar("T")

HANDED_OVER_BYTES = 16 << 20
"""Entries that wait in memory; beyond this they are dropped there, and read back from the file."""

_FLUSH = 16 * WIDTH  # leaf hashes held in memory before their tiles are written: each writing may cost a sync
_INLINE = 32 << 10  # bytes hashed on the loop, about 0.1 ms; more goes to a thread
_PAUSE = 1.0  # seconds, after the store could not be read or written

_log = logs.get("journal")


class TileLog:
    """A MerkleLog in the tiles of an SQLite file; works on the loop that uses it first, until `close`."""

    def __init__(self, database: Database, chain: Chain, head: Head) -> None:
        self._database, self._chain, self._head = database, chain, head
        self._tree = database.read_now(lambda connection: _reopened(connection, chain))
        self._trimmed = database.read_now(chain.anchor)[0]
        self._integrated = Head(self._tree.size)
        self._arrived: deque[tuple[int, Sequence[bytes]]] = deque()
        self._arrived_bytes = 0
        self._failure: TrustfedError | None = None
        self._turn = asyncio.Lock()
        self._open = True
        self._task: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """See MerkleLog."""
        return self._tree.size

    @property
    def lag(self) -> int:
        """See MerkleLog."""
        return max(self._head.position - self._tree.size, 0)

    async def integrated(self, position: int) -> None:
        """See MerkleLog."""
        self.start()
        while self._tree.size < position:
            try:
                await self._integrated.beyond(self._tree.size)
            except Unavailable:
                raise self._failure or Unavailable("the log is closed") from None

    async def root(self, size: int) -> bytes:
        """See MerkleLog."""
        return await self._read(size, lambda read: proofs.tree_root(read, size))

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """See MerkleLog."""
        return await self._read(new, lambda read: proofs.consistency(read, old, new))

    async def inclusion(self, index: int, size: int) -> list[bytes]:
        """See MerkleLog."""
        return await self._read(size, lambda read: proofs.inclusion(read, index, size))

    async def subtrees(self, begin: int) -> list[Subtree]:
        """See MerkleLog."""
        return await self._read(begin, lambda read: proofs.subtree_roots(read, begin))

    async def tiled(self, size: int) -> None:
        """Return as soon as the first `size` leaves lie in full tiles that are durable; `size` is a multiple of 256."""
        await self.integrated(size)
        async with self._turn:
            if self._tree.base < size:
                await self._flush()

    def hand_over(self, last: int, entries: Sequence[bytes]) -> None:
        """Take what was just recorded up to position `last`: on the loop, in the order of the positions."""
        if self._failure is not None:
            return
        self._arrived.append((last, entries))
        self._arrived_bytes += sum(map(len, entries))
        if self._arrived_bytes > HANDED_OVER_BYTES:
            self._arrived.clear()
            self._arrived_bytes = 0
        self.start()

    def trim(self, trimmed: int) -> None:
        """Tell that the rows of the first `trimmed` leaves, and the tiles inside of their segments, are going."""
        self._trimmed = trimmed

    def start(self) -> None:
        """Begin to work, on the running loop; at once if it works already."""
        if self._task is None and self._open:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """End the work: what is not integrated will be after the next opening. Twice is fine."""
        self._open = False
        self._integrated.close()
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _read(self, size: int, work: Callable[[HashReader], T]) -> T:
        self.start()
        if type(size) is int and self._tree.size < size <= self._head.position:
            await self.integrated(size)
        tree = self._tree
        check_within(size, tree.size)

        def run(connection: sqlite3.Connection) -> T:
            def node(level: int, index: int) -> bytes:
                check_retained(level, index, self._trimmed)
                return tree.node(level, index, lambda *tile: tile_table.load(connection, *tile))

            return work(node)

        return await self._database.read(run)

    async def _work(self) -> None:
        while self._open:
            try:
                await self._head.beyond(self._tree.size)
                async with self._turn:
                    await self._integrate()
            except Corrupt as damage:
                return self._stop(damage)
            except TrustfedError as error:
                if not self._open or not self._head.open:
                    return None
                _log.warning("the Merkle log has to wait", error=str(error))
                await asyncio.sleep(_PAUSE)
            except Exception as fault:  # a fault of this program: who waits must not wait for ever
                _log.exception("the Merkle log has a fault", fault)
                return self._stop(Unavailable(f"the Merkle log of {self._chain.table} stopped: {type(fault).__name__}"))
        return None

    def _stop(self, why: TrustfedError) -> None:
        _log.error("the Merkle log stops here", error=str(why), size=self._tree.size)
        self._failure = why
        self._arrived.clear()
        self._integrated.close()

    async def _integrate(self) -> None:
        """Take the next entries, and write the tiles that are full."""
        entries = self._next_arrived()
        if entries is None:
            after = self._tree.size
            rows = await self._database.read(lambda connection: self._chain.read(connection, after, MAX_READ))
            if not rows:
                raise Unavailable(f"record {after + 1} of {self._chain.table} cannot be read yet")
            entries = [data for _, data in rows]
        if sum(map(len, entries)) > _INLINE:
            hashes = await asyncio.to_thread(_hashed, entries)
        else:
            hashes = _hashed(entries)
        self._tree.tail.extend(hashes)
        self._integrated.advance(self._tree.size)
        if len(self._tree.tail) >= _FLUSH:
            await self._flush()

    async def _flush(self) -> None:
        tree, tiles = await asyncio.to_thread(self._tree.filled)
        size = sum(len(hashes) for _, hashes in tiles)
        await self._database.write(lambda connection: tile_table.write(connection, tiles), lambda _: None, size)
        self._tree = tree

    def _next_arrived(self) -> list[bytes] | None:
        """All that waits in memory, from the next leaf on; None if the next one is not there."""
        found: list[bytes] = []
        size = self._tree.size
        while self._arrived:
            last, entries = self._arrived[0]
            known = size - (last - len(entries))
            if known < 0:
                break  # the gap is read from the file, and then these are next
            self._arrived.popleft()
            self._arrived_bytes -= sum(map(len, entries))
            found += entries[known:]
            size = max(size, last)
        return found or None


def _hashed(entries: Sequence[bytes]) -> list[bytes]:
    return [leaf_hash(entry) for entry in entries]


def _reopened(connection: sqlite3.Connection, chain: Chain) -> Tree:
    """The tree as far as its tiles were written: what is behind them is integrated again."""
    base, edges = tile_table.written(connection)
    head = chain.head(connection)[0]
    if base > head:
        raise Corrupt(f"record {head + 1} of {chain.table} is missing: its Merkle log has {base}", position=head + 1)
    return Tree(base, edges, [])
