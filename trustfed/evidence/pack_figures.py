"""The figures of a pack: what its facts alone say of its scope, so that whoever has the pack has the same numbers."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trustfed.evidence.definition import Definition
from trustfed.evidence.engine import Engine
from trustfed.evidence.model import COUNTS, FAILED, FEW, Class
from trustfed.evidence.pack import Manifest
from trustfed.evidence.pending import Pending, bucket_of, counted
from trustfed.journal.events import Fact

MAX_FAILURES = 10_000
_LOOK_EVERY = 20_000
"""Facts between two looks: each obligation changes some three times, and is looked at once."""


class Failure(msgspec.Struct, frozen=True):
    """One obligation that failed: what an auditor asks after first."""

    class_: str
    spiffe_id: str
    instance: str
    predecessor: str
    outcome: str
    on_time_ms: int


class PackFigures(msgspec.Struct, frozen=True):
    """Per class what fell due in [from_ms, to_ms): `counts` in the words of trustfed.evidence.model.COUNTS, without zeros.

    `rates` is ON_TIME ÷ (due - EXCUSED - SUPERSEDED - UNUSED) to six places; None where nothing was due, where the coverage is
    below the definition's floor, and for CAs, JWT keys and bundles. `failures` are the first 10,000 by class, time and id.
    """

    trust_domain: str
    from_ms: int
    to_ms: int
    as_of_ms: int
    definition: str
    counts: dict[str, dict[str, int]]
    rates: dict[str, float | None]
    failures: tuple[Failure, ...] = ()


def computed(manifest: Manifest, definition: Definition, facts: Iterable[tuple[int, Fact]]) -> PackFigures:
    """Fold the facts of a pack from their first, and count what its scope holds. Blocks: some 20 µs a fact."""
    window = Window(manifest.trust_domain, definition, manifest.from_ms, manifest.to_ms)
    for position, fact in facts:
        window.take(position, fact)
    return window.figures(manifest)


class Window:
    """The obligations whose on-time limit lies in a scope."""

    def __init__(self, trust_domain: str, definition: Definition, from_ms: int, to_ms: int) -> None:
        self._engine = Engine(trust_domain, definition)
        self._from_ms, self._to_ms = from_ms, to_ms
        self._held: dict[str, Pending] = {}
        self._taken = 0

    def take(self, position: int, fact: Fact) -> None:
        """Take the next fact."""
        self._engine.take(position, fact)
        self._taken += 1
        if self._taken % _LOOK_EVERY == 0:
            self._look()

    def figures(self, manifest: Manifest) -> PackFigures:
        """What they amount to, as of the manifest's time."""
        self._engine.advance(manifest.as_of_ms)
        self._look()
        counts: dict[str, dict[str, int]] = {}
        for one in self._held.values():
            of = counts.setdefault(str(one.class_), dict.fromkeys(COUNTS, 0))
            for name, count in zip(COUNTS, counted(one), strict=True):
                of[name] += count
        failed = [one for one in self._held.values() if one.outcome in FAILED]
        failed.sort(key=lambda one: (str(one.class_), one.on_time_ms, one.id))
        return PackFigures(
            manifest.trust_domain,
            manifest.from_ms,
            manifest.to_ms,
            manifest.as_of_ms,
            manifest.definition,
            {name: {what: n for what, n in sorted(of.items()) if n} for name, of in sorted(counts.items())},
            {name: rate(name, of, self._engine.definition) for name, of in sorted(counts.items())},
            tuple(
                Failure(str(one.class_), one.spiffe_id, one.instance, one.predecessor, str(one.outcome), one.on_time_ms)
                for one in failed[:MAX_FAILURES]
            ),
        )

    def _look(self) -> None:
        for one in self._engine.changes().obligations:
            if self._from_ms <= bucket_of(one.on_time_ms) < self._to_ms:
                self._held[one.id] = one


def rate(class_: str, counts: dict[str, int], definition: Definition) -> float | None:
    """ON_TIME in what was due and not taken out, to six places (rule 40).

    None where there is nothing, where too little is covered, and for the few, which are listed one by one (rule 41).
    """
    base = counts["due"] - counts["excused"] - counts["superseded"] - counts["unused"]
    covered = (base - counts["unknown"]) * 1000 >= (base + counts["unused"]) * definition.coverage_floor_permille
    return round(counts["on_time"] / base, 6) if base and covered and Class(class_) not in FEW else None
