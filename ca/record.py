"""Nothing signed leaves the process before it is on record: the port that keeps the record, and what goes into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

Randomness = Callable[[int], bytes]
"""Randomness(n) gives n unpredictable bytes: os.urandom in production, a seeded source in tests."""

FactValue = str | int | list[str]


class Recordable(Protocol):
    """A draft as the ledger sees it: when, what kind, under which key, and the facts (JSON types; no secrets)."""

    @property
    def at(self) -> datetime: ...

    @property
    def kind(self) -> str:
        """x509.issued, jwt.issued or ca.issued."""
        ...

    @property
    def key(self) -> str:
        """The serial in lower-case hex, or the JWT's jti."""
        ...

    def facts(self) -> Mapping[str, FactValue]: ...


class Recorder(Protocol):
    """Keeps drafts durably. It returns only when they would survive a crash; if it raises, nothing is signed."""

    async def record(self, drafts: Sequence[Recordable]) -> None: ...
