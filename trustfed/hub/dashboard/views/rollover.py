"""The rotations of one domain's authorities, token keys, roots and bundles, one by one, and the life of one of them.

The question is "rotations" (trustfed.evidence.queries) with {"class"} or {"authority"}, asked of the cluster, or of the hub
itself for its roots. Of one authority the answer has its steps with their positions in the ledger: the proofs. While the
cluster is away, what the hub itself knows is shown, with its age.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trustfed.errors import Invalid, NotFound
from trustfed.evidence.model import FEW, Class, Obligation
from trustfed.evidence.rules import AUTHORITY_CLASS
from trustfed.evidence.timeline import Line
from trustfed.hub.dashboard.views.asking import ask, each
from trustfed.hub.dashboard.views.pages import CLASS_NAMES, choice, fleet_of, show, text
from trustfed.hub.evidence.questions import Answered

KIND = "rotations"
CLASSES = tuple(one for one in Class if one in FEW)
MOST, STEPS, NAMED, KNOWN = 100, 60, 5, 6
"""Rotations and steps that are listed, the newest, names of one step, and authorities as the hub knows them."""


@dataclass(frozen=True)
class Step:
    """One step of an authority's life; `position` is its proof in the ledger, 0 where none was told."""

    step: str
    at_ms: int
    recorded_ms: int
    says: str
    position: int


async def rotations(request: Request, domain: str) -> Response:
    """5, of one domain: each rotation of a class, or what happened to one authority, and what proves it."""
    class_, authority = choice(request, "class", [str(one) for one in CLASSES]), text(request, "authority", 128)
    if not domain:
        raise Invalid("whose rotations?", hint=f"rollovers?domain=prod.example&class={Class.JWT_KEY}")
    fleet = fleet_of(request)
    row = fleet.domain(domain)
    asked = {"authority": authority} if authority else {"class": class_}
    said = await ask(request, domain, KIND, {**asked, "limit": MOST})
    told, as_of_ms, problem = (
        (said.json, said.as_of_ms, None) if isinstance(said, Answered) else (None, row.age.as_of_ms, said)
    )
    found, steps, position = read_rotations(told)
    failed = fleet.failed(domain, class_, size=500).rows if problem else []
    what = f"{CLASS_NAMES[Class(class_)]} rotations" if class_ else "Rotations"
    return show(
        request,
        "rotations",
        title=authority or f"{what} of {domain}",
        question="What happened to this authority, and what proves it?"
        if authority
        else "Which authorities and keys were rotated, and which were not in time?",
        row=row,
        domain=domain,
        class_=class_,
        classes=CLASSES,
        authority=authority,
        what=what,
        problem=problem,
        missing=isinstance(problem, NotFound),
        malformed=problem is None and not found and not steps and not _empty(told),
        found=found,
        steps=steps,
        position=position,
        most=MOST,
        known=[
            one.what
            for one in fleet.board(domain)
            if one.what.id == authority or (problem and class_ and AUTHORITY_CLASS.get(one.what.kind) == class_)
        ][:KNOWN],
        failures=[one for one in failed if one.what.class_ in CLASSES and authority in ("", one.what.predecessor)][:20],
        as_of_ms=as_of_ms or None,
    )


def read_rotations(told: Any) -> tuple[list[Obligation], list[Step], int]:
    """The rotations of an answer, the steps, newest first, and the position that it stands for; what does not read is left
    out."""
    held = told if isinstance(told, dict) else {}
    found = [one for one in each(held.get("rotations"), Obligation) if one.class_ in FEW][:MOST]
    steps = [
        Step(str(one.body.get("step", one.kind))[:64], one.at_ms, one.recorded_ms, _says(one.body), one.position)
        for one in each(held.get("steps"), Line)[:STEPS]
    ]
    position = held.get("position")
    return found, steps, position if isinstance(position, int) and 0 < position < 1 << 53 else 0


def _says(body: dict[str, Any]) -> str:
    """What a step says besides its name: whom it retires, who was missing, where it was decided."""
    missing = body.get("missing")
    names = [str(one)[:64] for one in missing[:NAMED]] if isinstance(missing, list) else []
    more = len(missing) - len(names) if isinstance(missing, list) else 0
    said = [f"retires {str(body['retires'])[:64]}"] if body.get("retires") else []
    said += ["forced"] if body.get("forced") is True else []
    said += [f"missing: {', '.join(names)}" + (f" and {more} more" if more else "")] if names else []
    said += [f"journal {body['journal']}"] if isinstance(body.get("journal"), int) and body["journal"] else []
    return "; ".join(said)


def _empty(told: Any) -> bool:
    return isinstance(told, dict) and told.get("rotations") == [] and told.get("steps", []) == []
