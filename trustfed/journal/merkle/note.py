"""A signed note: text, an empty line, and the signatures of any number of keys (C2SP signed-note).

    trustfed/prod.example/journal
    1234
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — trustfed/prod.example/journal Az3grlgtzPICa5OS8np...

`parse_note` checks form only. The text means nothing until `open_note` has found a signature by a key that is trusted.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from trustfed.errors import Denied, Invalid
from trustfed.journal.merkle.vkey import COSIGNATURE, ED25519, MAX_TIME, Vkey, check_name, cosigned_at, strict_base64

MAX_BYTES = 64 << 10
MAX_SIGNATURES = 32
_DASH = "\u2014 "


@dataclass(frozen=True)
class Signature:
    """One signature line: who, by which key, and the bytes that follow the key id."""

    name: str
    key_id: bytes
    value: bytes

    @property
    def line(self) -> str:
        """The line in a note, with its end."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"

    def of(self, key: Vkey) -> bool:
        """Whether it claims to be by this key."""
        return (self.name, self.key_id) == (key.name, key.key_id)


@dataclass(frozen=True)
class Note:
    """A note whose form is right: `text` ends with a newline."""

    text: str
    signatures: tuple[Signature, ...]

    @property
    def data(self) -> bytes:
        """The bytes of the note."""
        return f"{self.text}\n{''.join(each.line for each in self.signatures)}".encode()

    def signed(self, *signatures: Signature) -> Note:
        """This note with more signatures; one by the same key is replaced. Raises Invalid over the bounds."""
        keys = {(each.name, each.key_id) for each in signatures}
        kept = tuple(each for each in self.signatures if (each.name, each.key_id) not in keys)
        return parse_note(Note(self.text, (*kept, *signatures)).data)


def signature_by(key: Vkey, signature: bytes) -> Signature:
    """The line for an Ed25519 signature over the text itself, as a key store makes it. Raises Invalid."""
    if key.kind != ED25519 or len(signature) != 64:
        raise Invalid(f"this is no signature of a note by {key.name}")
    return Signature(key.name, key.key_id, signature)


def cosignature_by(key: Vkey, at: int, signature: bytes) -> Signature:
    """The line for an Ed25519 signature over `cosignature_message(text, at)`; `at` in Unix seconds. Raises Invalid."""
    if key.kind != COSIGNATURE or len(signature) != 64 or not 0 <= at <= MAX_TIME:
        raise Invalid(f"this is no cosignature by {key.name}")
    return Signature(key.name, key.key_id, at.to_bytes(8, "big") + signature)


def parse_note(data: bytes) -> Note:
    """The note in `data`, in its one form; nothing is verified. Raises Invalid."""
    if len(data) > MAX_BYTES:
        raise Invalid(f"a signed note of {len(data)} bytes", hint=f"at most {MAX_BYTES}")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise Invalid("a signed note is not UTF-8") from None
    if any(character < " " and character != "\n" for character in whole):
        raise Invalid("a signed note holds a control character")
    text, separator, lines = whole.rpartition("\n\n")
    if not separator or not text:
        raise Invalid("a signed note has no empty line between its text and its signatures")
    return Note(text + "\n", parse_signatures(lines))


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """The signature lines of a note, or of a witness's answer: 1 to 32. Raises Invalid."""
    if not lines.endswith("\n"):
        raise Invalid("the signatures of a note do not end with a newline")
    listed = lines[:-1].split("\n")
    if len(listed) > MAX_SIGNATURES:
        raise Invalid(f"a note with {len(listed)} signatures", hint=f"at most {MAX_SIGNATURES}")
    return tuple(_signature(line) for line in listed)


def open_note(data: bytes, keys: Sequence[Vkey]) -> tuple[Note, list[tuple[Vkey, Signature]]]:
    """The note in `data` with its verified signatures: those by `keys`, at least one. Others are passed over.

    Raises Invalid (form) or Denied: no signature is by one of the keys, or one claims to be and does not verify.
    """
    note = parse_note(data)
    verified = []
    for signature in note.signatures:
        for key in keys:
            if not signature.of(key):
                continue
            if not key.verifies(note.text, signature.value):
                raise Denied(f"the signature of {key.name} does not verify: the note is not what it signed")
            verified.append((key, signature))
    if not verified:
        names = ", ".join(sorted({key.name for key in keys})) or "nobody"
        raise Denied(f"no signature is by a key that is trusted here: {names[:200]}")
    return note, verified


def time_of(key: Vkey, signature: Signature) -> int | None:
    """When a verified cosignature was made, in Unix seconds; None for a signature without a time."""
    return cosigned_at(signature.value) if key.kind == COSIGNATURE else None


def _signature(line: str) -> Signature:
    dash, name, encoded = line[: len(_DASH)], *line[len(_DASH) :].partition(" ")[::2]
    value = strict_base64(encoded)
    if dash != _DASH or value is None or len(value) < 5:
        raise Invalid(f"{line[:80]!r} is no signature line of a note", hint="\u2014 NAME base64(key id, signature)")
    check_name(name)
    return Signature(name, value[:4], value[4:])
