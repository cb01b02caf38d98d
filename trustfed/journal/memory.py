"""Journal, snapshots and ledger in memory: for tests, and for what need not outlive the process.

Trust sentence: nothing is durable and nothing is checked; everything else behaves as the port says.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trustfed.errors import Unavailable
from trustfed.journal.bounds import check_head, check_trim, check_window, encode_events, encode_facts
from trustfed.journal.events import Event, Fact, Recorded, RecordedFact
from trustfed.journal.head import Head
from trustfed.journal.merkle.memory_log import MemoryLog
from trustfed.journal.ports import MAX_READ, Snapshot, Trimmed
from trustfed.journal.retention import segments_before

_EVENT = msgspec.json.Decoder(Event)
_FACT = msgspec.json.Decoder(Fact)


class MemoryJournal:
    """A Journal in a list of canonical bytes; readers get their own copies."""

    def __init__(self) -> None:
        self._stored: list[bytes] = []
        self._commands: dict[str, list[int]] = {}
        self._head = Head(0)
        self._open = True
        self.log = MemoryLog()

    async def append(self, expected: int, events: Sequence[Event]) -> int:
        encoded = encode_events(events)
        self._check_open()
        check_head(len(self._stored), expected)
        for position, event in enumerate(events, start=expected + 1):
            self._commands.setdefault(event.command_id, []).append(position)
        self._stored.extend(encoded)
        self.log.append(encoded)
        self._head.advance(len(self._stored))
        return len(self._stored)

    async def read(self, after: int, limit: int) -> list[Recorded]:
        check_window(after, limit)
        self._check_open()
        last = min(after + limit, len(self._stored))
        return [self._at(position) for position in range(after + 1, last + 1)]

    async def find(self, command_id: str) -> list[Recorded]:
        self._check_open()
        return [self._at(position) for position in self._commands.get(command_id, ())]

    async def wait(self, after: int) -> int:
        return await self._head.beyond(after)

    async def close(self) -> None:
        self._open = False
        self._head.close()
        self.log.close()

    def _at(self, position: int) -> Recorded:
        data = self._stored[position - 1]
        return Recorded(position, _EVENT.decode(data), data)

    def _check_open(self) -> None:
        if not self._open:
            raise Unavailable("the journal is closed")


class MemorySnapshots:
    """Snapshots in one variable."""

    def __init__(self) -> None:
        self._newest: Snapshot | None = None

    async def load(self) -> Snapshot | None:
        return self._newest

    async def save(self, snapshot: Snapshot) -> None:
        self._newest = snapshot


class MemoryLedger:
    """A Ledger in a list of canonical bytes and one dict per (kind, key)."""

    def __init__(self) -> None:
        self._stored: list[bytes] = []
        self._keys: dict[tuple[str, str], list[int]] = {}
        self._open = True
        self._trimmed = 0
        self.log = MemoryLog()

    @property
    def first(self) -> int:
        return self._trimmed + 1

    @property
    def position(self) -> int:
        """The last durable position; 0 before the first."""
        return self._trimmed + len(self._stored)

    async def append(self, facts: Sequence[Fact]) -> None:
        encoded = encode_facts(facts)
        self._check_open()
        for position, fact in enumerate(facts, start=self._trimmed + len(self._stored) + 1):
            self._keys.setdefault((fact.kind, fact.key), []).append(position)
        self._stored.extend(encoded)
        self.log.append(encoded)

    async def read(self, after: int, limit: int) -> list[RecordedFact]:
        check_window(after, limit)
        self._check_open()
        if after < self._trimmed:
            raise Trimmed(f"the first {self._trimmed} records of facts left by retention", first=self.first)
        start = after - self._trimmed
        return [
            RecordedFact(position, _FACT.decode(data), data)
            for position, data in enumerate(self._stored[start : start + limit], start=after + 1)
        ]

    async def find(self, kind: str, key: str) -> list[Fact]:
        return [recorded.fact for recorded in await self.located(kind, key)]

    async def located(self, kind: str, key: str) -> list[RecordedFact]:
        self._check_open()
        retained = [position for position in self._keys.get((kind, key), ()) if position > self._trimmed]
        stored = [(position, self._stored[position - self._trimmed - 1]) for position in retained[:MAX_READ]]
        return [RecordedFact(position, _FACT.decode(data), data) for position, data in stored]

    async def trim(self, before: int) -> int:
        """Let the facts before position `before` go, in whole segments; gives the first that is retained."""
        check_trim(before)
        self._check_open()
        last = segments_before(before, self._trimmed + len(self._stored))
        if last > self._trimmed:
            del self._stored[: last - self._trimmed]
            self._trimmed = last
            self.log.trim(last)
        return self.first

    async def close(self) -> None:
        self._open = False
        self.log.close()

    def _check_open(self) -> None:
        if not self._open:
            raise Unavailable("the ledger is closed")
