"""The routes of the dashboard: who may ask each one, and what has to be true of a request that changes something.

    guard.get("/expiry", handler, "viewer")        a page: reads only
    guard.post("/actions/owner", handler, "operator")   a form: its origin and its token are checked, then its role
    guard.open_get / open_post                     for who is not logged in: the login itself, and static files

Each endpoint carries `role` ("" is anybody) and `changes`, so that a test can walk all of them. A route that is not made
here does not exist. What a handler raises becomes a page.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from trustfed.errors import Denied, TrustfedError
from trustfed.hub.dashboard.csrf import check_origin, check_token, read_form
from trustfed.hub.dashboard.door_pace import TooFast
from trustfed.hub.dashboard.frame import PREFIX, Handler, View, Visit, render
from trustfed.hub.dashboard.parts import DashboardParts
from trustfed.runtime import logs
from trustfed.runtime.errors import answer
from trustfed.runtime.timestamps import to_ms

COOKIE = "__Host-trustfed"
READERS = ("viewer", "auditor")
AT_ONCE = 2
"""Pages of one session that are made at a time: they share a loop with everything else, so that a flood of requests waits
behind itself and not in front of others."""
FormHandler = Callable[[Request, dict[str, str]], Awaitable[Response]]
_log = logs.get("hub.dashboard")


class Guard:
    """Makes routes over the sessions of one hub."""

    def __init__(self, parts: DashboardParts) -> None:
        self._parts = parts
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._asking: Counter[str] = Counter()

    def get(self, path: str, handler: Handler, role: str, view: View | None = None) -> Route:
        """A page for `role` and above; whoever is not logged in is sent to the login."""

        async def endpoint(request: Request) -> Response:
            request.state.view = view
            visit = self._visit(request)
            if visit is None:
                return _to_login(request)
            request.state.visit = visit
            if not _by_itself(request, visit):
                await self._parts.sessions.used(visit.session)
            async with self._turn(visit.session.digest):
                return await _answered(request, lambda: self._allowed(request, visit, role, handler))

        return _route(path, endpoint, "GET", role, changes=False)

    def post(self, path: str, handler: FormHandler, role: str) -> Route:
        """A form that changes something, for `role` and above."""

        async def decided(request: Request, visit: Visit) -> Response:
            check_origin(request)
            form = await read_form(request)
            check_token(form, visit.session)
            visit.caller.must_be(role)
            return await handler(request, form)

        async def endpoint(request: Request) -> Response:
            visit = self._visit(request)
            if visit is None:
                return render(request, "login.html.jinja", 401, title="Log in", over=True, **login_context(self._parts))
            request.state.visit = visit
            await self._parts.sessions.used(visit.session)
            return await _answered(request, lambda: decided(request, visit))

        return _route(path, endpoint, "POST", role, changes=True)

    def open_get(self, path: str, handler: Handler) -> Route:
        """What anybody may read."""

        async def endpoint(request: Request) -> Response:
            return await _answered(request, lambda: handler(request))

        return _route(path, endpoint, "GET", "", changes=False)

    def open_post(self, path: str, handler: FormHandler) -> Route:
        """A form of somebody who is not logged in: still of one of our own pages."""

        async def decided(request: Request) -> Response:
            check_origin(request)
            return await handler(request, await read_form(request))

        async def endpoint(request: Request) -> Response:
            return await _answered(request, lambda: decided(request))

        return _route(path, endpoint, "POST", "", changes=True)

    def _visit(self, request: Request) -> Visit | None:
        session = self._parts.sessions.of(request.cookies.get(COOKIE))
        if session is None:
            return None
        return Visit(self._parts, session, to_ms(self._parts.clock.now()), self._parts.news.mark)

    @asynccontextmanager
    async def _turn(self, session: str) -> AsyncIterator[None]:
        """Wait for one of a session's turns; they are forgotten with its last request."""
        self._asking[session] += 1
        try:
            async with self._turns.setdefault(session, asyncio.Semaphore(AT_ONCE)):
                await asyncio.sleep(0)  # most pages are made without waiting for anything: here others come in between
                yield
        finally:
            self._asking[session] -= 1
            if not self._asking[session]:
                del self._asking[session], self._turns[session]

    @staticmethod
    async def _allowed(request: Request, visit: Visit, role: str, handler: Handler) -> Response:
        visit.caller.must_be(role)
        return await handler(request)


def own_path(text: str) -> str:
    """`text` if it is a path below /dashboard on this very hub, else the first page: what a redirect may lead to."""
    printable = text.isascii() and text.isprintable() and "\\" not in text and len(text) <= 2048
    parts = urlsplit(text) if printable and text.startswith("/") and not text.startswith("//") else None
    mine = parts is not None and not parts.scheme and not parts.netloc and parts.path.startswith(f"{PREFIX}/")
    return text if mine and ".." not in text else f"{PREFIX}/"


def login_context(parts: DashboardParts) -> dict[str, Any]:
    """What the login page shows."""
    return {"provider": parts.oidc.name if parts.oidc else "", "following": f"{PREFIX}/", "question": ""}


def set_cookie(response: Response, name: str, value: str, seconds: int | None = None) -> None:
    """A cookie that only this origin can set and only its requests carry."""
    response.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


def error_page(request: Request, error: BaseException) -> Response:
    """What a person reads of an error: what happened, and what to do."""
    if isinstance(error, TooFast):
        response = refused(request, 429, error.message, error.hint)
        response.headers["Retry-After"] = "5"
        return response
    told = answer(error, path=request.scope["path"][:200])
    if isinstance(error, Denied):
        visit: Visit | None = getattr(request.state, "visit", None)
        peer = request.client.host if request.client else ""
        actor = visit.caller.actor if visit else ""
        _log.warning("request refused", path=request.scope["path"][:200], peer=peer, actor=actor, error=error.message)
    return refused(request, told.http_status, told.message, told.hint)


def refused(request: Request, status: int, message: str, hint: str = "") -> Response:
    """A page that says no."""
    words = {400: "That cannot be read", 401: "Log in", 403: "That is not allowed", 404: "That does not exist"}
    words |= {405: "That cannot be asked so", 409: "That does not fit any more", 429: "Too fast", 503: "Not now"}
    request.state.view = None
    title = words.get(status, "Something went wrong")
    return render(request, "error.html.jinja", status, title=title, message=message, hint=hint, code=status)


async def _answered(request: Request, asked: Callable[[], Awaitable[Response]]) -> Response:
    try:
        return await asked()
    except TrustfedError as error:
        return error_page(request, error)
    except Exception as error:
        return error_page(request, error)


def _by_itself(request: Request, visit: Visit) -> bool:
    """Whether this is no use of the session: the page asked by itself, and its visitor may act.

    Readers stay logged in by an open page, until their 12 hours end.
    """
    itself = "x-fragment" in request.headers or request.scope["path"] == f"{PREFIX}/events"
    return itself and visit.session.role not in READERS


def _to_login(request: Request) -> Response:
    if "x-fragment" in request.headers or "text/event-stream" in request.headers.get("accept", ""):
        return Response("log in\n", 401, media_type="text/plain")
    query = request.scope["query_string"].decode("latin-1")
    asked = request.scope["path"] + (f"?{query}" if query else "")
    following = own_path(asked)
    suffix = "" if following == f"{PREFIX}/" else f"?next={quote(following, safe='')}"
    return RedirectResponse(f"{PREFIX}/login{suffix}", 303)


def _route(path: str, endpoint: Handler, method: str, role: str, *, changes: bool) -> Route:
    endpoint.role, endpoint.changes = role, changes  # type: ignore[attr-defined]
    return Route(path, endpoint, methods=[method])
