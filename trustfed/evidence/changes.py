"""What an engine tells after each batch of facts, and the sum of all it told: counters, obligations, probes, unknown serials."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from trustfed.evidence.model import COUNTS, Class, Obligation
from trustfed.evidence.pending import Pending
from trustfed.evidence.serials import Serial

Counters = dict[tuple[Class, int], list[int]]
"""Counts in the order of COUNTS, by class and beginning of the bucket (Unix ms)."""


class ProbeState(msgspec.Struct, frozen=True):
    """From `at_ms` on a probe was up, down or unknown, until the next one by time."""

    name: str
    at_ms: int
    state: str


class UnknownSerial(msgspec.Struct, frozen=True):
    """A serial that somebody held or showed, or whose use was reported, and that was never issued."""

    serial: str
    kind: str  # handshake | held | reported
    node: str
    spiffe_id: str
    where: str
    at_ms: int
    position: int


class Correction(msgspec.Struct, frozen=True):
    """A fact that came after the close of its obligation: listed, not counted."""

    position: int
    kind: str
    serial: str
    instance: str
    at_ms: int
    recorded_ms: int


class Last(NamedTuple):
    """The newest serial of a slot that is not followed any more, where a later one than the last that was named."""

    instance: str
    slot: str
    serial: str
    at_ms: int


class Changes(msgspec.Struct):
    """What changed since the last call. The obligations are the engine's own: copy or encode them before the next fact."""

    obligations: list[Pending] = []
    counters: Counters = {}
    probes: list[ProbeState] = []
    unknown: list[UnknownSerial] = []
    corrections: list[Correction] = []
    named: list[Serial] = []
    """Serials that were issued to whom the slot was not told of before, or not since a day; the newest of each slot."""
    left: list[Last] = []

    def add(self, class_: Class, bucket_ms: int, place: int, count: int = 1) -> None:
        """Count something that is no obligation."""
        row = self.counters.get((class_, bucket_ms))
        if row is None:
            row = self.counters[class_, bucket_ms] = [0] * len(COUNTS)
        row[place] += count


class Collected:
    """The sum of all changes, in memory: for packs, second opinions and tests."""

    def __init__(self) -> None:
        self.counters: Counters = {}
        self.obligations: dict[str, Obligation] = {}
        self.probes: list[ProbeState] = []
        self.unknown: list[UnknownSerial] = []
        self.corrections: list[Correction] = []

    def apply(self, changes: Changes) -> None:
        """Take in what an engine told; obligations are copied."""
        for key, delta in changes.counters.items():
            row = self.counters.get(key)
            if row is None:
                self.counters[key] = list(delta)
            else:
                self.counters[key] = [old + new for old, new in zip(row, delta, strict=True)]
        for it in changes.obligations:
            self.obligations[it.id] = plain(it)
        self.probes.extend(changes.probes)
        self.unknown.extend(changes.unknown)
        self.corrections.extend(changes.corrections)

    def of(self, *classes: Class) -> Iterable[Obligation]:
        """The obligations of these classes, by their on-time limit."""
        chosen = (it for it in self.obligations.values() if it.class_ in classes)
        return sorted(chosen, key=lambda it: (it.on_time_ms, it.id))


def plain(it: Pending) -> Obligation:
    """A copy of what is public of an obligation."""
    values = {name: getattr(it, name) for name in Obligation.__struct_fields__}
    values["by_level_ms"] = dict(it.by_level_ms)
    return Obligation(**values)
