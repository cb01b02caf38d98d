"""What a witness holds, one file per log in a folder of its own: the signed note itself, so that nothing else is believed.

Trust: the folder is trusted not to go back to an older state. A damaged file is refused, never taken for "not seen yet":
that would let a log begin anew.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from trustfed.errors import Invalid, NotFound
from trustfed.journal.merkle.checkpoint import peek_checkpoint
from trustfed.journal.merkle.note import MAX_BYTES
from trustfed.journal.merkle.witness import Held
from trustfed.runtime.files import private_directory, read_bounded, write_atomic


class WitnessFiles:
    """A WitnessStore in `directory`, 0700, made at the first use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def load(self, origin: str) -> Held | None:
        """See WitnessStore. Invalid when the file is not what was written."""
        return await asyncio.to_thread(self._load, origin)

    async def save(self, held: Held) -> None:
        """See WitnessStore."""
        await asyncio.to_thread(self._save, held)

    async def forget(self, origin: str) -> None:
        """Let this log begin anew: its domain was removed, or an operator says that it was restored."""
        await asyncio.to_thread(self._path(origin).unlink, missing_ok=True)

    def _load(self, origin: str) -> Held | None:
        path = self._path(origin)
        try:
            note = read_bounded(path, MAX_BYTES)
        except NotFound:
            return None
        try:
            checkpoint = peek_checkpoint(note)
        except Invalid as fault:
            raise Invalid(f"{path} is damaged: {fault.message}", hint="bring it back from a backup") from None
        if checkpoint.origin != origin:
            raise Invalid(f"{path} holds another log, {checkpoint.origin[:200]!r}", hint="bring it back from a backup")
        return Held(origin, checkpoint.size, checkpoint.root, note)

    def _save(self, held: Held) -> None:
        private_directory(self._directory)
        write_atomic(self._path(held.origin), held.note)

    def _path(self, origin: str) -> Path:
        return self._directory / f"{hashlib.sha256(origin.encode()).hexdigest()[:32]}.note"
