"""What was open when facts left by retention, carried forward in the facts evidence.rollup: an engine begins from it.

The fact's key is the first position that is retained, and `/` and a number behind it if that was tried before, so that no
key has more facts than `find` gives. `carried` is base64 over zlib over frames (4 bytes of length, big-endian,
and a chunk of `Engine.save`), cut into `parts`.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Sequence
from typing import Protocol

from trustfed.errors import Invalid
from trustfed.evidence import facts as f
from trustfed.evidence.definition import Definition
from trustfed.evidence.engine import Engine
from trustfed.journal.events import Fact

PART_BYTES = 36 << 10
"""Of compressed state in one fact: 48 KiB as base64, below the 64 KiB that a fact may have."""

MAX_PARTS = 1_000
MAX_STATE = 1 << 30
MAX_TRIES = 1_000


class Found(Protocol):
    """The ledger, as far as rollups are looked for."""

    @property
    def first(self) -> int: ...

    async def find(self, kind: str, key: str) -> list[Fact]: ...


def packed(chunks: Iterable[bytes]) -> list[str]:
    """The state as texts of at most 48 KiB. Raises Invalid beyond 1,000 of them."""
    compressor, out = zlib.compressobj(6), []
    for chunk in chunks:
        out.append(compressor.compress(len(chunk).to_bytes(4, "big") + chunk))
    out.append(compressor.flush())
    data = b"".join(out)
    parts = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
    if len(parts) > MAX_PARTS:
        raise Invalid(f"{len(data)} bytes are open, more than {MAX_PARTS} facts hold", hint="keep more facts")
    return [base64.b64encode(part).decode() for part in parts]


def unpacked(parts: Sequence[str]) -> list[bytes]:
    """The chunks again. Raises Invalid for what `packed` never gave."""
    try:
        data = b"".join(base64.b64decode(part, validate=True) for part in parts)
        unzipped = zlib.decompressobj()
        raw = unzipped.decompress(data, MAX_STATE)
        if not unzipped.eof:
            raise ValueError("it is not whole, or too large")
    except (binascii.Error, zlib.error, ValueError) as error:
        raise Invalid(f"the state carried by evidence.rollup is damaged: {error}") from None
    chunks, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        chunks.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(raw):
        raise Invalid("the state carried by evidence.rollup is damaged: a frame is cut off")
    return chunks


def carried_state(rollups: Sequence[Fact]) -> list[bytes]:
    """The chunks in the newest whole set of these rollups of one key; none if there is no whole set."""
    whole: list[str] = []
    run: list[str] = []
    for fact in rollups:
        part, parts, carried = fact.body.get("part"), fact.body.get("parts"), fact.body.get("carried")
        if part == 0:
            run = []
        if part != len(run) or not isinstance(carried, str):
            run = []
            continue
        run.append(carried)
        if len(run) == parts:
            whole = run
    return unpacked(whole) if whole else []


async def rollups(ledger: Found, first: int) -> list[list[Fact]]:
    """The facts of each try to let everything before `first` go, the oldest first."""
    tries: list[list[Fact]] = []
    while len(tries) < MAX_TRIES and (found := await ledger.find(f.ROLLUP, key_of(first, len(tries)))):
        tries.append(found)
    return tries


def key_of(first: int, tries: int) -> str:
    """The key of the facts of the try behind so many others. Raises Invalid beyond 1,000."""
    if tries >= MAX_TRIES:
        raise Invalid(
            f"to let go of the facts before {first} was tried {tries} times", hint="read the log of retention"
        )
    return f"{first}/{tries}" if tries else str(first)


async def carried_engine(ledger: Found, trust_domain: str, definition: Definition) -> Engine:
    """The engine that a fold of this ledger begins with: empty, or as it was where the retained facts begin.

    What it carries counts from here on as if it had just opened.
    """
    if ledger.first > 1:
        for tried in reversed(await rollups(ledger, ledger.first)):
            if not (chunks := carried_state(tried)):
                continue
            engine = Engine.load(trust_domain, definition, chunks)
            engine.count_anew()
            return engine
    engine = Engine(trust_domain, definition)
    engine.position = ledger.first - 1
    return engine
