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
LEAST = Level.DELIVERED
"""Every obligation must come so far. Beyond, who fails is told by reason, and the others need not: a Workload API client's
acceptance is only "delivered", and not everything can be probed."""
_LEVELS = {level.name.lower(): level for level in Level}
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
    """One stage of the funnel against the first. `lost` had to come further and did not, by reason, most first; `enough` went
    no further and need not. `left_out` are no part of it at all (excused, superseded, unused)."""

    level: str
    means: str
    reached: int
    share: float
    lost: int
    lost_share: float
    reasons: list[tuple[str, int]]
    enough: int = 0
    left_out: tuple[tuple[str, int], ...] = ()


def steps(stages: list[Stage]) -> list[Step]:
    """The stages with their shares. A stage's `dropped` are those that did not come to it, by reason: they are lost after the
    stage before. Up to LEAST whoever is missing is lost, whatever was told; beyond it only those with a reason are."""
    first = max((stage.reached for stage in stages), default=0)
    made = []
    for at, stage in enumerate(stages):
        after = stages[at + 1] if at + 1 < len(stages) else Stage("", stage.reached, {})
        gone = max(stage.reached - after.reached, 0)
        reasons = sorted(after.dropped.items(), key=lambda item: (-item[1], item[0]))
        told = sum(after.dropped.values())
        lost = gone if _LEVELS.get(after.level, LEAST) <= LEAST else min(told, gone)
        if lost > told:
            reasons.append(("still under way, or no reason told", lost - told))
        level = _LEVELS.get(stage.level)
        made.append(
            Step(
                stage.level,
                _MEANS[level] if level is not None else "",
                stage.reached,
                stage.reached / first if first else 0.0,
                lost,
                lost / first if first else 0.0,
                reasons[:12] if lost else [],
                gone - lost,
                tuple(stage.dropped.items()) if not at else (),
            )
        )
    return made


async def funnel(request: Request) -> Response:
    """2: how far the window's obligations came, and where and why the others stopped."""
    fleet = fleet_of(request)
    name = domain_named(request, text(request, "domain", 255))
    rows = [fleet.domain(name)] if name else fleet.domains()
    found = ground(rows)
    made = steps(fleet.funnel(name))
    worst = [] if name else _worst(fleet)
    classes = (Class.LEAF, Class.AGENT)
    totals = {} if name else fleet.totals(rows).figures
    return show(
        request,
        "funnel",
        steps=made,
        leak=max(made, key=lambda step: step.lost, default=None),
        worst=worst,
        domain=name,
        figures=[fleet.cell(name, one) if name else totals[one] for one in classes],
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )


def _worst(fleet: Fleet) -> list[tuple[str, Step]]:
    """The clusters that lose most, each with the stage where it does."""
    found = []
    for row in fleet.domains():
        lossy = [step for step in steps(fleet.funnel(row.trust_domain)) if step.lost]
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
        soon=hours[0] if hours else None,
        waiting=sum(max(hour.without - hour.short, 0) for hour in hours),
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
