"""The health address: what a supervisor and Prometheus ask, over plain HTTP and without a secret in any answer."""

from __future__ import annotations

import socket
from collections.abc import Callable

from trustfed.runtime import metrics
from trustfed.runtime.unix_http import Door, Request, Response, Routes, serve


async def open_health(listener: socket.socket, missing: Callable[[], list[str]], registry: metrics.Registry) -> Door:
    """Answer /live, /ready (503 while something is missing) and /metrics on this socket."""
    return await serve(listener, routes(missing, registry))


def routes(missing: Callable[[], list[str]], registry: metrics.Registry) -> Routes:
    """The three paths; `missing` says what the process cannot do its work without."""

    async def live(_: Request) -> Response:
        return Response.of({"live": True})

    async def ready(_: Request) -> Response:
        lacks = missing()
        return Response.of({"ready": not lacks, "missing": lacks}, 503 if lacks else 200)

    async def exposition(_: Request) -> Response:
        return Response(200, registry.exposition(), metrics.CONTENT_TYPE)

    return {("GET", "/live"): live, ("GET", "/ready"): ready, ("GET", "/metrics"): exposition}
