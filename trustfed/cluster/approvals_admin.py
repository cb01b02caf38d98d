"""The admin socket's paths for what takes two people: proposals, their approval, and the answers of CA commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trustfed.cluster.admin_parts import AdminParts, Reason, acting, answered, body_of, command_id_of
from trustfed.cluster.state import ClusterState
from trustfed.journal.approving import Pinned
from trustfed.runtime.paths import Paths


class Approval(msgspec.Struct, forbid_unknown_fields=True):
    body_hash: str = ""  # what the approver looked at


async def asked(
    parts: AdminParts,
    request: Request,
    body: msgspec.Struct | Pinned[ClusterState],
    reason: str,
    break_glass: bool,
    done: Callable[[], Any],
) -> Response:
    """Ask for a command that takes two people: what is done, or 202 and the proposal that waits for another person."""
    found = await parts.approvals.ask(
        acting(request), body, reason, command_id=command_id_of(request), break_glass=break_glass
    )
    if found.waits and found.proposal is not None:
        waiting = msgspec.json.encode(parts.approvals.waiting(found.proposal))
        return Response(waiting, 202, media_type="application/json")
    return answered(done())


def approval_paths(app: Paths, parts: AdminParts) -> None:
    @app.get("/approvals")
    async def listed(broken: bool = False, all: bool = False) -> Response:
        return answered({"approvals": parts.approvals.listed(broken=broken, all_=all)})

    @app.get("/approvals/{id_}")
    async def found(id_: str) -> Response:
        return answered(parts.approvals.found(id_))

    @app.post("/approvals/{id_}/approve")
    async def approved(id_: str, request: Request) -> Response:
        said = await body_of(request, Approval)
        await parts.approvals.approve(acting(request), id_, said.body_hash)
        return answered(parts.approvals.found(id_))

    @app.post("/approvals/{id_}/withdraw")
    async def withdrawn(id_: str, request: Request) -> Response:
        said = await body_of(request, Reason)
        await parts.approvals.withdraw(acting(request), id_, said.reason)
        return answered(parts.approvals.found(id_))
