"""What operators ask of evidence, in JSON: `trustfed evidence` and scripts use it; the dashboard reads the fleet itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, ConfigDict, Field

from trustfed.errors import NotFound, Unavailable
from trustfed.evidence.figures import Window
from trustfed.hub import presentation as show
from trustfed.hub.api import Admin, Auditor, Parts, Viewer
from trustfed.hub.domains import check_reason
from trustfed.hub.evidence.compose import HubEvidenceParts
from trustfed.hub.evidence.figures import CLASSES, counts_of
from trustfed.hub.evidence.state import Ordered

Json = dict[str, Any]
Evidence = Callable[[], HubEvidenceParts]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Asked(_Request):
    """A question to one cluster, or to all: `kind` is one of trustfed.evidence.queries."""

    kind: str = Field(max_length=64)
    body: dict[str, Any] = Field(default_factory=dict)
    domain: str = Field(default="", max_length=263)
    limit: int = Field(default=50, ge=1, le=500)


class KeyAccepted(_Request):
    """Which log key is accepted in the place of the pinned one, and why."""

    vkey: str = Field(max_length=700)
    reason: str = Field(max_length=1024)


class LogsAccepted(_Request):
    """Why a domain's logs may begin anew."""

    reason: str = Field(max_length=1024)


def routes(parts: Parts) -> APIRouter:
    """All routes of this file."""
    router = APIRouter(prefix="/evidence")

    def evidence() -> HubEvidenceParts:
        if parts.evidence is None:
            raise Unavailable("this hub keeps no evidence")
        return parts.evidence

    _fleet_routes(router, evidence)
    _cluster_routes(router, evidence)
    _report_routes(router, parts, evidence)
    _log_routes(router, parts, evidence)
    return router


def _fleet_routes(router: APIRouter, evidence: Evidence) -> None:
    @router.get("/status")
    async def status(caller: Viewer) -> Json:
        """The fleet at a glance: totals, and each trust domain, worst first."""
        fleet = evidence().fleet
        every = fleet.domains()
        return {"totals": _json(fleet.totals(every)), "domains": _json(every)}

    @router.get("/figures")
    async def figures(
        caller: Viewer,
        domain: Annotated[str, Query(max_length=263)],
        from_ms: Annotated[int, Query(ge=0, le=2**53)] = 0,
        to_ms: Annotated[int, Query(ge=0, le=2**53)] = 0,
    ) -> Json:
        """The figures of one trust domain, of 30 days or of a window within the last 35."""
        fleet = evidence().fleet
        if from_ms or to_ms:
            to = to_ms or fleet.now_ms
            found = [fleet.figure(domain, class_, from_ms, to) for class_ in CLASSES]
        else:
            found = [fleet.cell(domain, class_) for class_ in CLASSES]
        return {"trust_domain": domain, "age": _json(fleet.age(domain)), "figures": _json(found)}

    @router.get("/trend")
    async def trend(
        caller: Viewer,
        domain: Annotated[str, Query(max_length=263)],
        class_: Annotated[str, Query(alias="class", max_length=32)] = "leaf",
    ) -> Json:
        """Counts by hour of 35 days, and by day before that, oldest first."""
        held = evidence()
        hours = held.fleet.trend(domain, class_, 840)
        days = [{"at_ms": at, "counts": counts_of(row)} for at, row in await held.days(domain, class_)]
        return {"days": days, "hours": [{"at_ms": at, "counts": counts} for at, counts in hours]}

    @router.get("/standing/{domain}")
    async def standing(caller: Viewer, domain: str) -> Json:
        """How one trust domain stands, as its cluster said last."""
        fleet = evidence().fleet
        return {"age": _json(fleet.age(domain)), "standing": _json(fleet.standing(domain))}

    @router.get("/alarms")
    async def alarms(caller: Viewer, domain: Annotated[str, Query(max_length=263)] = "") -> Json:
        """What somebody has to look at now: pages first, then the oldest."""
        return {"alarms": _json(evidence().fleet.alarms(domain))}

    @router.get("/failed")
    async def failed(
        caller: Viewer,
        domain: Annotated[str, Query(max_length=263)] = "",
        class_: Annotated[str, Query(alias="class", max_length=32)] = "",
        page: Annotated[int, Query(ge=1, le=100_000)] = 1,
        size: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Json:
        """Failed obligations, newest first."""
        found: Json = _json(evidence().fleet.failed(domain, class_, page, size))
        return found


def _cluster_routes(router: APIRouter, evidence: Evidence) -> None:
    @router.post("/ask")
    async def ask(caller: Auditor, asked: Annotated[Asked, Body()]) -> Json:
        """Ask one cluster, or without `domain` all of them, within two seconds; each vouches for its own answer."""
        questions = evidence().questions
        if asked.domain:
            answered = await questions.ask(asked.domain, asked.kind, asked.body)
            return {"answers": [_json(answered)], "missed": [], "cut": False}
        found: Json = _json(await questions.ask_all(asked.kind, asked.body, asked.limit))
        return found

    @router.get("/orders/{domain}")
    async def orders(caller: Auditor, domain: str) -> Json:
        """The orders to one trust domain, newest first, and what became of them."""
        return {"orders": [_order(one) for one in evidence().orders.listed(domain)]}


def _report_routes(router: APIRouter, parts: Parts, evidence: Evidence) -> None:
    @router.get("/report")
    async def report(
        caller: Auditor,
        from_ms: Annotated[int, Query(alias="from", ge=0, le=2**53)],
        to_ms: Annotated[int, Query(alias="to", ge=0, le=2**53)],
        domain: Annotated[str, Query(max_length=26_300)] = "",
    ) -> Json:
        """A report of each trust domain (or of these, joined by commas): its cluster's, or else what is held here."""
        reporting = evidence().reporting(parts.journal, parts.addresses)
        names = [name.strip() for name in domain.split(",") if name.strip()]
        found: Json = _json(await reporting.report(Window(from_ms, to_ms), caller.actor, names))
        return found


def _log_routes(router: APIRouter, parts: Parts, evidence: Evidence) -> None:
    @router.get("/checkpoint")
    async def checkpoint(caller: Viewer) -> Json:
        """The newest signed checkpoint of the hub's journal, and the key to verify it with."""
        own = evidence().own_log
        if own.note is None:
            raise NotFound("the hub has signed no checkpoint yet", hint="wait for a moment")
        return {"vkey": own.vkey.text, "note": own.note.data.decode()}

    @router.get("/log-keys")
    async def log_keys(caller: Viewer) -> Json:
        """The pinned log key of each trust domain, and the other one that its cluster shows, if so."""
        waiting, pins = evidence().witness.waiting_keys(), parts.operations.state.evidence.pins
        return {
            "log_keys": [
                {
                    "trust_domain": name,
                    "vkey": pins[name].vkey,
                    "pinned_at": show.time(pins[name].at_ms),
                    "shown": waiting.get(name),
                }
                for name in sorted(pins)
            ]
        }

    @router.post("/log-keys/{domain}/accept")
    async def accept_key(caller: Admin, domain: str, accepted: Annotated[KeyAccepted, Body()]) -> Json:
        """Pin the other log key that a cluster shows; what is held of its logs is forgotten."""
        reason = check_reason(accepted.reason)
        await evidence().witness.accept_key(domain, accepted.vkey, caller.actor, reason)
        return {"trust_domain": domain, "vkey": parts.operations.state.evidence.pins[domain].vkey}

    @router.post("/logs/{domain}/accept")
    async def accept_logs(caller: Admin, domain: str, accepted: Annotated[LogsAccepted, Body()]) -> Json:
        """Let the logs of a domain that was restored from a backup begin anew: what is held of them is forgotten."""
        held = evidence()
        held.fleet.held(domain)
        await held.witness.accept_logs(domain, caller.actor, check_reason(accepted.reason))
        return {"trust_domain": domain}


def _json(value: object) -> Any:
    return msgspec.to_builtins(value)


def _order(one: Ordered) -> Json:
    made = one.made
    return {
        "id": made.id,
        "kind": made.kind,
        "body": msgspec.json.decode(made.body),
        "reason": made.reason,
        "proposed_by": made.proposed_by,
        "approved_by": made.approved_by,
        "break_glass": made.break_glass,
        "at": show.time(made.at_ms),
        "expires_at": show.time(made.expires_ms),
        "outcome": one.outcome or "waiting",
        "error": one.error,
        "ended_at": show.time(one.ended_ms) if one.ended_ms else None,
    }
