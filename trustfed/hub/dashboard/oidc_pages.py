"""To the provider, and back from it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from trustfed.errors import Invalid
from trustfed.hub.dashboard.door_pace import DoorPace
from trustfed.hub.dashboard.guard import COOKIE, Guard, own_path, set_cookie
from trustfed.hub.dashboard.oidc import LIFE_SECONDS, MAX_PARAMETER, Oidc
from trustfed.hub.dashboard.parts import DashboardParts

LOGIN_COOKIE = "__Host-trustfed-login"
_PARAMETERS = ("code", "state", "iss", "error")


class OidcPages:
    """Login by an OpenID provider."""

    def __init__(self, parts: DashboardParts, oidc: Oidc, pace: DoorPace) -> None:
        self._parts, self._oidc, self._pace = parts, oidc, pace

    def routes(self, guard: Guard) -> list[Route]:
        """Both ways."""
        return [guard.open_get("/oidc/begin", self.begin), guard.open_get("/oidc/callback", self.callback)]

    async def begin(self, request: Request) -> Response:
        """Send the browser to the provider."""
        self._pace.take(request)
        cookie, address = await self._oidc.begin(own_path(request.query_params.get("next", "")))
        response = RedirectResponse(address, 303)
        set_cookie(response, LOGIN_COOKIE, cookie, LIFE_SECONDS)
        return response

    async def callback(self, request: Request) -> Response:
        """Take the provider's answer: a session, or a page that says why not."""
        self._pace.take(request)
        answer: dict[str, str] = {}
        for name in _PARAMETERS:
            given = request.query_params.getlist(name)
            if len(given) > 1 or any(len(text) > MAX_PARAMETER for text in given):
                raise Invalid(f"the provider's answer has more than one {name}, or a very long one")
            if given:
                answer[name] = given[0]
        caller, following = await self._oidc.finish(request.cookies.get(LOGIN_COOKIE, ""), answer)
        secret = await self._parts.logins.by_provider(caller)
        old = self._parts.sessions.of(request.cookies.get(COOKIE))
        if old is not None:
            await self._parts.logins.replaced(old)
        response = RedirectResponse(following, 303)
        set_cookie(response, COOKIE, secret)
        response.delete_cookie(LOGIN_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
        return response
