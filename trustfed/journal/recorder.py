"""The ledger as the place where serials are on record before their signatures leave (ca.record.Recorder)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from trustfed.journal.events import Fact
from trustfed.journal.ports import Ledger
from trustfed.runtime.timestamps import to_ms


class Draft(Protocol):
    """What is about to be signed, as the ledger keeps it."""

    @property
    def at(self) -> datetime: ...

    @property
    def kind(self) -> str: ...

    @property
    def key(self) -> str: ...

    def facts(self) -> Mapping[str, Any]:
        """The facts, in JSON types."""
        ...


class LedgerRecorder:
    """Keeps drafts in a ledger, durable on return."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def record(self, drafts: Sequence[Draft]) -> None:
        """Record all drafts or raise; then nothing is signed."""
        await self._ledger.append(
            [Fact(to_ms(draft.at), draft.kind, draft.key, dict(draft.facts())) for draft in drafts]
        )
