"""Walking a journal from its first event, and holding it to a signed checkpoint (C2SP tlog-checkpoint).

1. positions are dense and no id comes twice  2. at the checkpoint's size the Merkle root (RFC 6962) over the canonical
bytes of all events is the checkpoint's  3. the checkpoint is signed by the log's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trustfed.cli.client import Admin
from trustfed.errors import Conflict, Invalid, NotFound, Unavailable
from trustfed.evidence.trust import read_trust
from trustfed.journal.events import Event, canonical
from trustfed.journal.merkle.checkpoint import Checkpoint, open_checkpoint, peek_checkpoint
from trustfed.journal.merkle.hashing import leaf_hash
from trustfed.journal.merkle.ranges import CompactRange
from trustfed.journal.merkle.vkey import Vkey
from trustfed.runtime.files import read_bounded

MAX_NOTE = 65_536
_FIELDS = ("id", "command_id", "actor", "owner", "reason", "kind", "version", "body")


@dataclass(frozen=True)
class Expected:
    """The checkpoint that the journal must lead to, and what is known of its signature."""

    checkpoint: Checkpoint
    words: str

    @classmethod
    def held(cls, file: Path, log_key: Path | None) -> Expected:
        """One that the auditor kept. Raises Invalid, Denied, NotFound."""
        data = read_bounded(file, MAX_NOTE)
        if log_key is None:
            found = peek_checkpoint(data)
            return cls(found, f"it leads to {file}, whose signature was not checked (--log-key FILE)")
        key = _key_of(str(log_key), read_bounded(log_key, MAX_NOTE), data)
        return cls(
            open_checkpoint(data, [key], origin=key.name).checkpoint, f"it leads to {file}, signed by {key.name}"
        )

    @classmethod
    def told(cls, door: Admin, log_key: Path | None) -> Expected | None:
        """The newest one of the process itself; None when it has none. Raises Invalid, Denied."""
        try:
            if door.kind == "hub":
                said = door.get("/evidence/checkpoint")
                key = said["vkey"]
            else:
                key, said = door.get("/evidence/status")["log_key"], door.post("/evidence/checkpoint", {})
        except NotFound:
            return None
        held = read_bounded(log_key, MAX_NOTE) if log_key else str(key).encode()
        whose = "as you know it" if log_key else "by its own word: keep this key, and its checkpoints"
        return cls.signed(str(said["note"]).encode(), str(log_key or "its own key"), held, whose)

    @classmethod
    def signed(cls, note: bytes, name: str, held: bytes, whose: str) -> Expected:
        """A signed note under the log's key, which stands in the file `held`. Raises Invalid, Denied."""
        key = _key_of(name, held, note)
        found = open_checkpoint(note, [key], origin=key.name).checkpoint
        return cls(found, f"it leads to its checkpoint of {found.size}, signed by {key.text} ({whose})")


def _key_of(name: str, held: bytes, note: bytes) -> Vkey:
    """The key of the note's log among those in a file, as `trustfed evidence keys` prints them. Raises Invalid."""
    keys, origin = read_trust([(name, held)]).log_keys, peek_checkpoint(note).origin
    for key in keys:
        if key.name == origin:
            return key
    raise Invalid(f"{name} holds no key of the log {origin[:120]}", hint="trustfed evidence keys, at that process")


class Walk:
    """`step` for each event from the first on, then `end`."""

    def __init__(self, expected: Expected | None) -> None:
        self._expected, self._tree = expected, CompactRange()
        self._seen: set[str] = set()
        self.position = 0
        self._reached = False

    def step(self, event: dict[str, Any]) -> None:
        """The next event. Raises Unavailable for a gap or a repeated one, Conflict when the root is another."""
        if event["position"] != self.position + 1:
            raise Unavailable(f"event {self.position + 1} is missing: {event['position']} follows {self.position}")
        if event["id"] in self._seen:
            raise Unavailable(f"event {event['position']} repeats the id {event['id']}")
        self._seen.add(event["id"])
        self.position += 1
        if self._expected is not None and not self._reached:
            fields = {name: event[name] for name in _FIELDS}
            self._tree.append(leaf_hash(canonical(Event(at=event["at_ms"], **fields))))
            if self._tree.size == self._expected.checkpoint.size:
                self._compare(self._expected.checkpoint)

    def end(self) -> str:
        """What was found, in words. Raises Conflict when the journal is shorter than its checkpoint."""
        if self._expected is None:
            return "there is no checkpoint yet to hold it to"
        if not self._reached and self._expected.checkpoint.size:
            raise Conflict(
                f"the journal ends at {self.position}, but a checkpoint of {self._expected.checkpoint.size} was signed",
                hint="events were cut off: compare with a backup and with who cosigned",
            )
        return self._expected.words

    def _compare(self, wanted: Checkpoint) -> None:
        if self._tree.root() != wanted.root:
            raise Conflict(
                f"the first {wanted.size} events are not those of the checkpoint: the journal was rewritten",
                hint="keep both, and compare with who cosigned",
            )
        self._reached = True
