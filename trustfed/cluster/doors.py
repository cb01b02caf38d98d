"""The HTTPS doors of a cluster: its SPIFFE bundle for anybody, and, on https_spiffe, how nodes get in."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

from starlette.requests import Request
from starlette.responses import Response

from trustfed.cluster.admission import NodeAdmission
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, NotFound, Unavailable
from trustfed.federation.envelope import Envelope
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.paths import Paths
from trustfed.runtime.problems import map_errors

log = logs.get("cluster.doors")


Seen = Callable[[Request, str, Envelope], None]
"""Told of each reader: the request, which document, and what was served."""


Confirmed = Callable[[], bytes | None]
"""This domain's newest confirmation, if it has signed one."""


def bundle_app(own: Callable[[], Envelope], seen: Seen | None = None, confirmed: Confirmed | None = None) -> Paths:
    """The SPIFFE bundle endpoint (SPIFFE Federation §5): the bundle document at / and /bundle; beside it the envelope, and
    the domain's word that this is its newest.
    """
    app = _app()

    @app.get("/")
    @app.get("/bundle")
    async def bundle(request: Request) -> Response:
        envelope = own()
        if seen is not None:
            seen(request, "bundle", envelope)
        return document(request, envelope.body, "application/json", envelope.bundle.refresh_hint or 60)

    @app.get("/envelope")
    async def signed(request: Request) -> Response:
        envelope = own()
        if seen is not None:
            seen(request, "envelope", envelope)
        return document(request, envelope.data, "application/json", envelope.bundle.refresh_hint or 60)

    @app.get("/confirmation")
    async def confirmation(request: Request) -> Response:
        data = confirmed() if confirmed is not None else None
        if data is None:
            raise NotFound("this domain has confirmed nothing yet", hint="ask again in a few seconds")
        return document(request, data, "application/json", 5)

    return app


def spiffe_app(
    own: Callable[[], Envelope],
    fold: Fold[ClusterState],
    admission: NodeAdmission,
    seen: Seen | None = None,
    confirmed: Confirmed | None = None,
) -> Paths:
    """The https_spiffe listener: the bundle endpoint, the root set, attestation and renewal of nodes."""
    app = bundle_app(own, seen, confirmed)

    @app.get("/v1/roots")
    async def roots() -> dict[str, list[str]]:
        documents = fold.state.root_documents
        if not documents:
            raise Unavailable("this cluster is not enrolled yet")
        return {"documents": [document.decode() for document in documents]}

    @app.get("/v1/nonce")
    async def nonce() -> dict[str, object]:
        return admission.nonce()

    @app.post("/v1/node/attest")
    async def attest(request: Request) -> dict[str, object]:
        with _refusals(request):
            return await admission.attest(await request.body(), _peer(request))

    @app.post("/v1/node/renew")
    async def renew(request: Request) -> dict[str, object]:
        with _refusals(request):
            return await admission.renew(await request.body())

    return app


@contextlib.contextmanager
def _refusals(request: Request) -> Iterator[None]:
    """Whoever tries to become a node and may not leaves a line in the log."""
    try:
        yield
    except Denied as error:
        log.warning("node refused", path=request.url.path, peer=_peer(request), error=error.message)
        raise


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def document(request: Request, body: bytes, content_type: str, max_age: int) -> Response:
    """A cacheable answer: strong ETag over the bytes, 304 when the reader has them."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": f"max-age={max_age}"}
    wanted = {item.strip() for item in request.headers.get("if-none-match", "").split(",")}
    if tag in wanted or "*" in wanted:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=content_type, headers=headers)


def _app() -> Paths:
    app = Paths()
    map_errors(app)
    return app
