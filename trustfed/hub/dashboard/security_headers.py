"""What every answer of the dashboard says to a browser, and which Host it answers to at all.

No inline script or style runs, nothing is loaded from elsewhere, nobody may frame a page, and no page is kept. Over TLS a
browser is told to come by TLS only, for a year (RFC 6797): to this name, not to those below it, which may be others'. A request
for another host is answered with 421 (RFC 9110 §15.5.20): a name that somebody pointed at this address (DNS rebinding) gets
nothing, and no part of the code has to ask what a strange Host would do to a URL.
"""

from __future__ import annotations

import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "X-Robots-Tag": "noindex",
}
STRICT_TRANSPORT_SECURITY = "max-age=31536000"
_HOST = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)


class SecurityHeaders:
    """ASGI: the headers on whatever `app` answers, for the hosts that the hub is reached by."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        """`hosts` are names and addresses without a port, in lower case."""
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                for name, value in HEADERS.items():
                    headers[name] = value
                if strict:
                    headers["Strict-Transport-Security"] = STRICT_TRANSPORT_SECURITY
            await send(message)

        host = self._known(scope)
        # "localhost" has other servers beside the hub, at other ports, that speak no TLS; so may have a name that is not ours.
        strict = scope["scheme"] == "https" and host not in ("", "localhost")
        if not host:
            await _misdirected(tell)
            return
        await self._app(scope, receive, tell)

    def _known(self, scope: Scope) -> str:
        """The host that is asked, if it is one of ours; else ""."""
        given = [value for name, value in scope["headers"] if name == b"host"]
        match = _HOST.fullmatch(given[0].decode("latin-1")) if len(given) == 1 else None
        host = match[1].lower().strip("[]") if match else ""
        return host if host in self._hosts else ""


async def _misdirected(send: Send) -> None:
    body = b"This hub has another name: use one of its dns_names.\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": body})
