"""The HTTPS door's open side: enrolment (authenticated by what it carries), bundles for plain readers, and health."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response

from bundle_publisher.targets.port import Document
from trustfed.errors import NotFound, Unavailable
from trustfed.federation.enrolment import text
from trustfed.hub import approvals_api, audit_api, publication_api
from trustfed.hub.access import Caller, caller
from trustfed.hub.api import Allowed, Parts, operator_app, routes
from trustfed.hub.enrol import read_enrolment, read_resign
from trustfed.hub.evidence import api as evidence_api
from trustfed.hub.mesh import api as mesh_api
from trustfed.hub.operations import Admitted
from trustfed.runtime import logs
from trustfed.runtime.metrics import CONTENT_TYPE
from trustfed.spiffe.ids import TrustDomain, shown

API = "/api/v1"
MAX_BRINGING, MAX_WAITING = 4, 64
"""Envelopes from anybody that are judged at once, and that are here at all; the rest is told to come again."""

Json = dict[str, Any]


def both_doors(parts: Parts, intermediate_ttl: timedelta, ready: Callable[[], bool]) -> tuple[FastAPI, FastAPI]:
    """`https_app` and `admin_app`."""
    shared = routers(parts)
    return https_app(parts, intermediate_ttl, ready, shared), admin_app(parts, ready, shared)


def routers(parts: Parts) -> tuple[APIRouter, ...]:
    """What every operators' door answers. To make them is a tenth of a hub's start: its doors share them."""
    rooms = (publication_api, approvals_api, audit_api, mesh_api, evidence_api)
    return (routes(parts), *(room.routes(parts) for room in rooms))


def https_app(
    parts: Parts, intermediate_ttl: timedelta, ready: Callable[[], bool], shared: Sequence[APIRouter] = ()
) -> FastAPI:
    """Everything behind the HTTPS door: the API for bearers of tokens, the rest for everybody."""

    def bearer(request: Request) -> Caller | None:
        given = request.headers.get("authorization")
        return caller(parts.operations.state, given, parts.operations.now())

    app = operator_app(parts, bearer, prefix=API, docs=True, routers=shared or routers(parts))
    _enrolment(app, parts, intermediate_ttl)
    _reading(app, parts)
    health(app, ready)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(caller: Annotated[Caller, Depends(Allowed("viewer"))]) -> Response:
        """Prometheus text."""
        return Response(parts.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    return app


def admin_app(parts: Parts, ready: Callable[[], bool], shared: Sequence[APIRouter] = ()) -> FastAPI:
    """Everything behind the admin socket. Whoever can connect to it (0600) is an admin; the actor is the peer's uid."""

    def peer(request: Request) -> Caller | None:
        return Caller(request.client.host, "admin") if request.client else None

    app = operator_app(parts, peer, docs=True, routers=shared or routers(parts))
    health(app, ready)
    return app


def health(app: FastAPI, ready: Callable[[], bool]) -> None:
    """/live: the process answers. /ready: its journal is folded and its doors are open."""

    @app.get("/live", include_in_schema=False)
    async def live() -> Json:
        return {"live": True}

    @app.get("/ready", include_in_schema=False)
    async def is_ready(response: Response) -> Json:
        response.status_code = 200 if ready() else 503
        return {"ready": ready()}


def _enrolment(app: FastAPI, parts: Parts, intermediate_ttl: timedelta) -> None:
    operations, log = parts.operations, logs.get("hub.enrolment")

    def documents() -> list[str]:
        return [document.decode() for document in operations.state.root_documents]

    def admitted(given: Admitted) -> Json:
        return {
            "trust_domain": given.domain.name,
            "intermediate": text(given.intermediate.certificate),
            "root": text(given.root),
            "documents": documents(),
        }

    @app.get("/v1/roots", tags=["enrolment"])
    async def roots() -> Json:
        """Every version of the root set; newcomers pin one by its hash and walk from there."""
        return {"documents": documents()}

    @app.get("/v1/nonce", tags=["enrolment"])
    async def nonce() -> Json:
        """A nonce to sign."""
        value, end = operations.nonce()
        return {"nonce": value, "expires_ms": end}

    @app.post("/v1/enrol", tags=["enrolment"])
    async def enrol(request: Request) -> Json:
        """Enrol a trust domain (trustfed/hub/enrol.py says how)."""
        given = await operations.enrol(read_enrolment(await request.body()))
        log.info("trust domain enrolled", domain=given.domain.name, authority=given.intermediate.authority)
        state = operations.state
        return {
            **admitted(given),
            "suffixes": list(given.domain.dns_suffixes),
            "hub": {
                "trust_domain": state.trust_domain,
                "spiffe_id": f"spiffe://{state.trust_domain}/trustfed/hub",
                "grpc": parts.addresses["grpc"],
            },
            "policy": {"intermediate_ttl": int(intermediate_ttl.total_seconds())},
        }

    bringing, waiting = asyncio.Semaphore(MAX_BRINGING), set[object]()

    @app.post("/v1/envelopes/{name}", tags=["enrolment"])
    async def envelope(name: str, request: Request) -> Json:
        """A domain's next envelope, from anybody: its signature is all the proof there is, and it must continue.

        For a cluster whose authority changed while it was away: its stream is verified against the newest envelope here.
        """
        if bringing.locked() and len(waiting) >= MAX_WAITING:
            raise Unavailable("too many envelopes are being brought", hint="try again in a moment")
        turn = object()
        waiting.add(turn)
        try:
            async with bringing:
                await operations.accept_envelope(TrustDomain.parse(name).name, await request.body())
        finally:
            waiting.discard(turn)
        held = operations.state.domains[name]
        return {"trust_domain": name, "epoch": held.epoch, "sequence": held.sequence}

    @app.post("/v1/resign", tags=["enrolment"])
    async def resign(request: Request) -> Json:
        """A new intermediate for an enrolled domain whose SVIDs and authorities have all expired."""
        given = await operations.resign(read_resign(await request.body()))
        log.info("intermediate signed again", domain=given.domain.name, authority=given.intermediate.authority)
        return admitted(given)


def _reading(app: FastAPI, parts: Parts) -> None:
    state = parts.operations

    @app.get("/bundles/{name}", tags=["publication"])
    async def bundle(request: Request, name: str) -> Response:
        """The SPIFFE bundle of one trust domain."""
        return _conditional(request, parts.publication.bundle(name))

    @app.get("/bundle-map", tags=["publication"])
    async def bundle_map(request: Request) -> Response:
        """The SPIFFE bundles of all trust domains in one document."""
        return _conditional(request, parts.publication.map())

    @app.get("/crl", tags=["publication"])
    async def crl(request: Request) -> Response:
        """The active root's CRL (DER)."""
        return _crl(request, state.state.active_root.key_name)

    @app.get("/crl/{root}", tags=["publication"])
    async def crl_of(request: Request, root: str) -> Response:
        """One root's CRL (DER)."""
        return _crl(request, root)

    def _crl(request: Request, root: str) -> Response:
        held = state.state.crls.get(root)
        if held is None:
            raise NotFound(f"no CRL of {shown(root)} is published here")
        document = Document("crl", held.certificate_list, "application/pkix-crl", "max-age=3600")
        return _conditional(request, document)


def _conditional(request: Request, document: Document) -> Response:
    """The document, or 304 when the reader has it (RFC 9110 §13.1.2)."""
    tag = f'"{hashlib.sha256(document.data).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": document.cache_control, "Content-Type": document.content_type}
    known = request.headers.get("if-none-match", "")
    if known == "*" or tag in [one.strip().removeprefix("W/") for one in known.split(",")]:
        return Response(status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
    return Response(document.data, headers=headers)
