"""/dashboard/events: server-sent events that say which names have news; the page fetches what it shows again.

Only names go out, so a stream shows nothing that the page's own route would not. It ends with its session, its connection,
or the hub; a browser opens it again by itself.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from trustfed.errors import Invalid
from trustfed.hub.dashboard.frame import Visit, visit_of
from trustfed.hub.dashboard.news import Follower

HEARTBEAT_SECONDS = 15.0
MAX_NAMES = 64
_NAME = re.compile(r"[a-z]{1,16}(?::[a-z0-9._-]{1,255})?", re.ASCII)


async def events(request: Request) -> Response:
    """The stream of one page. Raises Invalid, Unavailable (too many)."""
    visit = visit_of(request)
    wanted = [name for name in request.query_params.get("names", "").split(" ") if name]
    if not 1 <= len(wanted) <= MAX_NAMES or not all(_NAME.fullmatch(name) for name in wanted):
        raise Invalid("these are no names of news", hint=f"1 to {MAX_NAMES}, such as standing or domain:prod-us-west")
    # A browser that opens a broken stream again says itself what it heard last.
    mark = request.headers.get("last-event-id") or request.query_params.get("seen", "")
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    return _Stream(visit, visit.parts.news.follow(visit.session.digest, wanted, mark), headers)


class _Stream(StreamingResponse):
    """What is sent, and the follower that is let go of however it ends, also before it began."""

    def __init__(self, visit: Visit, follower: Follower, headers: dict[str, str]) -> None:
        super().__init__(_told(visit, follower), headers=headers)
        self._news, self._follower = visit.parts.news, follower

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._news.leave(self._follower)


async def _told(visit: Visit, follower: Follower) -> AsyncIterator[bytes]:
    parts, session = visit.parts, visit.session
    yield b"retry: 3000\n: here is what changes\n\n"
    while not parts.news.closed and parts.sessions.is_alive(session):
        names = await follower.next(HEARTBEAT_SECONDS)
        said = f"id: {parts.news.mark}\nevent: change\ndata: {' '.join(sorted(names))}\n\n"
        yield said.encode() if names else b": still here\n\n"
    if not parts.news.closed:
        yield b"event: end\ndata: the session ended\n\n"
