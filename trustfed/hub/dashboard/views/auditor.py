"""What an auditor needs on one page: figures with intervals and coverage, exceptions, logs, decisions, and how to verify."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from trustfed.evidence.definition import DEFINITION
from trustfed.evidence.model import FAILED, FEW, Class
from trustfed.evidence.standing import Probe
from trustfed.hub import presentation
from trustfed.hub.dashboard.frame import visit_of
from trustfed.hub.dashboard.views.pages import cut, fleet_of, ground, judged, show
from trustfed.hub.evidence.views import Figure

ROWS, DECISIONS, LOGS, PROBED = 40, 10, 60, 20
LEFT_OUT = ("excused", "superseded", "unused")
ENOUGH = 2_995
"""Rotations without a failure that show more than 99.9 % at 95 % confidence."""


@dataclass(frozen=True)
class Exceptions:
    """What was left out of a headline, or counted against it."""

    figure: Figure
    failed: int
    left_out: int


async def auditor(request: Request) -> Response:
    """11: the read-only view of an auditor."""
    visit, fleet = visit_of(request), fleet_of(request)
    rows = fleet.domains()
    figures = [fleet.cell(row.trust_domain, class_) for row in rows for class_ in Class if class_ not in FEW]
    figures = [one for one in figures if one.counts["due"]]
    figures.sort(
        key=lambda one: (judged(one).rank, one.headline if one.headline is not None else 2.0, one.trust_domain)
    )
    exceptions = [
        Exceptions(one, sum(one.counts[name] for name in FAILED), sum(one.counts[name] for name in LEFT_OUT))
        for one in figures
    ]
    found, hub = ground(rows), visit.parts.hub
    position = hub.operations.state.position
    decisions = await hub.journal.read(max(position - DECISIONS, 0), DECISIONS)
    logs = fleet.logs()
    probes: dict[str, dict[str, Probe]] = {}
    for one in fleet.probes():
        probes.setdefault(one.trust_domain, {})[one.what.name] = one.what
    return show(
        request,
        "auditor",
        figures=cut(request, figures, ROWS),
        exceptions=[one for one in exceptions if one.failed or one.left_out][:ROWS],
        enough=ENOUGH,
        window=figures[0] if figures else None,
        few=[one for one in fleet.board() if one.what.state != "active"][:ROWS],
        logs=logs[:LOGS],
        log_count=len(logs),
        probes=sorted(probes.items(), key=lambda item: (min(one.up_share for one in item[1].values()), item[0]))[
            :PROBED
        ],
        probe_count=len(probes),
        probe_names=sorted({one.what.name for one in fleet.probes()})[:6],
        decisions=[presentation.event(one) for one in reversed(decisions)],
        state=hub.operations.state,
        definition=DEFINITION,
        totals=fleet.totals(rows),
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )
