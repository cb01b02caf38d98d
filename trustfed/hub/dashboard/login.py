"""The login's pages: what to do, the button that a link leads to, and the way out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from trustfed.errors import Unavailable
from trustfed.hub.dashboard import login_links
from trustfed.hub.dashboard.door_pace import DoorPace
from trustfed.hub.dashboard.frame import PREFIX, render, visit_of
from trustfed.hub.dashboard.guard import COOKIE, error_page, login_context, own_path, set_cookie
from trustfed.hub.dashboard.parts import DashboardParts

MAX_TOKEN = 256


class LoginPages:
    """Login by a link, and logout."""

    def __init__(self, parts: DashboardParts, pace: DoorPace) -> None:
        self._parts, self._pace = parts, pace

    async def page(self, request: Request) -> Response:
        """How to log in here. Whoever is logged in already goes on."""
        following = own_path(request.query_params.get("next", ""))
        if self._parts.sessions.of(request.cookies.get(COOKIE)):
            return RedirectResponse(following, 303)
        context = {**login_context(self._parts), "following": following}
        return render(request, "login.html.jinja", title="Log in", over=False, **context)

    async def link(self, request: Request) -> Response:
        """A button, not a login: what only looks at a link (a mail scanner, a preview) does not spend it."""
        self._pace.take(request)
        text = request.query_params.get("token", "")[:MAX_TOKEN]
        found = login_links.held(self._parts.hub.operations.state.dashboard, text, self._parts.hub.operations.now())
        return render(request, "login_link.html.jinja", title="Log in", token=text, link=found)

    async def open(self, request: Request, form: dict[str, str]) -> Response:
        """Spend a link: a new session, whatever cookie the browser brought."""
        self._pace.take(request)
        secret = await self._parts.logins.by_link(form.get("token", "")[:MAX_TOKEN])
        old = self._parts.sessions.of(request.cookies.get(COOKIE))
        if old is not None:
            await self._parts.logins.replaced(old)
        response = RedirectResponse(f"{PREFIX}/", 303)
        set_cookie(response, COOKIE, secret)
        return response

    async def logout(self, request: Request, form: dict[str, str]) -> Response:
        """End this session; the browser forgets it, too, when that cannot be written."""
        visit = visit_of(request)
        response: Response = RedirectResponse(f"{PREFIX}/login", 303)
        try:
            await self._parts.logins.end(visit.caller, visit.session, "logout")
        except Unavailable as error:
            request.state.visit = None  # the page is one of somebody who is logged out
            response = error_page(request, error)
        response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
        return response
