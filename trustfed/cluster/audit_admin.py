"""The admin socket's paths for auditors: the journal searched, newest first, and one of its events."""

from __future__ import annotations

from datetime import datetime

from starlette.responses import Response

from trustfed.cluster.admin_parts import AdminParts, answered, page
from trustfed.errors import Invalid
from trustfed.journal import audit
from trustfed.runtime.paths import Paths

OWN = "cluster"


def audit_paths(app: Paths, parts: AdminParts) -> None:
    @app.get("/audit")
    async def found(
        actor: str = "",
        kind: str = "",
        since: str = "",
        until: str = "",
        contains: str = "",
        outcome: str = "",
        before: int = 0,
        limit: int = 100,
    ) -> Response:
        query = audit.Query(
            actor,
            kind,
            _moment(since, "since"),
            _moment(until, "until"),
            contains,
            outcome,
            max(before, 0),
            page(limit),
        )
        return answered((await audit.search(parts.journal, parts.fold.position, query)).shown(OWN))

    @app.get("/audit/{position}")
    async def one(position: int) -> Response:
        return answered(audit.shown(await audit.look_up(parts.journal, position), OWN))


def _moment(text: str, member: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise Invalid(f"{member} {text[:40]!r} is no time", hint="such as 2026-12-31T00:00:00Z") from None
