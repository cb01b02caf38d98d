"""What an auditor holds from before: keys, fingerprints and checkpoints that did not come with the pack.

One text file, or several: a line with a verifier key (C2SP signed-note vkey), a line `sha256:` and 64 hex digits (the fingerprint
of a domain's publication key, as both owners know it), or a checkpoint as it was exported, whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trustfed.errors import Invalid
from trustfed.journal.merkle.checkpoint import Checkpoint, peek_checkpoint
from trustfed.journal.merkle.vkey import COSIGNATURE, Vkey, parse_vkey

MAX_BYTES = 1 << 20
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_SIGNATURE = "\u2014 "


@dataclass(frozen=True)
class Trust:
    """Who is believed, and what was seen."""

    log_keys: tuple[Vkey, ...] = ()
    cosigners: tuple[Vkey, ...] = ()
    fingerprints: tuple[str, ...] = ()
    checkpoints: tuple[tuple[Checkpoint, bytes], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.log_keys or self.cosigners or self.fingerprints or self.checkpoints)


def read_trust(texts: Sequence[tuple[str, bytes]]) -> Trust:
    """All that these (name, content) files say. Raises Invalid, naming file and line."""
    logs: list[Vkey] = []
    cosigners: list[Vkey] = []
    fingerprints: list[str] = []
    checkpoints: list[tuple[Checkpoint, bytes]] = []
    for name, data in texts:
        if len(data) > MAX_BYTES:
            raise Invalid(f"{name} has {len(data)} bytes; at most {MAX_BYTES} are read")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise Invalid(f"{name} is no text", hint="verifier keys, fingerprints, or a checkpoint") from None
        if f"\n\n{_SIGNATURE}" in text:
            checkpoints.append((peek_checkpoint(data), data))
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            word = line.strip()
            if not word or word.startswith("#"):
                continue
            if _FINGERPRINT.fullmatch(word):
                fingerprints.append(word)
                continue
            try:
                key = parse_vkey(word)
            except Invalid as error:
                raise Invalid(
                    f"{name}, line {number}: {error.message}",
                    hint="a verifier key (NAME+HEX+BASE64), a fingerprint (sha256:HEX), or a whole checkpoint",
                ) from None
            (cosigners if key.kind == COSIGNATURE else logs).append(key)
    return Trust(tuple(logs), tuple(cosigners), tuple(fingerprints), tuple(checkpoints))
