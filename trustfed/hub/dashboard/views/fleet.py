"""The fleet at a glance, its alarms, and the page of one cluster."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from starlette.requests import Request
from starlette.responses import Response

from trustfed.errors import Invalid
from trustfed.evidence.model import FEW, Class
from trustfed.hub.dashboard.actions.catalogue import ACTIONS
from trustfed.hub.dashboard.actions.fields import DOMAIN
from trustfed.hub.dashboard.charts.runs import Hour, mosaic, runway
from trustfed.hub.dashboard.charts.svg import Kind
from trustfed.hub.dashboard.frame import visit_of
from trustfed.hub.dashboard.views.offered import Offers
from trustfed.hub.dashboard.views.pages import (
    CLASS_NAMES,
    choice,
    cut,
    domain_named,
    fleet_of,
    ground,
    judged,
    seen,
    show,
    text,
)
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.views import DomainRow, HeatRow

ROWS = 50
FEW_DOMAINS = 60
"""Up to so many clusters all are listed; above, those that are well are one line until they are asked for."""
TREND_HOURS = 72
STEP_MS = 3 * 3_600_000


async def heatmap(request: Request) -> Response:
    """1: clusters against classes, worst first."""
    fleet = fleet_of(request)
    rows = fleet.heatmap()
    every = [row.row for row in rows]
    trouble = [row for row in rows if _troubled(row)]
    default = "all" if len(rows) <= FEW_DOMAINS or not trouble else "trouble"
    which = choice(request, "show", ("all", "trouble"), default)
    owner, wanted = text(request, "owner", 256), text(request, "q", 256).lower()
    listed = [
        row
        for row in (trouble if which == "trouble" else rows)
        if (not owner or row.row.owner == owner) and (not wanted or wanted in row.row.trust_domain)
    ]
    alarms = fleet.alarms()
    return show(
        request,
        "fleet",
        rows=cut(request, listed, ROWS),
        which=which,
        owner=owner,
        wanted=wanted,
        owners=sorted({row.row.owner for row in rows})[:100],
        trouble=len(trouble),
        well=len(rows) - len(trouble),
        known=len(rows),
        totals=fleet.totals(every),
        alarms=alarms[:6],
        alarm_count=len(alarms),
        strip=_strip(rows) if rows else None,
        **_ground(every),
    )


def _strip(rows: list[HeatRow]) -> object:
    classes = [(CLASS_NAMES[class_], [_struck(row, at) for row in rows]) for at, class_ in enumerate(Class)]
    return mosaic("fleet-strip", [row.row.trust_domain for row in rows], classes)


def _struck(row: HeatRow, at: int) -> Kind:
    """A cell of the strip: what failed has failed, and of a cluster that is away nothing good is known."""
    kind = judged(row.cells[at])
    return kind if row.row.age.state == "live" or kind is Kind.BAD else Kind.UNKNOWN


def _troubled(row: HeatRow) -> bool:
    kinds = (seen(row.row), *(judged(cell) for cell in row.cells))
    return min(kind.rank for kind in kinds) < Kind.OK.rank or row.row.age.state == "never"


async def alarms(request: Request) -> Response:
    """Everything that somebody has to look at now."""
    fleet = fleet_of(request)
    name = domain_named(request, text(request, "domain", 255))
    severity = choice(request, "severity", ("page", "ticket"))
    found = [one for one in fleet.alarms(name) if not severity or one.what.severity == severity]
    return show(
        request, "alarms", alarms=cut(request, found, ROWS), severity=severity, domain=name, **_ground(fleet.domains())
    )


async def cluster(request: Request) -> Response:
    """One trust domain: everything that the hub knows of it, what is wrong first."""
    fleet, visit = fleet_of(request), visit_of(request)
    name = domain_named(request, text(request, "name", 255))
    if not name:
        raise Invalid("which trust domain?", hint="domain?name=prod.example")
    row, standing = fleet.domain(name), fleet.standing(name)
    figures = [fleet.cell(name, class_) for class_ in Class]
    state = visit.parts.hub.operations.state
    return show(
        request,
        "cluster",
        title=name,
        question=f"How does {name} stand, and what does it need?",
        row=row,
        standing=standing,
        classes=[(figure, _course(fleet, name, figure.class_)) for figure in figures],
        actions=Offers(visit)(" ".join(one.kind for one in ACTIONS if one.fields[:1] == (DOMAIN,)), name),
        alarms=fleet.alarms(name),
        runway=fleet.runway(name),
        chart=runway("cluster-runway", hours_of(fleet, visit.now_ms, name)) if standing and standing.runway else None,
        drift=fleet.drift(name)[:20],
        failed=fleet.failed(name, size=20),
        grants=[one for one in state.grants_with(name) if one.status != "ended"],
        as_of_ms=row.age.as_of_ms or None,
    )


def hours_of(fleet: Fleet, now_ms: int, name: str = "") -> list[Hour]:
    """The runway's hours from this one on, at most three days of them, without holes."""
    held = [one for one in fleet.runway(name).hours if one.hour_ms + 3_600_000 > now_ms]
    found = sorted(held, key=lambda one: one.hour_ms)
    if not found:
        return []
    hour, first = 3_600_000, found[0].hour_ms
    bars = min((found[-1].hour_ms - first) // hour + 1, 72)
    sums: dict[int, tuple[int, int, int]] = {}
    for at, same in groupby(found, key=lambda one: (one.hour_ms - first) // hour):
        told = [(one.ending, one.without_successor, one.short) for one in same]
        ending, without, short = (sum(column) for column in zip(*told, strict=True))
        sums[at] = (ending, without, short)
    return [Hour(_clock(first + at * hour), *sums.get(at, (0, 0, 0))) for at in range(bars)]


def _clock(hour_ms: int) -> str:
    minutes = hour_ms // 60_000
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def _course(fleet: Fleet, name: str, class_: str) -> list[float | None]:
    """Success over three days in steps of three hours; None where nothing was due."""
    if class_ in FEW:
        return []
    told = fleet.trend(name, class_, TREND_HOURS)
    sums: dict[int, tuple[int, int]] = {}
    for at, counts in told:
        due = counts["due"] - counts["excused"] - counts["superseded"] - counts["unused"]
        before = sums.get(at // STEP_MS, (0, 0))
        sums[at // STEP_MS] = (before[0] + counts["on_time"], before[1] + due)
    last = max(sums, default=0)
    steps = [sums.get(last - back, (0, 0)) for back in range(TREND_HOURS // 3 - 1, -1, -1)]
    return [good / due if due > 0 else None for good, due in steps] if sums else []


def _ground(rows: Sequence[DomainRow]) -> dict[str, object]:
    found = ground(rows)
    return {"ground": found, "as_of_ms": found.as_of_ms or None}
