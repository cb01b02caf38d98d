"""The life of one identity: the hub asks its cluster, where the facts are, and shows what it said and as of when.

The question is "identity" (trustfed.evidence.queries) with {"spiffe_id"} or {"serial"}; of the answer's lineages each has its
obligations, counted anew from the facts, and the facts with their positions in the ledger: the proofs. A cluster that is away
is no error of the page: what the hub itself knows of the identity is shown, with its age.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trustfed.errors import Invalid, NotFound, TrustfedError
from trustfed.evidence.model import Level, Obligation
from trustfed.evidence.timeline import Line
from trustfed.hub.dashboard.charts.timeline import Life, Step, timeline
from trustfed.hub.dashboard.frame import visit_of
from trustfed.hub.dashboard.views.asking import ask, each
from trustfed.hub.dashboard.views.pages import domain_named, fleet_of, ground, show, text
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.questions import Answered
from trustfed.spiffe.certificate import serial_said
from trustfed.spiffe.ids import SpiffeId, shown

KIND = "identity"
MOST, FACTS = 24, 60
"""Obligations of one slot that are drawn, and facts that are listed: the newest."""


@dataclass(frozen=True)
class Lineage:
    """One slot of one instance: its obligations newest first, and their drawing."""

    instance: str
    slot: str
    obligations: list[Obligation]
    facts: list[Line]
    chart: Any


async def identity(request: Request) -> Response:
    """4: lineage, tries, serials and proofs of one identity."""
    visit, fleet = visit_of(request), fleet_of(request)
    spiffe_id, asked = text(request, "id"), text(request, "serial", 64)
    serial = serial_said(asked)
    name = domain_named(request, text(request, "domain", 255) or _domain_of(spiffe_id))
    if asked and not serial:
        raise Invalid(f"serial {shown(asked)} is not 8 to 40 hex digits", hint="as openssl or the ledger writes them")
    base = {"spiffe_id": spiffe_id, "serial": serial, "domain": name, "max_life": MOST}
    if not (spiffe_id or serial) or not name:
        found = ground(fleet.domains())
        near = {"endings": fleet.runway().endings[:12], "failures": fleet.failed(size=12).rows}
        return show(request, "identity_ask", **base, **near, ground=found, as_of_ms=found.as_of_ms or None)
    row = fleet.domain(name)
    said = await ask(request, name, KIND, {"spiffe_id": spiffe_id} if spiffe_id else {"serial": serial})
    told, as_of_ms, problem = (
        (said.json, said.as_of_ms, None) if isinstance(said, Answered) else (None, row.age.as_of_ms, said)
    )
    lineages = read_lineages(told, visit.now_ms)
    return show(
        request,
        "identity",
        title=spiffe_id or f"Serial {serial}",
        question="What happened to this identity, and what is known of each serial?",
        row=row,
        problem=problem,
        missing=isinstance(problem, NotFound),
        lineages=lineages,
        malformed=told is not None and not lineages and problem is None and not _empty(told),
        failures=_known_failures(fleet, name, spiffe_id, serial),
        endings=[
            one for one in fleet.runway(name).endings if one.what.spiffe_id == spiffe_id or one.what.serial == serial
        ],
        strangers=[one for one in fleet.unknown(name) if one.what.spiffe_id == spiffe_id or one.what.serial == serial][
            :20
        ],
        levels=[level.name.lower() for level in Level if level >= Level.ISSUED],
        as_of_ms=as_of_ms or None,
        **base,
    )


def _domain_of(spiffe_id: str) -> str:
    if not spiffe_id:
        return ""
    try:
        return SpiffeId.parse(spiffe_id).trust_domain.name
    except TrustfedError:
        return ""


def read_lineages(told: Any, now_ms: int) -> list[Lineage]:
    """The lineages of an answer, newest first; what does not read is left out."""
    given = told.get("lineages") if isinstance(told, dict) else None
    made = []
    for index, one in enumerate(given[:MOST] if isinstance(given, list) else []):
        held = one if isinstance(one, dict) else {}
        found = sorted(each(held.get("obligations"), Obligation), key=lambda it: -it.opened_ms)[:MOST]
        facts = each(held.get("facts"), Line)[:FACTS]
        if not found and not facts:
            continue
        said = held.get("identity")
        who = said if isinstance(said, dict) else {}
        instance, slot = str(who.get("instance", ""))[:4_096], str(who.get("slot", ""))[:64]
        chart = timeline(f"line-{index}", list(_lives(found, now_ms)), now_ms, instance) if found else None
        made.append(Lineage(instance, slot, found, facts, chart))
    return made


def _lives(obligations: list[Obligation], now_ms: int) -> Iterable[Life]:
    """Each predecessor's life; what happened to a serial as a successor belongs to its own bar."""
    newest = obligations[0]
    if newest.successor:
        ended = newest.hard_ms + (newest.hard_ms - newest.opened_ms)
        begin = min(newest.by_level_ms.values(), default=now_ms)
        yield Life(newest.successor, begin, ended, 0, "", _steps(newest))
    for at, one in enumerate(obligations):
        as_successor = obligations[at + 1] if at + 1 < len(obligations) else None
        steps = _steps(as_successor) if as_successor and as_successor.successor == one.predecessor else ()
        extra = (Step(one.ended_ms, "expired", one.why),) if one.outcome == "expired" else ()
        yield Life(one.predecessor, one.opened_ms, one.hard_ms, one.on_time_ms, one.outcome, (*steps, *extra))


def _steps(one: Obligation) -> tuple[Step, ...]:
    return tuple(Step(at, level) for level, at in one.by_level_ms.items() if at)


def _empty(told: Any) -> bool:
    return isinstance(told, dict) and told.get("lineages") == []


def _known_failures(fleet: Fleet, name: str, spiffe_id: str, serial: str) -> list[Any]:
    rows = fleet.failed(name, size=500).rows
    return [one for one in rows if one.what.spiffe_id == spiffe_id or (serial and one.what.predecessor == serial)][:20]
