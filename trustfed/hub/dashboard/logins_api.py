"""Logins for operators, in JSON: links that open one session, and the sessions that are open."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from trustfed.hub.api import Admin
from trustfed.hub.dashboard.logins import Logins
from trustfed.hub.dashboard.sessions import Session, Sessions
from trustfed.runtime.config import duration

Json = dict[str, Any]


class LoginOrder(BaseModel):
    """Whom to let in, as what, and how soon the link must be opened; `ttl` such as "5m"."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(default="admin", max_length=64)
    role: str = Field(default="viewer", max_length=16)
    ttl: str = Field(default="5m", max_length=16)


def routes(logins: Logins, sessions: Sessions) -> APIRouter:
    """All of them, for admins."""
    router = APIRouter()

    @router.post("/logins", status_code=201)
    async def link(caller: Admin, order: Annotated[LoginOrder, Body()]) -> Json:
        """A link that logs somebody in once: it is in this answer only."""
        url, until_ms = await logins.link(caller, order.name, order.role, duration(order.ttl))
        return {"url": url, "name": order.name, "role": order.role, "expires_at": _time(until_ms)}

    @router.get("/logins")
    async def listed(caller: Admin) -> Json:
        """The sessions that are open, the last used first."""
        held = sorted(sessions.alive(), key=lambda one: one.used_ms, reverse=True)
        return {"logins": [_shown(one) for one in held]}

    @router.delete("/logins/{session_id}")
    async def end(caller: Admin, session_id: str) -> Json:
        """End a session at once."""
        session = logins.session(session_id)
        await logins.end(caller, session, "ended by an admin")
        return _shown(session)

    return router


def _shown(session: Session) -> Json:
    return {
        "id": session.id,
        "actor": session.actor,
        "role": session.role,
        "how": session.how,
        "began_at": _time(session.began_ms),
        "used_at": _time(session.used_ms),
        "ends_at": _time(session.ends_ms),
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).isoformat().replace("+00:00", "Z")
