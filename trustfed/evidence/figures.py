"""From counters to figures: headline, interval, levels, coverage, availability, and what is withheld and why. Pure.

The numbers in brackets are those of trustfed.evidence.rules. Shares are 0 to 1, rounded to 6 places; times Unix ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from trustfed.errors import Invalid
from trustfed.evidence.availability import Availability, availability
from trustfed.evidence.changes import ProbeState
from trustfed.evidence.definition import DEFINITION, Definition
from trustfed.evidence.intervals import clopper_pearson, needed_without_failure
from trustfed.evidence.model import BUCKET_MS, COUNTS, FEW, Class, Obligation, Outcome

TARGET = 0.999
"""What the interval is compared with: more than 99.9 % of rotations succeed."""

_LEVELS = ("issued", "delivered", "loaded", "confirmed")


class Window(msgspec.Struct, frozen=True):
    """[from_ms, to_ms), both at the beginning of one of the buckets of 5 minutes."""

    from_ms: int
    to_ms: int

    def within(self, as_of_ms: int) -> Window:
        """The same, ending no later than `as_of_ms`: what is not due yet is in no figure. Raises Invalid."""
        if self.from_ms % BUCKET_MS or self.to_ms % BUCKET_MS or not 0 <= self.from_ms < self.to_ms:
            raise Invalid(
                f"the window from {self.from_ms} to {self.to_ms} has no figures",
                hint="both in Unix ms at full 5 minutes, the beginning before the end",
            )
        return Window(self.from_ms, max(self.from_ms, min(self.to_ms, as_of_ms - as_of_ms % BUCKET_MS)))


class ClassFigures(msgspec.Struct, frozen=True):
    """One class in one window. `why` says why the headline is withheld, or is none."""

    base: int
    headline: float | None
    withheld: bool
    why: str
    interval: tuple[float, float] | None
    with_unused_failed: float | None
    rates: dict[str, float]
    attempts: float | None  # (tries - refused) / tries: the raw ratio, which a dead agent improves
    retries: float | None
    coverage: float
    counts: dict[str, int]
    needed: int  # without a failure so far: how many rotations "> 99.9 %" at 95 % needs; 0: there was a failure
    shown: bool  # whether the interval lies above 99.9 %


class Figures(msgspec.Struct, frozen=True):
    """What one trust domain did in one window."""

    trust_domain: str
    from_ms: int
    to_ms: int
    as_of_ms: int
    definition: str
    classes: dict[str, ClassFigures]
    few: tuple[Obligation, ...]
    availability: dict[str, Availability]
    orphans: dict[
        str, int
    ]  # unknown_serials: held or shown, never issued; abandoned: issued, never delivered; prefetched
    first: int
    corrected: int
    recreated: dict[str, int] = {}  # of the excused, per class: those that were there again within their life (13)


def figures(
    counters: Mapping[tuple[Class, int], Sequence[int]],
    few: Iterable[Obligation],
    probes: Iterable[ProbeState],
    window: Window,
    as_of_ms: int,
    definition: Definition = DEFINITION,
    trust_domain: str = "",
    recreated: Mapping[str, int] | None = None,
) -> Figures:
    """The figures of a window as of then (40 to 43). Raises Invalid for a window that is none."""
    window = window.within(as_of_ms)
    sums: dict[Class, list[int]] = {Class.LEAF: [0] * len(COUNTS), Class.AGENT: [0] * len(COUNTS)}
    for (class_, bucket), row in counters.items():
        if class_ in sums and window.from_ms <= bucket < window.to_ms:
            sums[class_] = [total + count for total, count in zip(sums[class_], row, strict=True)]
    listed = (it for it in few if it.class_ in FEW and window.from_ms <= it.on_time_ms < window.to_ms)
    total = dict(zip(COUNTS, map(sum, zip(*sums.values(), strict=True)), strict=True))
    return Figures(
        trust_domain=trust_domain,
        from_ms=window.from_ms,
        to_ms=window.to_ms,
        as_of_ms=as_of_ms,
        definition=definition.hash,
        classes={class_.value: class_figures(counts, definition) for class_, counts in sums.items()},
        few=tuple(sorted(listed, key=lambda it: (it.on_time_ms, it.id))),
        availability=availability(probes, window.from_ms, window.to_ms),
        orphans={name: total[name] for name in ("unknown_serials", "abandoned", "prefetched")},
        first=total["first"],
        corrected=total["corrected"],
        recreated=dict(recreated or {}),
    )


def class_figures(row: Sequence[int], definition: Definition = DEFINITION) -> ClassFigures:
    """The figures of one class from the sum of its counts."""
    counts = dict(zip(COUNTS, row, strict=True))
    base = counts["due"] - counts["excused"] - counts["superseded"] - counts["unused"]  # 40
    on_time, unused, tries = counts["on_time"], counts["unused"], counts["tries"]
    seen = base + unused
    coverage = (base - counts["unknown"]) / seen if seen else 1.0  # 41
    covered = seen == 0 or (base - counts[Outcome.UNKNOWN]) * 1000 >= seen * definition.coverage_floor_permille
    why = ""
    if not base:
        why = "nothing was due"
    elif not covered:
        why = f"coverage {coverage:.3%} is below {definition.coverage_floor_permille / 10:g} %"
    low, high = clopper_pearson(on_time, base, definition.confidence_permille / 1000)  # 42
    clean = base == on_time
    return ClassFigures(
        base=base,
        headline=round(on_time / base, 6) if base and covered else None,
        withheld=bool(base) and not covered,
        why=why,
        interval=(round(low, 6), round(high, 6)) if base and covered else None,
        with_unused_failed=round(on_time / seen, 6) if seen and covered else None,
        rates={name: round(counts[name] / base, 6) if base else 0.0 for name in _LEVELS},
        attempts=round((tries - counts["refused"]) / tries, 6) if tries else None,
        retries=round(max(0, tries - counts["issued"]) / base, 6) if base else None,
        coverage=round(coverage, 6),
        counts=counts,
        needed=needed_without_failure(TARGET, definition.confidence_permille / 1000) if clean else 0,
        shown=bool(base) and covered and low > TARGET,
    )
