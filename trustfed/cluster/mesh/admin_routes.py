"""The admin socket's paths for what is rendered and why the rest is not: what `trustfed route` talks to."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from trustfed.cluster.admin_parts import answered
from trustfed.cluster.mesh.explain import Explain
from trustfed.runtime.paths import Paths

SLICE = 50
"""So many hosts are described before the loop may do something else."""


def route_paths(app: Paths, explain: Explain) -> None:
    """Add GET /mesh/routes, /mesh/routes/{service} and /mesh/routes/{service}/patch to the admin application."""

    @app.get("/mesh/routes")
    async def listed() -> Response:
        rows = []
        for row in explain.rows():
            rows.append(row)
            if len(rows) % SLICE == 0:
                await asyncio.sleep(0)
        return answered({"routes": rows})

    @app.get("/mesh/routes/{service}")
    async def explained(service: str, caller: str = "") -> Response:
        return answered(explain.explained(service, caller))

    @app.get("/mesh/routes/{service}/patch")
    async def patch(service: str) -> Response:
        return answered(explain.patches(service))
