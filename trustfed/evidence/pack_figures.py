"""The figures of a pack: what its facts alone say of its scope, so that whoever has the pack has the same numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from trustfed.evidence.definition import Definition
from trustfed.evidence.engine import Engine
from trustfed.evidence.facts import ISSUED
from trustfed.evidence.model import COUNTS, FAILED, FEW, Class, Outcome
from trustfed.evidence.pack import Manifest
from trustfed.evidence.pending import Pending, bucket_of, difference
from trustfed.evidence.rules import SLOT_CLASS
from trustfed.journal.events import Fact

MAX_FAILURES = 10_000
_LOOK_EVERY = 20_000
"""Facts between two looks: each obligation changes some three times, and is looked at once."""
_NONE = (0,) * len(COUNTS)


class Failure(msgspec.Struct, frozen=True):
    """One obligation that failed, or that was excused and came back: what an auditor asks after first."""

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
    One more count is "recreated": those of the EXCUSED that were there again within the life (rule 13); `again` names them.
    """

    trust_domain: str
    from_ms: int
    to_ms: int
    as_of_ms: int
    definition: str
    counts: dict[str, dict[str, int]]
    rates: dict[str, float | None]
    failures: tuple[Failure, ...] = ()
    again: tuple[Failure, ...] = ()


class Tally(msgspec.Struct):
    """What a fold found in its scope: counts per class in the order of COUNTS, and failures by (class, time, id)."""

    counts: dict[str, list[int]] = {}
    failures: list[tuple[tuple[str, int, str], Failure]] = []
    recreated: dict[str, int] = {}
    again: list[tuple[tuple[str, int, str], Failure]] = []
    longest_ms: int = 0  # life of an SVID with obligations that is good in the scope

    def add(self, other: Tally) -> None:
        """Take in what another fold found of the same scope."""
        for class_, row in other.counts.items():
            held = self.counts.setdefault(class_, [0] * len(COUNTS))
            for place, count in enumerate(row):
                held[place] += count
        for class_, count in other.recreated.items():
            self.recreated[class_] = self.recreated.get(class_, 0) + count
        self.failures += other.failures
        self.again += other.again
        self.cut()
        self.longest_ms = max(self.longest_ms, other.longest_ms)

    def cut(self) -> None:
        """Let go of those that no figure names."""
        for listed in (self.failures, self.again):
            listed.sort(key=lambda one: one[0])
            del listed[MAX_FAILURES:]


def computed(manifest: Manifest, definition: Definition, facts: Iterable[tuple[int, Fact]]) -> Tally:
    """Fold the facts of a pack from their first, and count what its scope holds. Blocks: some 30 µs a fact."""
    window = Window(manifest.trust_domain, definition, manifest.from_ms, manifest.to_ms)
    for position, fact in facts:
        window.take(position, fact)
    return window.tally(manifest.as_of_ms)


def figures_of(manifest: Manifest, definition: Definition, tally: Tally) -> PackFigures:
    """What a tally of all of a pack's facts amounts to."""
    counts = {name: dict(zip(COUNTS, row, strict=True)) for name, row in sorted(tally.counts.items())}
    for name, of in counts.items():
        of["recreated"] = tally.recreated.get(name, 0)
    return PackFigures(
        manifest.trust_domain,
        manifest.from_ms,
        manifest.to_ms,
        manifest.as_of_ms,
        manifest.definition,
        {name: {what: n for what, n in sorted(of.items()) if n} for name, of in counts.items()},
        {name: rate(name, of, definition) for name, of in counts.items()},
        tuple(failure for _, failure in tally.failures),
        tuple(excused for _, excused in tally.again),
    )


class Window:
    """The obligations whose on-time limit lies in a scope. What is settled is counted and let go."""

    def __init__(self, trust_domain: str, definition: Definition, from_ms: int, to_ms: int) -> None:
        self.engine = Engine(trust_domain, definition)
        self._from_ms, self._to_ms = from_ms, to_ms
        self._open: dict[str, Pending] = {}
        self._found = Tally()
        self._taken = 0

    def take(self, position: int, fact: Fact) -> None:
        """Take the next fact."""
        self.engine.take(position, fact)
        if fact.kind == ISSUED:
            self._lives(fact.body)
        self._taken += 1
        if self._taken % _LOOK_EVERY == 0:
            self._look()

    def tally(self, as_of_ms: int) -> Tally:
        """What there is as of then; takes no more facts."""
        self.engine.advance(as_of_ms)
        self._look()
        for one in self._open.values():
            self._count(one)
        self._open.clear()
        self._found.cut()
        return self._found

    def _lives(self, body: dict[str, Any]) -> None:
        begin, end = body["not_before"] * 1000, body["not_after"] * 1000
        if end > self._from_ms and begin < self._to_ms and body.get("slot") in SLOT_CLASS:
            self._found.longest_ms = max(self._found.longest_ms, end - begin)

    def _look(self) -> None:
        for one in self.engine.changes().obligations:
            if self._from_ms <= bucket_of(one.on_time_ms) < self._to_ms:
                if not one.settled:
                    self._open[one.id] = one
                    continue
                self._open.pop(one.id, None)
                self._count(one)
        if len(self._found.failures) + len(self._found.again) > 4 * MAX_FAILURES:
            self._found.cut()

    def _count(self, one: Pending) -> None:
        class_ = str(one.class_)
        row = self._found.counts.setdefault(class_, [0] * len(COUNTS))
        for place, count in difference(_NONE, one.counted):
            row[place] += count
        again = one.outcome is Outcome.EXCUSED and one.again_ms
        if again:  # 13
            self._found.recreated[class_] = self._found.recreated.get(class_, 0) + 1
        if again or one.outcome in FAILED:
            named = Failure(class_, one.spiffe_id, one.instance, one.predecessor, str(one.outcome), one.on_time_ms)
            listed = self._found.again if again else self._found.failures
            listed.append(((class_, one.on_time_ms, one.id), named))


def rate(class_: str, counts: dict[str, int], definition: Definition) -> float | None:
    """ON_TIME in what was due and not taken out, to six places (rule 40).

    None where there is nothing, where too little is covered, and for the few, which are listed one by one (rule 41).
    """
    base = counts["due"] - counts["excused"] - counts["superseded"] - counts["unused"]
    covered = (base - counts["unknown"]) * 1000 >= (base + counts["unused"]) * definition.coverage_floor_permille
    return round(counts["on_time"] / base, 6) if base and covered and Class(class_) not in FEW else None
