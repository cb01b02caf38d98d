"""Obligations as counters that burn-rate rules can use: `trustfed_obligations_total{class, outcome}` and their base.

They rise as outcomes come in, and start at 0 with the process, as counters do. A correction raises the outcome that it makes,
and cannot lower the one that it unmakes: the figures of the evidence store are exact, these are for alerts.
"""

from __future__ import annotations

from trustfed.evidence import tables
from trustfed.evidence.model import COUNTS
from trustfed.evidence.store import EvidenceStore
from trustfed.runtime.metrics import Registry

OUTCOMES = ("on_time", "late", "expired", "unknown", "excused", "superseded", "unused")
WINDOW_MS = 72 * 3_600_000
"""Buckets that may still change: a day after their hard limits, and then nothing does."""
_AHEAD_MS = 400 * 86_400_000


class Counted:
    """`look` after each change."""

    def __init__(self, registry: Registry) -> None:
        self._known: dict[tuple[str, int], list[int]] | None = None
        self._total = registry.counter(
            "obligations_total", "rotations that were due, by how they ended", labels=("class", "outcome")
        )
        self._due = registry.counter(
            "obligations_due_total", "rotations that count: due, less excused, superseded and unused", labels=("class",)
        )
        self._failed = registry.counter(
            "obligations_failed_total", "of these, those that were late, expired, or are unknown", labels=("class",)
        )
        self._open = registry.gauge("obligations_open", "rotations that are under way", labels=("class",))

    async def look(self, store: EvidenceStore, now_ms: int) -> None:
        """Count what came. Raises Unavailable."""
        rows = await store.read(lambda c: tables.counters(c, now_ms - WINDOW_MS, now_ms + _AHEAD_MS))
        found = {(str(class_), bucket): list(counts) for (class_, bucket), counts in rows.items()}
        known, self._known = self._known, found
        under_way: dict[str, int] = {}
        place = {name: COUNTS.index(name) for name in (*OUTCOMES, "open")}
        for (class_, bucket), counts in found.items():
            under_way[class_] = under_way.get(class_, 0) + counts[place["open"]]
            before = [] if known is None else known.get((class_, bucket), [0] * len(counts))
            if not before:
                continue
            for outcome in OUTCOMES:
                rise = counts[place[outcome]] - before[place[outcome]]
                if rise <= 0:
                    continue
                self._total.add(rise, **{"class": class_, "outcome": outcome})
                if outcome in ("on_time", "late", "expired", "unknown"):
                    self._due.add(rise, **{"class": class_})
                if outcome in ("late", "expired", "unknown"):
                    self._failed.add(rise, **{"class": class_})
        for class_, count in under_way.items():
            self._open.set(count, **{"class": class_})
