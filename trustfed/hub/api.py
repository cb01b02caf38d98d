"""What operators ask and order, in JSON: one set of routes, behind the HTTPS API and behind the admin socket.

Every route names the least role that may use it. Errors are problem details (RFC 9457) with a `hint`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request, Response
from starlette.exceptions import HTTPException

from trustfed.errors import NotFound
from trustfed.hub import presentation as show
from trustfed.hub.access import Caller
from trustfed.hub.evidence.compose import HubEvidenceParts
from trustfed.hub.mesh.compose import HubMeshParts
from trustfed.hub.operations import Operations
from trustfed.hub.orders import ApiTokenOrder, DomainInvitation, GrantOffer, Why, moment_of
from trustfed.hub.protection import ROUND, Protection
from trustfed.hub.publication import Publication
from trustfed.hub.relay import Relay
from trustfed.hub.signing import current_root_set
from trustfed.journal.ports import Journal
from trustfed.runtime.config import duration
from trustfed.runtime.metrics import CONTENT_TYPE, Registry
from trustfed.runtime.problems import map_errors
from trustfed.spiffe.ids import TrustDomain, shown

MAX_EVENTS = 1_000

Json = dict[str, Any]
Door = Callable[[Request], Caller | None]


@dataclass(frozen=True)
class Parts:
    """What the routes speak for."""

    operations: Operations
    relay: Relay
    publication: Publication
    journal: Journal
    metrics: Registry
    addresses: dict[str, str]
    started: datetime
    software: str
    svid_not_after: Callable[[], datetime]
    protection: Protection | None = None
    mesh: HubMeshParts | None = None
    evidence: HubEvidenceParts | None = None


class Allowed:
    """A route's guard: the caller that the door names, if its role is `role` or above. 401 when it names none."""

    def __init__(self, role: str) -> None:
        self.role = role

    def __call__(self, request: Request) -> Caller:
        caller: Caller | None = request.app.state.door(request)
        if caller is None:
            raise HTTPException(401, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"})
        caller.must_be(self.role)
        return caller


Viewer = Annotated[Caller, Depends(Allowed("viewer"))]
Auditor = Annotated[Caller, Depends(Allowed("auditor"))]
Operator = Annotated[Caller, Depends(Allowed("operator"))]
Admin = Annotated[Caller, Depends(Allowed("admin"))]


def routes(parts: Parts) -> APIRouter:
    """All routes of operators."""
    router = APIRouter()
    for add in (_status_routes, _domain_routes, _grant_routes, _root_routes, _token_routes, _reading_routes):
        add(router, parts)
    return router


def _status_routes(router: APIRouter, parts: Parts) -> None:
    @router.get("/whoami")
    async def whoami(caller: Viewer) -> Json:
        """Who is asking."""
        return {"actor": caller.actor, "role": caller.role}

    @router.get("/status")
    async def status(caller: Viewer) -> Json:
        """The hub at a glance."""
        state, now = parts.operations.state, parts.operations.now()
        domains = [record.status for record in state.domains.values()]
        grants = [record.status for record in state.grants.values()]
        waiting = [held for held in parts.publication.status() if held.wanted]
        return {
            "trust_domain": state.trust_domain,
            "spiffe_id": f"spiffe://{state.trust_domain}/trustfed/hub",
            "software": parts.software,
            "instance": state.instance,
            "position": state.position,
            "started_at": show.time(parts.started),
            "addresses": parts.addresses,
            "svid_not_after": show.time(parts.svid_not_after()),
            "authority_not_after": show.time(state.authorities[-1].not_after_ms),
            "root": {"version": len(state.root_documents), "roots": [show.root(root) for root in state.roots]},
            "domains": {name: domains.count(name) for name in ("invited", "enrolled", "removed")},
            "grants": {name: grants.count(name) for name in ("offered", "accepted", "ended")},
            "clusters_connected": len({view.domain for view in parts.relay.all_views()}),
            "publication": {
                "waiting": len(waiting),
                "lag_seconds": max((show.publication(held, now)["lag_seconds"] for held in waiting), default=0),
            },
        }

    @router.get("/metrics")
    async def metrics(caller: Viewer) -> Response:
        """Prometheus text."""
        return Response(parts.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})


def _domain_routes(router: APIRouter, parts: Parts) -> None:
    operations = parts.operations

    @router.post("/domains", status_code=201)
    async def invite(caller: Operator, order: Annotated[DomainInvitation, Body()]) -> Json:
        """Invite a trust domain: the token is in this answer only."""
        name = TrustDomain.parse(order.name)
        life = duration(order.ttl)
        token = await operations.invite(caller, name, order.owner, order.dns_suffixes, life, simulated=order.simulated)
        return {"token": token.encode(), "expires_at": show.time(token.expires_at), **shown_domain(parts, name.name)}

    @router.get("/domains")
    async def domains(caller: Viewer) -> Json:
        """All trust domains, by name."""
        return {"domains": [shown_domain(parts, name) for name in sorted(operations.state.domains)]}

    @router.get("/domains/{name}")
    async def domain(caller: Viewer, name: str) -> Json:
        """One trust domain, with its intermediates and grants."""
        state = operations.state
        return {
            **shown_domain(parts, name),
            "intermediates": [show.intermediate(held) for held in reversed(state.signed_for(name))],
            "grants": [show.grant(state, held) for held in state.grants_with(name)[-100:]],
        }

    @router.get("/bundles/{name}")
    async def bundle(caller: Viewer, name: str) -> Response:
        """The SPIFFE bundle of one trust domain."""
        return Response(parts.publication.bundle(name).data, media_type="application/json")

    @router.get("/clusters")
    async def clusters(caller: Viewer) -> Json:
        """Every enrolled cluster: connection, levels, laggards."""
        state = operations.state
        enrolled = sorted(record.name for record in state.domains.values() if record.status == "enrolled")
        return {"clusters": [show.cluster(state.domains[name], parts.relay, state) for name in enrolled]}


def _grant_routes(router: APIRouter, parts: Parts) -> None:
    operations = parts.operations

    @router.get("/grants")
    async def grants(caller: Viewer) -> Json:
        """All grants, newest change first, at most 10,000."""
        state = operations.state
        held = sorted(state.grants.values(), key=lambda grant: grant.position, reverse=True)
        return {"grants": [show.grant(state, grant) for grant in held[:10_000]]}

    @router.post("/grants", status_code=201)
    async def offer(caller: Operator, order: Annotated[GrantOffer, Body()]) -> Json:
        """Offer a grant; its importing owner accepts it in its own cluster."""
        grant = await operations.offer(
            caller,
            importer=TrustDomain.parse(order.importer),
            exporter=TrustDomain.parse(order.exporter),
            until=moment_of(order.until, "until"),
            reason=order.reason,
            start=moment_of(order.start, "start") if order.start else None,
        )
        return show.grant(operations.state, grant)

    @router.post("/grants/{grant_id}/end")
    async def end(caller: Operator, grant_id: str, why: Annotated[Why, Body()]) -> Json:
        """End a grant."""
        return show.grant(operations.state, await operations.end(caller, grant_id, why.reason))


def shown_roots(parts: Parts) -> Json:
    """The federation's roots as JSON, and which connected clusters lack the newest root set."""
    state = parts.operations.state
    present = current_root_set(state, parts.operations.now())
    behind = {view.domain for view in parts.relay.all_views() if view.root_version < present.version}
    return {
        "version": present.version,
        "hash": present.hash,
        "roots": [show.root(root) for root in state.roots],
        "clusters_behind": sorted(behind),
    }


def shown_domain(parts: Parts, name: str) -> Json:
    """A trust domain as JSON, or NotFound."""
    record = parts.operations.state.domains.get(name)
    if record is None:
        raise NotFound(f"trust domain {shown(name)} is not registered", hint="trustfed domain list")
    return show.domain(record, parts.relay, parts.publication.published(name))


def _root_routes(router: APIRouter, parts: Parts) -> None:
    @router.get("/roots")
    async def roots(caller: Viewer) -> Json:
        """The federation's roots, and which connected clusters lack the newest root set."""
        return shown_roots(parts)


def _token_routes(router: APIRouter, parts: Parts) -> None:
    operations = parts.operations

    @router.get("/tokens")
    async def tokens(caller: Admin) -> Json:
        """The bearer tokens of this API, without their secrets."""
        held = sorted(operations.state.tokens.values(), key=lambda token: token.id)
        return {"tokens": [show.token(token) for token in held]}

    @router.post("/tokens", status_code=201)
    async def issue(caller: Admin, order: Annotated[ApiTokenOrder, Body()]) -> Json:
        """A new bearer token: its text is in this answer only."""
        token_id, text = await operations.issue_token(caller, order.name, order.role, duration(order.ttl))
        return {"token": text, **show.token(operations.state.tokens[token_id])}

    @router.delete("/tokens/{token_id}")
    async def revoke(caller: Admin, token_id: str) -> Json:
        """End a bearer token, and the tokens that were made with it: `also` are their ids."""
        gone = await operations.revoke_token(caller, token_id)
        return {**show.token(operations.state.tokens[token_id]), "also": [one for one in gone if one != token_id]}


def _reading_routes(router: APIRouter, parts: Parts) -> None:
    @router.get("/events")
    async def events(
        caller: Auditor,
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 100,
    ) -> Json:
        """The journal: every decision, who, when and why. `next` is the `after` of the next page, or null."""
        found = await parts.journal.read(after, limit)
        more = bool(found) and found[-1].position < parts.operations.state.position
        return {"events": [show.event(one) for one in found], "next": found[-1].position if more else None}

    @router.get("/publication")
    async def publication(caller: Viewer) -> Json:
        """How each target of the publication stands, and each document at it."""
        now = parts.operations.now()
        return {
            "targets": [show.publication_target(held, now) for held in parts.publication.targets()],
            "documents": [
                show.publication(held, now)
                for held in parts.publication.status()
                if held.name != ROUND or parts.operations.state.tuf_roots
            ],
            "protected": parts.protection.status() if parts.protection else None,
        }


def operator_app(
    parts: Parts, door: Door, *, prefix: str = "", docs: bool = False, routers: Sequence[APIRouter] = ()
) -> FastAPI:
    """An application with these routers, or else all of `routes`, behind one door."""
    app = FastAPI(
        title="trustfed hub",
        version=parts.software,
        openapi_url="/api/openapi.json" if docs else None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.door = door
    for router in routers or [routes(parts)]:
        app.include_router(router, prefix=prefix)
    map_errors(app)
    return app
