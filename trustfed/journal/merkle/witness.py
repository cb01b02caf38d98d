"""What a witness of a log decides when it is shown a checkpoint (C2SP tlog-witness, add-checkpoint): pure rules.

In the standard's order, with its HTTP status; the answers are what a caller maps to its own protocol:

 1. the note has its form, and is of this log                                   Invalid (400)
 2. one of the log's keys signed it                                             BadSignature (403)
 3. it is not smaller than what the witness holds                               Shrunk: an alarm (409)
 4. the proof begins where the witness stands                                   NotYours(size) (409)
 5. at the same size the root is the same                                       Fork: an alarm, with both notes (409)
 6. the proof leads from the root that is held to the new one                   Fork: an alarm (422)
 7. it is taken, durably, and cosigned                                          Cosign (200)

3 is ours: the standard lets a log show an old checkpoint. Between two processes that speak in order a log that comes
with fewer leaves has lost some, or was put back to an older state. What a witness holds never goes back by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from trustfed.errors import Denied, Invalid
from trustfed.journal.merkle.checkpoint import Checkpoint, open_checkpoint, peek_checkpoint
from trustfed.journal.merkle.hashing import EMPTY_ROOT
from trustfed.journal.merkle.proofs import verify_consistency
from trustfed.journal.merkle.vkey import Vkey


@dataclass(frozen=True)
class Held:
    """The last checkpoint of a log that the witness took: `note` are its exact bytes, signed by the log."""

    origin: str
    size: int
    root: bytes
    note: bytes


@dataclass(frozen=True)
class Offer:
    """A newer checkpoint: its `note`, and the consistency `proof` from the size `old` that the log thinks is held."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes


@dataclass(frozen=True)
class Cosign:
    """Take it: keep `held`, then cosign `checkpoint`."""

    checkpoint: Checkpoint
    held: Held


@dataclass(frozen=True)
class NotYours:
    """The proof does not begin where the witness stands, at `size`: make another from there."""

    size: int


@dataclass(frozen=True)
class Fork:
    """The log shows another past than before: `offered` and `held` are signed by it and do not fit together."""

    held: Held
    offered: bytes
    why: str


@dataclass(frozen=True)
class Shrunk:
    """The log has fewer leaves than it had: `size` of them instead of `held.size`."""

    held: Held
    offered: bytes
    size: int


@dataclass(frozen=True)
class BadSignature:
    """Nothing says that the log made this checkpoint."""

    why: str


Verdict: TypeAlias = Cosign | NotYours | Fork | Shrunk | BadSignature


def judge(held: Held | None, offer: Offer, *, origin: str, log_keys: Sequence[Vkey]) -> Verdict:
    """What to do with an offer of the log `origin`, of which `held` is known so far. Raises Invalid (form, sizes).

    `held` is None for a log that was never seen: its first checkpoint is believed as it comes.
    """
    # 1
    if held is not None and held.origin != origin:
        raise Invalid(f"what is held is of the log {held.origin}, not of {origin}")
    checkpoint = peek_checkpoint(offer.note)
    if checkpoint.origin != origin:
        raise Invalid(f"the checkpoint is of the log {checkpoint.origin[:200]!r}, not of {origin}")
    if not 0 <= offer.old <= checkpoint.size:
        raise Invalid(f"a proof from {offer.old} to {checkpoint.size} has no meaning")
    # 2
    try:
        open_checkpoint(offer.note, log_keys, origin=origin)
    except Denied as refused:
        return BadSignature(refused.message)
    size, root = (held.size, held.root) if held is not None else (0, EMPTY_ROOT)
    # 3
    if held is not None and checkpoint.size < size:
        return Shrunk(held, offer.note, checkpoint.size)
    # 4. (A fork at the size that is held shows without any proof, so it is said first.)
    forked = held is not None and checkpoint.size == size and checkpoint.root != root
    if offer.old != size and not forked:
        return NotYours(size)
    # 5
    if held is not None and forked:
        return Fork(held, offer.note, f"two roots at the size {size}")
    # 6
    try:
        verify_consistency(size, root, checkpoint.size, checkpoint.root, offer.proof)
    except (Denied, Invalid) as refused:
        if held is None or isinstance(refused, Invalid):
            raise Invalid(refused.message, hint=refused.hint) from None
        return Fork(held, offer.note, refused.message)
    # 7
    return Cosign(checkpoint, Held(origin, checkpoint.size, checkpoint.root, offer.note))


class WitnessStore(Protocol):
    """Where a witness keeps what it holds. Trust: who can put back an older state can make it cosign a fork."""

    async def load(self, origin: str) -> Held | None:
        """What is held of a log; None if it was never seen."""
        ...

    async def save(self, held: Held) -> None:
        """Replace what is held of `held.origin`, durable on return."""
        ...

    async def forget(self, origin: str) -> None:
        """Let this log begin anew, by an operator's word."""
        ...


class Witness:
    """Judges one offer at a time, and keeps what it takes before it cosigns: tlog-witness wants both in one step."""

    def __init__(self, store: WitnessStore, cosign: Callable[[Checkpoint], Awaitable[bytes]]) -> None:
        """`cosign` gives the note lines for a checkpoint that was taken (trustfed.journal.merkle.checkpoint)."""
        self._store, self._cosign = store, cosign
        self._turn = asyncio.Lock()

    async def consider(self, offer: Offer, *, origin: str, log_keys: Sequence[Vkey]) -> tuple[Verdict, bytes]:
        """The verdict, and after Cosign the cosignature lines, else nothing. Raises Invalid, and what the ports raise."""
        async with self._turn:
            held = await self._store.load(origin)
            verdict = judge(held, offer, origin=origin, log_keys=log_keys)
            if not isinstance(verdict, Cosign):
                return verdict, b""
            if held is None or held.size < verdict.held.size:
                await self._store.save(verdict.held)
            return verdict, await self._cosign(verdict.checkpoint)
