"""Small multiples: the mosaic of a whole fleet, bars of shares, sparklines and the runway's histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from markupsafe import Markup

from trustfed.hub.dashboard.charts.svg import Kind, chart, line, rect, table, tag
from trustfed.hub.dashboard.figures import plural


def mosaic(id_: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[Kind]]]) -> Markup:
    """Every cluster is a column, every class a row: the whole fleet in one strip, however large.

    Neighbours of one kind are drawn as one rectangle, so that a healthy fleet of thousands costs a few bytes. Kinds differ in
    height as well as in colour: what fails fills its row, what is good is a low line.
    """
    height = {Kind.BAD: 14.0, Kind.WARN: 10.0, Kind.UNKNOWN: 7.0, Kind.WITHHELD: 6.0, Kind.OK: 4.0, Kind.NONE: 1.0}
    # In a large fleet what fails would be a hair: a column with trouble is never thinner than an eightieth of the fleet.
    troubled = [any(kinds[at].rank < Kind.OK.rank for _, kinds in rows) for at in range(len(names))]
    weights = [max(1.0, len(names) / 80) if found else 1.0 for found in troubled]
    starts = [0.0, *accumulate(weights)]
    drawn: list[Markup] = []
    for index, (_, kinds) in enumerate(rows):
        at = 0
        for kind, same in groupby(kinds):
            end, tall = at + len(list(same)), height[kind]
            place = (starts[at], index * 20 + 17 - tall, starts[end] - starts[at], tall)
            drawn.append(rect(*place, f"fill is-{kind}"))
            at = end
    counted = [[name, *(sum(kind is one for kind in kinds) for one in Kind)] for name, kinds in rows]
    figures = table("Clusters of each class by how they are", ["class", *(kind.word for kind in Kind)], counted)
    below = [{kinds[at] for _, kinds in rows} & {Kind.BAD, Kind.WARN} for at in range(len(names))]
    far = sum(Kind.BAD in found for found in below)
    says = (
        f"{plural(len(names), 'cluster')}, worst at the left; {sum(map(bool, below))} with a class below its objective"
    )
    says += f", {far} of them far below." if far else "."
    drawing = Markup("").join(drawn)
    return chart(
        id_, "The fleet, cluster by cluster", says, drawing, figures, (max(starts[-1], 1), len(rows) * 20), stretch=True
    )


def bar(share: float, kind: Kind, lost: float = 0.0) -> Markup:
    """A share of one as a bar; its last part is what is lost from here on, never too thin to be seen. Decoration: the
    numbers stand beside it."""
    share = min(max(share, 0.0), 1.0)
    gone = min(max(lost, 0.012), share) if lost > 0 else 0.0
    return tag(
        "svg",
        rect(0, 0, 100, 10, "track"),
        rect(0, 0, share * 100, 10, f"fill is-{kind}"),
        rect((share - gone) * 100, 0, gone * 100, 10, "fill is-lost") if gone else "",
        class_="bar",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def sparkline(values: Sequence[float | None], floor: float = 0.0, ceiling: float = 1.0) -> Markup:
    """A course of values without axes; a gap where nothing is known. Decoration: its newest value stands beside it."""
    step, span = 100 / max(len(values) - 1, 1), (ceiling - floor) or 1.0
    runs: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            runs.append([])
            continue
        height = 22 - 20 * (min(max(value, floor), ceiling) - floor) / span
        runs[-1].append(f"{index * step:.1f},{height:.1f}")
    drawn = [
        tag("polyline", points=" ".join(run * 2 if len(run) == 1 else run), class_="course") for run in runs if run
    ]
    return tag("svg", *drawn, class_="spark", viewBox="0 0 100 24", preserveAspectRatio="none", aria_hidden="true")


@dataclass(frozen=True)
class Hour:
    """One bar of the runway: what ends within it, how much of that has no successor in use, and how much of that is short:
    in the last quarter of its life. For the rest of it a successor is not due yet."""

    label: str
    ending: int
    without: int
    short: int = 0


def runway(id_: str, hours: Sequence[Hour], unit: str = "hour") -> Markup:
    """What ends when. Pale bars have successors; what is not due yet is the darker the sooner it ends; only what is short of
    life stands out in the worst colour, never too low to be seen."""
    top = max((hour.ending for hour in hours), default=0) or 1
    drawn: list[Markup] = [line(0, 100, len(hours) * 10, 100, "ground"), line(0, 50, len(hours) * 10, 50, "grid")]
    for index, hour in enumerate(hours):
        soon = "near" if index < 2 else "mid" if index < 8 else "far"
        bars = (
            (hour.ending, 1.0, "fill is-covered"),
            (hour.without, 1.0, f"fill is-{soon}"),
            (hour.short, 3.0, "fill is-bad"),
        )
        for count, least, class_ in bars:
            if count:
                tall = min(max(count / top * 96, least), 100.0)
                drawn.append(rect(index * 10 + 1, 100 - tall, 8, tall, class_))
    ending, short = sum(hour.ending for hour in hours), sum(hour.short for hour in hours)
    within = plural(len(hours), unit)
    says = f"{ending:,} SVIDs end within {within}, at most {top:,} in one; {short:,} short of life with no successor in use."
    rows = [
        (hour.label, f"{hour.ending:,}", f"{max(hour.without - hour.short, 0):,}", f"{hour.short:,}")
        for hour in hours
        if hour.ending
    ]
    figures = table("SVIDs that end", [unit, "ending", "successor not due yet", "short of life"], rows)
    return chart(
        id_, "Expiry runway", says, Markup("").join(drawn), figures, (max(len(hours), 1) * 10, 100), stretch=True
    )
