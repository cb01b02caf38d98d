"""A checkpoint: what a log says it was at a size, signed by the log and cosigned by its witnesses (C2SP tlog-checkpoint).

The text is three lines: origin, number of leaves, base64 of the root. Extension lines are refused: no witness looks at
them, so nothing of ours may hang on them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from trustfed.errors import Denied, Invalid
from trustfed.journal.merkle.hashing import EMPTY_ROOT, HASH_BYTES
from trustfed.journal.merkle.note import Note, Signature, cosignature_by, open_note, parse_note, signature_by, time_of
from trustfed.journal.merkle.ranges import check_size
from trustfed.journal.merkle.vkey import COSIGNATURE, ED25519, Vkey, check_name, cosignature_message, strict_base64


@dataclass(frozen=True)
class Checkpoint:
    """The tree of a log: its `origin`, the number of its leaves, and its root of 32 bytes."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        check_name(self.origin)
        check_size(self.size)
        if len(self.root) != HASH_BYTES or (self.size == 0) != (self.root == EMPTY_ROOT):
            raise Invalid(f"the root of {self.origin} at {self.size} cannot be one")

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True)
class Cosignature:
    """Who saw the checkpoint as the largest of its log, and when (Unix seconds)."""

    name: str
    at: int


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint that its log has signed: only `open_checkpoint` makes one. `data` are the exact bytes of the note."""

    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...]
    data: bytes


def origin_of(trust_domain: str, log: str) -> str:
    """The origin of a log of a trust domain: "trustfed/NAME/journal" or "trustfed/NAME/ledger"."""
    return f"trustfed/{trust_domain}/{log}"


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in the text of a note. Raises Invalid."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise Invalid("a checkpoint has exactly three lines: origin, size and root", hint="extensions are not accepted")
    origin, size, encoded, _ = lines
    root = strict_base64(encoded)
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size, re.ASCII) or root is None:
        raise Invalid(f"the size or the root in the checkpoint of {origin[:80]!r} is not one")
    return Checkpoint(origin, int(size), root)


def peek_checkpoint(data: bytes) -> Checkpoint:
    """What a note says before anything is verified: to find out whose key must have signed it. Raises Invalid."""
    return parse_checkpoint(parse_note(data).text)


def open_checkpoint(
    data: bytes, log_keys: Sequence[Vkey], *, origin: str, cosigners: Sequence[Vkey] = ()
) -> SignedCheckpoint:
    """The checkpoint of `origin` in `data`, if one of its `log_keys` signed it; with its cosignatures by `cosigners`.

    Raises Invalid (form) or Denied (another log, no signature of the log, one of a known key that does not verify).
    """
    note, verified = open_note(data, [*log_keys, *cosigners])
    if not any(key in log_keys and key.kind == ED25519 for key, _ in verified):
        raise Denied(f"the checkpoint is not signed by the log {origin}")
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != origin:
        raise Denied(f"the checkpoint is of the log {checkpoint.origin[:200]!r}, not of {origin}")
    seen = [Cosignature(key.name, at) for key, signature in verified if (at := time_of(key, signature)) is not None]
    return SignedCheckpoint(checkpoint, tuple(seen), data)


def payload_to_sign(checkpoint: Checkpoint) -> bytes:
    """What the log key signs."""
    return checkpoint.text.encode()


def assemble(checkpoint: Checkpoint, key: Vkey, signature: bytes) -> SignedCheckpoint:
    """The note with the signature that a key store made; opened before it is returned. Raises Invalid, Denied."""
    data = Note(checkpoint.text, (signature_by(key, signature),)).data
    return open_checkpoint(data, [key], origin=checkpoint.origin)


def cosignature_to_sign(checkpoint: Checkpoint, at: int) -> bytes:
    """What a cosigner signs, at Unix second `at`."""
    return cosignature_message(checkpoint.text, at)


def cosignature_line(checkpoint: Checkpoint, key: Vkey, at: int, signature: bytes) -> Signature:
    """The cosignature line by a key of type COSIGNATURE; verified before it is returned. Raises Invalid, Denied."""
    line = cosignature_by(key, at, signature)
    if key.kind != COSIGNATURE or not key.verifies(checkpoint.text, line.value):
        raise Denied(f"the cosignature of {key.name} does not verify: nothing of it is used")
    return line


def cosigned(data: bytes, *lines: Signature) -> bytes:
    """The note with these cosignature lines added; an older one by the same key is replaced. Raises Invalid."""
    return parse_note(data).signed(*lines).data
