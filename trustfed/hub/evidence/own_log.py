"""The hub's own logs: checkpoints of its ledger in its journal, signed checkpoints of its journal, their cosignatures, and
the daily export to whoever shall be able to hold the hub to them.

Order of one cut: (1) the ledger's root becomes an event of the journal, if the ledger grew; (2) the journal is integrated as far
as it goes; (3) its root is signed by the log key; (4) the note is kept; (5) it is offered. So one cosigned note covers both logs.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Protocol

from ca.keys.port import ED25519, KeyStore
from trustfed.errors import NotFound, TrustfedError
from trustfed.hub.evidence.events import LogCheckpoint
from trustfed.hub.state import HubState
from trustfed.journal.fold import Fold
from trustfed.journal.merkle.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    assemble,
    cosignature_line,
    cosignature_to_sign,
    cosigned,
    open_checkpoint,
    origin_of,
    payload_to_sign,
)
from trustfed.journal.merkle.note import MAX_BYTES, Signature, parse_note
from trustfed.journal.merkle.vkey import COSIGNATURE, Vkey, vkey_of
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.files import private_directory, read_bounded, write_atomic
from trustfed.runtime.waiting import news_or_time

KEY = "log"
MAX_COSIGNATURES = 16
_log = logs.get("hub.evidence.log")


class MerkleLog(Protocol):
    """What a checkpoint needs of a log (trustfed.journal.merkle)."""

    @property
    def size(self) -> int:
        """How many leaves are integrated."""

    async def integrated(self, position: int) -> None:
        """Return once so many are."""

    async def root(self, size: int) -> bytes:
        """The root at a size."""

    async def consistency(self, old: int, new: int) -> Sequence[bytes]:
        """The proof between two sizes."""


class OwnLog:
    """`start` once, then `run`; `note` is the newest checkpoint of the hub's journal."""

    def __init__(
        self,
        fold: Fold[HubState],
        keys: KeyStore,
        journal: MerkleLog,
        ledger: MerkleLog,
        ledger_head: Callable[[], int],
        clock: Clock,
        directory: Path,
        *,
        every: timedelta,
        witness_directory: Path | None,
        randomness: Callable[[int], bytes],
    ) -> None:
        self._fold, self._keys, self._journal, self._ledger = fold, keys, journal, ledger
        self._ledger_head, self._clock, self._directory = ledger_head, clock, directory
        self._every, self._witness_directory, self._randomness = every, witness_directory, randomness
        self._note: SignedCheckpoint | None = None
        self._key: Vkey | None = None
        self._exported: date | None = None
        self._wanted, self._turn = asyncio.Event(), asyncio.Lock()
        self.cut_ms = 0
        self.on_note: Callable[[SignedCheckpoint], None] = lambda note: None

    @property
    def origin(self) -> str:
        """The hub's journal as a log."""
        return origin_of(self._fold.state.trust_domain, "journal")

    @property
    def vkey(self) -> Vkey:
        """The key that signs its checkpoints. NotFound before `start`."""
        if self._key is None:
            raise NotFound("the hub has no log key yet")
        return self._key

    @property
    def note(self) -> SignedCheckpoint | None:
        """The newest checkpoint, with the cosignatures that came in."""
        return self._note

    @property
    def integrated(self) -> int:
        """How many entries of the journal are in its tree."""
        return self._journal.size

    async def start(self) -> None:
        """Find or make the log key, and the last checkpoint; a note that is not of this log is no note."""
        await asyncio.to_thread(private_directory, self._directory)
        try:
            public = await self._keys.public_key(KEY, ED25519)
        except NotFound:
            public = await self._keys.create(KEY, ED25519)
        self._key = vkey_of(self.origin, public)
        try:
            data = await asyncio.to_thread(read_bounded, self._path, MAX_BYTES)
            self._note = open_checkpoint(data, [self._key], origin=self.origin)
        except NotFound:
            pass
        except TrustfedError as error:
            _log.error("the hub's last checkpoint cannot be read: another is made", error=error.message)

    async def run(self) -> None:
        """Cut a checkpoint when one is due or wanted; until cancelled."""
        while True:
            try:
                await self.cut()
                await self._export()
            except TrustfedError as error:
                _log.error("no checkpoint of the hub's log", error=error.message, hint=error.hint)
            await news_or_time(self._wanted, self._clock, self._every.total_seconds())

    def want(self) -> None:
        """Cut one soon."""
        self._wanted.set()

    async def cut(self) -> SignedCheckpoint:
        """A checkpoint over all that is recorded now; the held one if nothing was recorded since."""
        async with self._turn:
            return await self._cut()

    async def _cut(self) -> SignedCheckpoint:
        await self._ledger_checkpoint()
        position = self._fold.position
        if self._note is not None and self._note.checkpoint.size >= position:
            return self._note
        await self._journal.integrated(position)
        checkpoint = Checkpoint(self.origin, position, await self._journal.root(position))
        (signature,) = await self._keys.sign(KEY, [payload_to_sign(checkpoint)])
        note = assemble(checkpoint, self.vkey, signature)
        await asyncio.to_thread(write_atomic, self._path, note.data)
        self._note, self.cut_ms = note, int(self._clock.now().timestamp() * 1000)
        self.on_note(note)
        return note

    async def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        """That the journal at `new` continues itself at `old`."""
        return tuple(await self._journal.consistency(old, new))

    async def cosign(self, checkpoint: Checkpoint) -> bytes:
        """The hub's cosignature line for a checkpoint of somebody else's log."""
        key = Vkey(f"trustfed/{self._fold.state.trust_domain}", COSIGNATURE, self.vkey.public)
        at = int(self._clock.now().timestamp())
        (signature,) = await self._keys.sign(KEY, [cosignature_to_sign(checkpoint, at)])
        return cosignature_line(checkpoint, key, at, signature).line.encode()

    async def add(self, size: int, line: Signature, key: Vkey) -> bool:
        """Take somebody's cosignature of the newest checkpoint; False for one of another, or one that does not verify."""
        note = self._note
        if note is None or note.checkpoint.size != size or not line.of(key):
            return False
        if not key.verifies(note.checkpoint.text, line.value):
            return False
        names = {one.name for one in parse_note(note.data).signatures}
        if len(names) > MAX_COSIGNATURES and line.name not in names:
            return True
        data = cosigned(note.data, line)
        self._note = SignedCheckpoint(note.checkpoint, note.cosignatures, data)
        await asyncio.to_thread(write_atomic, self._path, data)
        return True

    async def _ledger_checkpoint(self) -> None:
        """Make the ledger's root an event of the journal, if it grew since the last one."""
        size, last = self._ledger_head(), self._fold.state.evidence.checkpoints
        if not size or (last and last[-1].size >= size):
            return
        await self._ledger.integrated(size)
        root = base64.b64encode(await self._ledger.root(size)).decode()
        event = LogCheckpoint(origin_of(self._fold.state.trust_domain, "ledger"), size, root)
        await self._fold.execute(
            lambda state: [event], command_id=self._randomness(16).hex(), actor="hub", now=self._clock.now()
        )

    async def _export(self) -> None:
        """Once a day: the newest note and the key, where the witness finds them."""
        today = self._clock.now().date()
        if self._witness_directory is None or self._note is None or self._exported == today:
            return
        name = self.origin.replace("/", "_")
        await asyncio.to_thread(_write, self._witness_directory, f"{name}-{today.isoformat()}.note", self._note.data)
        await asyncio.to_thread(_write, self._witness_directory, f"{name}.vkey", f"{self.vkey.text}\n".encode())
        self._exported = today

    @property
    def _path(self) -> Path:
        return self._directory / "journal.note"


def _write(directory: Path, name: str, data: bytes) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / name, data, 0o644)  # for the witness to fetch: nothing in it is secret
