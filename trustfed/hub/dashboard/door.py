"""The dashboard, put together: one application to be mounted at /dashboard on the hub's HTTPS doors."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from trustfed.hub.dashboard.action_pages import ActionPages
from trustfed.hub.dashboard.door_pace import DoorPace
from trustfed.hub.dashboard.events_stream import events
from trustfed.hub.dashboard.frame import PREFIX, Frame, View
from trustfed.hub.dashboard.guard import Guard, refused
from trustfed.hub.dashboard.login import LoginPages
from trustfed.hub.dashboard.oidc_pages import OidcPages
from trustfed.hub.dashboard.parts import DashboardParts
from trustfed.hub.dashboard.proposal_pages import ProposalPages
from trustfed.hub.dashboard.search import search
from trustfed.hub.dashboard.security_headers import SecurityHeaders
from trustfed.hub.dashboard.static_files import StaticFiles
from trustfed.hub.dashboard.views import VIEWS


def dashboard_app(parts: DashboardParts, views: Sequence[View] = VIEWS) -> Starlette:
    """Everything below /dashboard."""
    guard, static, pace = Guard(parts), StaticFiles(f"{PREFIX}/static"), DoorPace(parts.clock)
    login, actions, proposals = LoginPages(parts, pace), ActionPages(parts), ProposalPages(parts)
    pages = [*views, *actions.views, *proposals.views]
    routes = [
        guard.open_get("/static/{name}", static.serve),
        guard.open_get("/login", login.page),
        guard.open_get("/login/link", login.link),
        guard.open_post("/login/link", login.open),
        guard.post("/logout", login.logout, "viewer"),
        guard.get("/events", events, "viewer"),
        guard.get("/search", search, "viewer"),
        *actions.routes(guard),
        *proposals.routes(guard),
        *(OidcPages(parts, parts.oidc, pace).routes(guard) if parts.oidc else ()),
        *(guard.get(view.path, view.handler, view.role, view) for view in pages),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(SecurityHeaders, hosts=parts.hosts)],
        exception_handlers={HTTPException: _no_route},
    )
    app.router.redirect_slashes = False  # it would build an absolute URL out of the request's Host
    app.state.frame = Frame(pages, static)
    app.state.clock = parts.clock
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    hint = "start at the first page" if error.status_code == 404 else ""
    response = refused(
        request, error.status_code, "there is no such page" if error.status_code == 404 else error.detail, hint
    )
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response
