"""Rotation: the funnel of obligations, what ends next, and the obligations that failed."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from trustfed.evidence.model import Class, Level, Outcome
from trustfed.evidence.standing import Stage
from trustfed.hub.dashboard.charts.runs import runway
from trustfed.hub.dashboard.views.fleet import hours_of
from trustfed.hub.dashboard.views.pages import (
    choice,
    cut,
    domain_named,
    fleet_of,
    ground,
    page_number,
    paged,
    show,
    text,
)
from trustfed.hub.evidence.fleet import Fleet

ROWS = 50
UNPROBED = "loaded"
"""Who goes no further from here is no loss: not everything can be probed."""
_MEANS = {
    Level.DUE: "its time to be renewed came",
    Level.REQUESTED: "the agent asked for a successor",
    Level.ISSUED: "the cluster signed one",
    Level.DELIVERED: "a workload was given it",
    Level.LOADED: "the proxy says that it uses it",
    Level.CONFIRMED: "a handshake showed its serial",
}


@dataclass(frozen=True)
class Step:
    """One stage of the funnel against the first; `lost` went no further, by reason, most first."""

    level: str
    means: str
    reached: int
    share: float
    lost: int
    lost_share: float
    reasons: list[tuple[str, int]]


def steps(stages: list[Stage]) -> list[Step]:
    """The stages with their shares. What is lost is the difference to the next stage, whatever reasons were told for it."""
    first = max((stage.reached for stage in stages), default=0)
    made = []
    for at, stage in enumerate(stages):
        after = stages[at + 1].reached if at + 1 < len(stages) else stage.reached
        lost = max(stage.reached - after, 0)
        reasons = sorted(stage.dropped.items(), key=lambda item: (-item[1], item[0]))
        untold = lost - sum(count for _, count in reasons)
        if untold > 0:
            reasons.append(("still under way, or no reason told", untold))
        share = stage.reached / first if first else 0.0
        means = next((_MEANS[level] for level in Level if level.name.lower() == stage.level), "")
        made.append(Step(stage.level, means, stage.reached, share, lost, lost / first if first else 0.0, reasons[:12]))
    return made


async def funnel(request: Request) -> Response:
    """2: how far the window's obligations came, and where and why the others stopped."""
    fleet = fleet_of(request)
    name = domain_named(request, text(request, "domain", 255))
    rows = [fleet.domain(name)] if name else fleet.domains()
    found = ground(rows)
    made = steps(fleet.funnel(name))
    worst = [] if name else _worst(fleet)
    return show(
        request,
        "funnel",
        steps=made,
        leak=max((step for step in made if step.level != UNPROBED), key=lambda step: step.lost, default=None),
        worst=worst,
        domain=name,
        figures=[fleet.cell(name, one) if name else fleet.totals().figures[one] for one in (Class.LEAF, Class.AGENT)],
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )


def _worst(fleet: Fleet) -> list[tuple[str, Step]]:
    """The clusters that lose most, each with the stage where it does."""
    found = []
    for row in fleet.domains():
        lossy = [step for step in steps(fleet.funnel(row.trust_domain)) if step.lost and step.level != UNPROBED]
        if lossy:
            found.append((row.trust_domain, max(lossy, key=lambda step: step.lost)))
    return sorted(found, key=lambda item: (-item[1].lost_share, item[0]))[:10]


async def expiry(request: Request) -> Response:
    """3: what ends next, and what of it has no successor in use."""
    fleet = fleet_of(request)
    name = domain_named(request, text(request, "domain", 255))
    rows = [fleet.domain(name)] if name else fleet.domains()
    found, hours = ground(rows), hours_of(fleet, fleet.now_ms, name)
    road = fleet.runway(name)
    return show(
        request,
        "expiry",
        hours=hours,
        chart=runway("runway", hours) if hours else None,
        soon=sum(hour.without for hour in hours[:1]),
        without=sum(hour.without for hour in hours),
        ending=sum(hour.ending for hour in hours),
        endings=cut(request, road.endings, ROWS),
        endings_count=road.endings_count,
        domain=name,
        authorities=sorted(
            (one for one in fleet.board(name) if one.what.state in ("active", "retiring")),
            key=lambda one: one.what.not_after_ms,
        )[:10],
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )


async def failed(request: Request) -> Response:
    """The obligations that failed, newest first: the facts under every rate."""
    fleet = fleet_of(request)
    name = domain_named(request, text(request, "domain", 255))
    class_ = choice(request, "class", [str(one) for one in Class])
    outcome = choice(request, "outcome", [Outcome.LATE.value, Outcome.EXPIRED.value, Outcome.UNKNOWN.value])
    held = fleet.failed(name, class_, page_number(request), ROWS)
    found = ground([fleet.domain(name)] if name else fleet.domains())
    rows = [one for one in held.rows if not outcome or one.what.outcome == outcome]
    return show(
        request,
        "failed",
        failures=paged(request, rows, held.page, max(held.pages, 1), held.total),
        summarised=held.summarised,
        domain=name,
        class_=class_,
        outcome=outcome,
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )
