"""From counts to a figure: the headline and what stands beside it, as trustfed.evidence.model defines them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from trustfed.errors import Invalid
from trustfed.evidence.intervals import clopper_pearson
from trustfed.evidence.model import BUCKET_MS, COUNTS, FEW, Class
from trustfed.hub.evidence.views import Counts, Figure
from trustfed.spiffe.ids import shown

LEVELS = ("issued", "delivered", "loaded", "confirmed")
OBJECTIVE = 0.999
"""The share of rotations that is promised."""


def counts_of(values: Sequence[int]) -> Counts:
    """Counts by their names."""
    return dict(zip(COUNTS, values, strict=True))


def judged(counts: Counts) -> int:
    """What the headline is a share of: what was due, without EXCUSED, SUPERSEDED and UNUSED."""
    return max(counts["due"] - counts["excused"] - counts["superseded"] - counts["unused"], 0)


def share(part: float, whole: float) -> float | None:
    """A ratio, or None of nothing."""
    return part / whole if whole else None


JUDGED = tuple(COUNTS.index(name) for name in ("due", "on_time", "excused", "superseded", "unused"))
"""The columns that `failing` looks at."""


def failing(values: Sequence[int]) -> tuple[int, int]:
    """How many of how many failed, of raw counts: all that is judged and was not on time, also what is still open."""
    counts = counts_of(values)
    of = judged(counts)
    return max(of - counts["on_time"], 0), of


def figure_of(
    domain: str, class_: str, window: tuple[int, int], values: Sequence[int], coverage: float, floor: float
) -> Figure:
    """The figure of one class; `window` is in buckets, first and first after."""
    counts = counts_of(values)
    of = judged(counts)
    seen = of + counts["unused"]
    # The cluster says what it covers of all its identities. What agents call unused in this class and window is not covered
    # either (rule 41), whatever it says; what is unknown has failed, and makes no figure better.
    coverage = min(coverage, of / seen if seen else 1.0)
    few, withheld = class_ in FEW, coverage < floor
    why = ""
    if few:
        why = "few rotations: each is listed"
    elif not of:
        why = "nothing was due"
    elif withheld:
        why = f"withheld: coverage {coverage:.1%} is below {floor:.0%}"
    low = high = None
    if not why:
        low, high = interval(counts["on_time"], of)
    tried = counts["on_time"] + counts["late"] + counts["expired"] + counts["unknown"]
    return Figure(
        trust_domain=domain,
        class_=class_,
        from_ms=window[0] * BUCKET_MS,
        to_ms=window[1] * BUCKET_MS,
        counts=counts,
        headline=None if why else counts["on_time"] / of,
        with_unused=None if why else share(counts["on_time"], of + counts["unused"]),
        low=low,
        high=high,
        by_level={name: counts[name] / of for name in LEVELS} if of else {},
        attempts=share(counts["tries"] - counts["refused"], counts["tries"]),
        retries=share(max(counts["tries"] - tried, 0), tried),
        coverage=coverage,
        few=few,
        withheld=withheld and not few,
        why=why,
    )


CLASSES = tuple(str(one) for one in Class)
interval = lru_cache(maxsize=8_192)(clopper_pearson)


def class_named(name: str) -> str:
    """The class of this name. Raises Invalid."""
    if name not in CLASSES:
        raise Invalid(f"there is no class {shown(name)}", hint="one of " + ", ".join(CLASSES))
    return name
