"""The admin socket's paths for auditors: reports, and packs as files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from trustfed.cluster.admin_parts import actor, answered
from trustfed.cluster.evidence.admin import moment
from trustfed.cluster.evidence.packing import Packing
from trustfed.cluster.evidence.reporting import Reporting
from trustfed.errors import Invalid
from trustfed.evidence.figures import Window
from trustfed.runtime import logs
from trustfed.runtime.paths import Paths

log = logs.get("cluster.evidence")

_CHUNK = 1 << 18


def pack_paths(app: Paths, reporting: Reporting, packing: Packing) -> None:
    """Add them to the application."""

    @app.get("/evidence/report")
    async def report(request: Request) -> Response:
        found = await reporting.report(_window(request), actor(request))
        return answered(msgspec.to_builtins(found))

    @app.get("/evidence/pack")
    async def pack(request: Request) -> Response:
        window = _window(request)
        making = packing.pack(window.from_ms, window.to_ms)
        path, manifest = await making.__aenter__()
        log.info("evidence exported", actor=actor(request), from_ms=window.from_ms, to_ms=window.to_ms)

        async def parts() -> AsyncIterator[bytes]:
            try:
                async for part in _parts(path):
                    yield part
            finally:
                await making.__aexit__(None, None, None)

        headers = {"X-Facts": str(manifest.ledger.count), "X-Events": str(manifest.journal.count)}
        return StreamingResponse(parts(), media_type="application/x-tar", headers=headers)


async def _parts(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while part := await asyncio.to_thread(file.read, _CHUNK):
            yield part
    finally:
        file.close()


def _window(request: Request) -> Window:
    query = request.query_params
    if not query.get("from") or not query.get("to"):
        raise Invalid("from and to are wanted", hint="?from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z")
    return Window(moment(query["from"], "from"), moment(query["to"], "to"))
