"""The saved state of the engine, in one file beside evidence.db: losing it costs a replay of the ledger, nothing else.

Frames of a length (4 bytes, big-endian) and a chunk, then a zero length and SHA-256 over all before it. Written whole, synced
and renamed into place, 0600. A file that is damaged or of another engine is ignored, with a line in the log.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from trustfed.errors import Invalid, Unavailable
from trustfed.evidence.definition import Definition
from trustfed.evidence.engine import Engine
from trustfed.journal.directory import sync_directory
from trustfed.runtime import logs

MAX_CHUNK = 8 << 20
log = logs.get("evidence")


def write_state(path: Path, chunks: Iterable[bytes]) -> None:
    """Replace the file, durable on return. Blocks. Raises Unavailable; then the old file stands."""
    beside = path.with_name(path.name + ".new")
    digest = hashlib.sha256()
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                frame = len(chunk).to_bytes(4, "big") + chunk
                digest.update(frame)
                file.write(frame)
            digest.update(bytes(4))
            file.write(bytes(4) + digest.digest())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error}", hint="check the disk and the room on it") from None


def read_state(path: Path, trust_domain: str, definition: Definition, last: int) -> Engine | None:
    """The engine that was saved, if it is whole, of this domain and definition, and not beyond position `last`. Blocks."""
    try:
        chunks = _frames(path.read_bytes())
        engine = Engine.load(trust_domain, definition, chunks)
    except FileNotFoundError:
        return None
    except (OSError, Invalid) as error:
        log.warning("saved evidence state is not used", path=str(path), error=str(error))
        return None
    return engine if engine.position <= last else None


def _frames(data: bytes) -> list[bytes]:
    chunks, place = [], 0
    while True:
        size = int.from_bytes(data[place : place + 4], "big")
        if size > MAX_CHUNK or len(data) < place + 4:
            raise Invalid("a frame of it is damaged", hint="it is made anew from the ledger")
        place += 4
        if size == 0:
            break
        chunks.append(data[place : place + size])
        place += size
    if hashlib.sha256(data[:place]).digest() != data[place:]:
        raise Invalid("its checksum is another", hint="it is made anew from the ledger")
    return chunks
