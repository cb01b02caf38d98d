"""The admin socket's paths for feeds: what `trustfed feed allow|list|forbid` talk to."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trustfed.cluster.admin_parts import AdminParts, answered, body_of, record
from trustfed.cluster.mesh import feeds
from trustfed.runtime.paths import Paths


class FeedOrder(msgspec.Struct, forbid_unknown_fields=True):
    spiffe_id: str
    reason: str = ""


def feed_paths(app: Paths, parts: AdminParts, listed: Callable[[], list[dict[str, object]]]) -> None:
    """Add the paths to the admin application; `listed` says how each allowed feed stands."""

    @app.get("/mesh/feeds")
    async def all_feeds() -> Response:
        return answered({"feeds": listed()})

    @app.post("/mesh/feeds/allow")
    async def allowed(request: Request) -> Response:
        order = await body_of(request, FeedOrder)
        await record(parts, request, lambda s: feeds.allow(s, order.spiffe_id, parts.clock.now()), order.reason)
        return answered({"spiffe_id": order.spiffe_id, "allowed": True})

    @app.post("/mesh/feeds/forbid")
    async def forbidden(request: Request) -> Response:
        order = await body_of(request, FeedOrder)
        await record(parts, request, lambda s: feeds.forbid(s, order.spiffe_id, parts.clock.now()), order.reason)
        return answered({"spiffe_id": order.spiffe_id, "allowed": False})
