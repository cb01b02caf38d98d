"""The admin socket's paths for desired state and the mesh as a whole: what `trustfed mesh` talks to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trustfed.cluster.admin_parts import AdminParts, actor, answered, body_of
from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.desired import plan
from trustfed.cluster.mesh.desired.apply import By, apply
from trustfed.cluster.mesh.desired.files import File
from trustfed.cluster.mesh.desired.plan import Terms, differences
from trustfed.cluster.mesh.desired.wanted import read_wanted
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict
from trustfed.runtime.paths import Paths
from trustfed.runtime.reach import Reach


class Text(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    text: str


class Desired(msgspec.Struct, forbid_unknown_fields=True):
    """The files of a directory as they are: they are read and judged here, once."""

    files: list[Text]
    dry_run: bool = False
    prune: bool = False
    take_over: bool = False
    reason: str = ""


def desired_paths(
    app: Paths, parts: AdminParts, reach: Reach, watched: str, status: Callable[[], dict[str, object]]
) -> None:
    """Add the paths; `watched` is the directory that the cluster applies by itself, "" for none."""
    turn = asyncio.Lock()  # one large directory at a time

    @app.post("/mesh/apply")
    async def applied(request: Request) -> Response:
        said = await body_of(request, Desired)
        if watched and not said.dry_run:
            raise Conflict(
                f"this cluster applies {watched} by itself",
                hint="change it there, or take mesh.directory out of its file",
            )
        async with turn:
            files = [File(one.path, one.text) for one in said.files]
            wanted = await asyncio.to_thread(read_wanted, files)
            state = parts.fold.state
            differ = await asyncio.to_thread(differences, state.mesh, wanted)
            made = 0
            terms = Terms(prune=said.prune, take=said.take_over, leave=said.dry_run)
            if said.dry_run:
                await asyncio.to_thread(plan.decide, state, wanted, terms, parts.clock.now(), reach)
            else:
                by = By(request.headers.get("command-id") or uuid4().hex, actor(request), said.reason)
                made = await apply(parts.fold, wanted, terms, by, parts.clock, reach)
        return answered(
            {
                "documents": len(wanted),
                "differences": differ,
                "unchanged": len(wanted) - sum(one.action != plan.DROP for one in differ),
                "events": made,
                "dry_run": said.dry_run,
            }
        )

    @app.get("/mesh/status")
    async def stands() -> Response:
        return answered({**counted(parts.fold.state), **status()})


def counted(state: ClusterState) -> dict[str, object]:
    """How many items of each kind there are, by source, and the limits."""
    sources = Counter((one.kind, one.source) for one in state.mesh.own.values())
    return {
        "sequence": state.mesh.sequence,
        **{
            f"{kind}s": {
                "limit": limit,
                **{source: sources[kind, source] for source in own.SOURCES if sources[kind, source]},
            }
            for kind, limit in own.LIMITS.items()
        },
        "local_hosts": len(state.mesh.local),
        "routes": len(state.mesh.routes),
    }
