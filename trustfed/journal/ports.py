"""The three ports of the journal: decisions in order, the fold's snapshot, and facts in bulk.

Every driver passes tests/contract/test_journals.py, and who opened it closes it. All methods are for one event loop and
never block it. Errors: Invalid (what was given breaks a bound), Conflict (the head moved), Unavailable (nothing was
acknowledged; try again), Corrupt (what is stored is not what was written).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from trustfed.errors import NotFound, Unavailable
from trustfed.journal.events import Event, Fact, Recorded, RecordedFact

MAX_EVENTS = 1_000
MAX_FACTS = 1_000
MAX_APPEND_BYTES = 16 << 20
MAX_READ = 1_000


class Corrupt(Unavailable):
    """What is stored is not what was written: `position` is the first record that cannot be trusted."""

    def __init__(self, message: str, *, position: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint or "restore this data directory from its last good backup")
        self.position = position


class Trimmed(NotFound):
    """What was asked for left by retention: `first` is the first position that is retained."""

    def __init__(self, message: str, *, first: int) -> None:
        super().__init__(message, hint=f"what is retained begins at position {first}: read after {first - 1}")
        self.first = first


class Snapshot(msgspec.Struct, frozen=True):
    """The fold's state after the event at `position`, encoded by its room under its own `schema` number."""

    position: int
    schema: int
    data: bytes


class Journal(Protocol):
    """The ordered record of decisions: positions are dense, start at 1, and never change."""

    async def append(self, expected: int, events: Sequence[Event]) -> int:
        """Record all events or none after position `expected`, durable on return; gives the new head.

        Conflict if the head is not `expected`. At most 1,000 events, 1 MiB each, 16 MiB together. A cancelled or
        failed (Unavailable) append may still have been recorded: `find` its command before trying again.
        """

    async def read(self, after: int, limit: int) -> list[Recorded]:
        """Give up to `limit` (at most 1,000) records with positions above `after`, in order, each one verified.

        Fewer when they are large (16 MiB end a read); none only if `after` is the head or beyond.
        """

    async def find(self, command_id: str) -> list[Recorded]:
        """Give what this command recorded, in order; empty if it never did."""

    async def wait(self, after: int) -> int:
        """Give the head as soon as it is above `after`: at once, or when the next append is durable."""


class Snapshots(Protocol):
    """One place for the newest snapshot. Losing it costs a replay, never a decision."""

    async def load(self) -> Snapshot | None:
        """Give the newest intact snapshot of this journal; None if there is none, or it is damaged or foreign."""

    async def save(self, snapshot: Snapshot) -> None:
        """Replace the snapshot, durable on return."""


class Ledger(Protocol):
    """The append-only record of facts: many callers, one durable write for all who wait."""

    @property
    def first(self) -> int:
        """The first position that is retained: 1 until facts leave by retention."""

    @property
    def position(self) -> int:
        """The last durable position; 0 before the first."""

    async def append(self, facts: Sequence[Fact]) -> None:
        """Record all facts or none, durable on return. At most 1,000 facts, 64 KiB each, 16 MiB together."""

    async def read(self, after: int, limit: int) -> list[RecordedFact]:
        """Give up to `limit` (at most 1,000) facts with positions above `after`; bounded like `Journal.read`.

        Trimmed (a NotFound) if facts above `after` left by retention: it says where to go on.
        """

    async def find(self, kind: str, key: str) -> list[Fact]:
        """Give the facts of this kind with this key, oldest first, at most 1,000: of a key with more, never its newest."""

    async def located(self, kind: str, key: str) -> list[RecordedFact]:
        """The same facts as `find`, with their positions."""
