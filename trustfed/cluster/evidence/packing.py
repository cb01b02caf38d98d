"""Makes evidence packs of this trust domain, one at a time (trustfed.evidence.pack_export)."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from trustfed.cluster.config import Policy
from trustfed.cluster.evidence.logs import ClusterLogs
from trustfed.cluster.evidence.witnessing import Witnessing
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict
from trustfed.evidence.definition import DEFINITION
from trustfed.evidence.pack import Keys
from trustfed.evidence.pack_export import Scope, Subtrees, export, keys_of
from trustfed.journal.fold import Fold
from trustfed.journal.merkle.note import parse_note
from trustfed.journal.ports import Journal, Ledger
from trustfed.journal.sqlite import Store
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import SOFTWARE

if TYPE_CHECKING:
    from trustfed.evidence.pack import Manifest

COSIGN_SECONDS = 3.0
"""How long an export waits for the hub to cosign the checkpoint that was cut for it."""


class Packing:
    """The production source of packs (trustfed.evidence.pack_export.Source)."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        store: Store,
        policy: Policy,
        logs: ClusterLogs,
        witnessing: Witnessing,
        folder: Path,
        clock: Clock,
    ) -> None:
        self._fold, self._store, self._policy, self._logs = fold, store, policy, logs
        self._witnessing, self._folder, self._clock = witnessing, folder, clock
        self._turn = asyncio.Lock()
        self._note = b""

    @property
    def trust_domain(self) -> str:
        return self._fold.state.trust_domain

    @property
    def journal(self) -> Journal:
        return self._store.journal

    @property
    def ledger(self) -> Ledger:
        return self._store.ledger

    @property
    def first(self) -> int:
        return self._store.ledger.first

    @property
    def facts_log(self) -> Subtrees:
        return self._store.facts_log

    async def checkpoint(self) -> bytes:
        """Cut one, and give the hub a moment to cosign it."""
        cut = await self._logs.cut()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COSIGN_SECONDS):
                while self._witnessing.cosigner is not None and not self._cosigned(cut.checkpoint.size):
                    self._logs.seen.clear()
                    await self._logs.seen.wait()
        newest = self._logs.newest
        self._note = newest.data if newest is not None and newest.checkpoint.size >= cut.checkpoint.size else cut.data
        return self._note

    async def keys(self) -> Keys:
        """The log's key as the domain endorses it, and those who cosigned this checkpoint."""
        domain, hub = self._fold.state.domain, self._witnessing.cosigner
        assert domain is not None
        signed = {one.name for one in parse_note(self._note).signatures}
        cosigners = [hub.text] if hub is not None and hub.name in signed else []
        return keys_of(self._logs.vkey.text, self._logs.endorsement, domain.publication_key, cosigners)

    @contextlib.asynccontextmanager
    async def pack(self, from_ms: int, to_ms_: int) -> AsyncIterator[tuple[Path, Manifest]]:
        """The pack of a scope, as a file that is gone afterwards. Raises Conflict while another one is made, Invalid."""
        if self._turn.locked():
            raise Conflict("another pack is being made", hint="try again when it is done")
        async with self._turn:
            work = await asyncio.to_thread(tempfile.mkdtemp, prefix=".packs-", dir=self._folder)
            path = Path(work) / "pack.tar"
            try:
                lead = self._policy.longest_leaf + 2 * self._policy.authority_ttl
                scope = Scope(from_ms, to_ms_, int(lead / timedelta(milliseconds=1)))
                now = to_ms(self._clock.now())
                manifest = await export(self, scope, DEFINITION, path, now_ms=now, software=SOFTWARE)
                yield path, manifest
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()

    def _cosigned(self, size: int) -> bool:
        newest = self._logs.newest
        return newest is not None and newest.checkpoint.size >= size and bool(newest.cosignatures)
