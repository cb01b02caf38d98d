"""The auditor's routes: the journal searched, newest first, and one of its events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from trustfed.hub.api import Auditor, Parts
from trustfed.hub.orders import moment_of
from trustfed.journal import audit

Json = dict[str, Any]
Pattern = Annotated[str, Query(max_length=128)]
When = Annotated[str | None, Query(max_length=40)]
OWN = "hub"


def routes(parts: Parts) -> APIRouter:
    """All of them."""
    router = APIRouter()

    @router.get("/audit")
    async def found(
        caller: Auditor,
        actor: Pattern = "",
        kind: Pattern = "",
        since: When = None,
        until: When = None,
        contains: Pattern = "",
        outcome: Pattern = "",
        before: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=audit.MAX_FOUND)] = 100,
    ) -> Json:
        """Who did what, when, from where and with what outcome, newest first; `next` is the `before` of what is older."""
        query = audit.Query(
            actor,
            kind,
            moment_of(since, "since") if since else None,
            moment_of(until, "until") if until else None,
            contains,
            outcome,
            before,
            limit,
        )
        return (await audit.search(parts.journal, parts.operations.state.position, query)).shown(OWN)

    @router.get("/audit/{position}")
    async def one(caller: Auditor, position: Annotated[int, Path(ge=1, le=2**53)]) -> Json:
        """One event, whole."""
        return audit.shown(await audit.look_up(parts.journal, position), OWN)

    return router
