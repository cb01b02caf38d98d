"""The ledger as the place where serials are on record before their signatures leave (ca.record.Recorder)."""

from __future__ import annotations

from collections.abc import Sequence

from ca.record import Recordable
from trustfed.journal.events import Fact
from trustfed.journal.ports import Ledger
from trustfed.runtime.timestamps import to_ms


class LedgerRecorder:
    """Keeps drafts in the hub's ledger, durable on return."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def record(self, drafts: Sequence[Recordable]) -> None:
        """Record all drafts or raise; then nothing is signed."""
        await self._ledger.append(
            [Fact(to_ms(draft.at), draft.kind, draft.key, dict(draft.facts())) for draft in drafts]
        )
