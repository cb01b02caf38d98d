"""What is recorded: events (decisions) and facts (high volume), each with one canonical encoding.

The Merkle log covers exactly the bytes of `canonical`, so they never depend on the driver, the process or the order
in which a dict was built: RFC 8785 (JSON Canonicalization Scheme), restricted to str, int, bool, None, list and dict.
Secrets and personal data have no place in either: actors are opaque ids.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from trustfed.errors import Invalid
from trustfed.journal.jcs import encode

MAX_EVENT_BYTES = 1 << 20
MAX_FACT_BYTES = 64 << 10

TypedEvent: TypeAlias = msgspec.Struct
"""A decision as its room declares it: a frozen msgspec.Struct whose fields survive JSON."""

Upcaster: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns the body of one schema version into the body of the next."""

_KIND = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_KIND_LIMIT = 64
_TEXT_LIMITS = {"id": (1, 128), "command_id": (1, 128), "actor": (1, 256), "owner": (0, 256), "reason": (0, 2048)}


class Event(msgspec.Struct, frozen=True):
    """One decision, as it is appended: `at` is Unix time in ms, `version` the schema of `body`."""

    id: str
    command_id: str
    at: int
    actor: str
    owner: str
    reason: str
    kind: str
    version: int
    body: dict[str, Any]


class Recorded(msgspec.Struct, frozen=True):
    """An event with its place in the journal: positions are dense and start at 1."""

    position: int
    event: Event
    canonical: bytes

    @property
    def leaf_hash(self) -> bytes:
        """The RFC 6962 §2.1 leaf hash of the canonical bytes."""
        return hashlib.sha256(b"\x00" + self.canonical).digest()


class Fact(msgspec.Struct, frozen=True):
    """One thing that happened, of a kind that happens often: `key` is what it is found by (a serial, in hex)."""

    at: int
    kind: str
    key: str
    body: dict[str, Any]


class RecordedFact(msgspec.Struct, frozen=True):
    """A fact with its place in the ledger: positions are dense and start at 1."""

    position: int
    fact: Fact
    canonical: bytes

    @property
    def leaf_hash(self) -> bytes:
        """The RFC 6962 §2.1 leaf hash of the canonical bytes."""
        return hashlib.sha256(b"\x00" + self.canonical).digest()


def canonical(event: Event) -> bytes:
    """Encode an event as the bytes that are stored, chained and covered by the Merkle log; Invalid names the field."""
    for field, (least, most) in _TEXT_LIMITS.items():
        text = getattr(event, field)
        if type(text) is not str or not least <= len(text) <= most:
            raise Invalid(f"event field {field} must be a string of {least} to {most} characters")
    _check_kind("event", event.kind)
    _check_time("event", event.at)
    if type(event.version) is not int or event.version < 1:
        raise Invalid(f"event {event.kind} has the schema version {event.version!r}; versions start at 1")
    return _encode(f"event {event.kind}", event, event.body, MAX_EVENT_BYTES)


def canonical_fact(fact: Fact) -> bytes:
    """Encode a fact as the bytes that are stored, chained and covered by the Merkle log; Invalid names the field."""
    _check_kind("fact", fact.kind)
    _check_time("fact", fact.at)
    if type(fact.key) is not str or not 1 <= len(fact.key) <= 256:
        raise Invalid("fact field key must be a string of 1 to 256 characters")
    return _encode(f"fact {fact.kind}", fact, fact.body, MAX_FACT_BYTES)


def _encode(what: str, value: Event | Fact, body: object, limit: int) -> bytes:
    if type(body) is not dict:
        raise Invalid(f"{what}: the body must be an object, not {type(body).__name__}")
    data = encode(value, body, what)
    if len(data) > limit:
        raise Invalid(f"{what} is {len(data)} bytes long; at most {limit} are recorded")
    return data


def _check_kind(what: str, kind: object) -> None:
    if type(kind) is not str or not _is_kind(kind):
        raise Invalid(f"{what} kind must be lower-case words joined by dots, at most {_KIND_LIMIT} characters")


@functools.lru_cache(256)  # there are a few dozen kinds, and one of them in every fact
def _is_kind(kind: str) -> bool:
    return len(kind) <= _KIND_LIMIT and _KIND.fullmatch(kind) is not None


def _check_time(what: str, at: object) -> None:
    if type(at) is not int or not 0 <= at < 1 << 48:
        raise Invalid(f"{what} field at must be Unix time in milliseconds, not {at!r}")


class Codec:
    """Maps typed events to kind, schema version and body, and back, lifting old bodies to the newest schema.

    The version of a kind is one more than its highest upcaster, so a schema changes only together with the rule that
    lifts what was written before: `Codec({"grant.offered": GrantOffered}, upcast={("grant.offered", 1): add_reason})`
    writes version 2 and reads 1 and 2. A kind or version from a newer program is refused, never guessed.
    """

    def __init__(
        self,
        types: Mapping[str, type[TypedEvent]],
        *,
        upcast: Mapping[tuple[str, int], Upcaster] | None = None,
    ) -> None:
        self._types = dict(types)
        self._kinds = {declared: kind for kind, declared in types.items()}
        self._upcast = dict(upcast or {})
        if len(self._kinds) != len(self._types):
            raise Invalid("two event kinds share one type; give each kind a type of its own")
        self._versions = dict.fromkeys(types, 1)
        for kind in types:
            _check_kind("event", kind)
        for kind, version in sorted(self._upcast):
            if self._versions.get(kind) != version:
                raise Invalid(f"upcaster for {kind} version {version} leaves a gap or names an unknown kind")
            self._versions[kind] = version + 1

    def encode(self, typed: TypedEvent) -> tuple[str, int, dict[str, Any]]:
        """Give the kind, the newest schema version and the body of a typed event; Invalid if its type is unknown."""
        kind = self._kinds.get(type(typed))
        if kind is None:
            raise Invalid(f"{type(typed).__name__} is not an event of this journal")
        # Through JSON, so that tuples become lists here as they would on a replay.
        body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(typed))
        return kind, self._versions[kind], body

    def decode(self, event: Event) -> TypedEvent:
        """Give the typed event; Invalid if kind or version is newer than this program, or the body does not fit."""
        declared, newest = self._types.get(event.kind), self._versions.get(event.kind, 0)
        if declared is None or event.version > newest:
            raise Invalid(
                f"event {event.id} is {event.kind} version {event.version}; this program knows "
                + (f"versions up to {newest}" if declared else "no such kind"),
                hint="the journal was written by a newer trustfed: run that version or a later one",
            )
        body = event.body
        for version in range(event.version, newest):
            body = self._upcast[event.kind, version](dict(body))
        try:
            return msgspec.convert(body, declared)
        except msgspec.ValidationError as error:
            raise Invalid(f"event {event.id} ({event.kind} version {event.version}) does not fit: {error}") from None
