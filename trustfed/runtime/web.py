"""HTTP doors that hold: uvicorn on a socket of ours, bounded in connections, header time, body bytes and body time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from trustfed.errors import Invalid, Unavailable
from trustfed.runtime.errors import PROBLEM_CONTENT_TYPE, Answer
from trustfed.runtime.sockets import has_account, peer_of

MAX_CONNECTIONS = 1_000
MAX_HEADERS = 16 * 1024
MAX_BODY = 64 * 1024
FIRST_REQUEST_SECONDS = 10.0
BODY_SECONDS = 15.0
HANDSHAKE_SECONDS = 10.0
CLOSING_SECONDS = 3
ACCOUNT_SECONDS = 10.0

_PEER = "peer:"
_ACCOUNTS = ThreadPoolExecutor(1, thread_name_prefix="accounts")
"""One that does not answer holds up those who wait for it, and no other work."""


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 that hangs up on who connects and asks nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request."""
        super().connection_made(transport)
        self.loop.call_later(FIRST_REQUEST_SECONDS, self._hang_up_if_idle)

    def _hang_up_if_idle(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class UnixProtocol(BoundedProtocol):
    """The same on a Unix socket: the client of a request is who the kernel says that it is (SO_PEERCRED); `Bounds` names it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask the kernel who connected."""
        super().connection_made(transport)
        peer = peer_of(transport.get_extra_info("socket"))
        self.client = (f"{_PEER}{peer.uid}", peer.pid)


class Bounds:
    """Reads a request's body before the application sees it: within bytes and time, or the request ends here.

    On a Unix socket the client becomes ("uid:N", pid). Of a uid that no account has it becomes ("subuid:N", pid): whoever
    that is, it is no person of its own.
    """

    def __init__(self, app: ASGIApp, larger: dict[str, int] | None = None) -> None:
        """`larger` gives paths that begin so another limit than MAX_BODY."""
        self._app, self._larger = app, larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        try:
            scope = await _named(scope)
        except TimeoutError:
            says = f"the accounts of this machine did not answer within {ACCOUNT_SECONDS:.0f} seconds"
            await _refuse(send, 503, f"{says}: who you are is not known", "unavailable")
            return
        limit = next((most for path, most in self._larger.items() if scope["path"].startswith(path)), MAX_BODY)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive, limit)
        except TimeoutError:
            await _refuse(send, 408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds")
            return
        if body is None:
            await _refuse(send, 413, f"the body is larger than {limit} bytes")
            return
        first: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(first, None) or await receive()

        await self._app(scope, replay, send)


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    tls: ssl.SSLContext | None = None,
    larger: dict[str, int] | None = None,
) -> HttpDoor:
    """An open door; `larger` gives paths that begin so another body limit than MAX_BODY."""
    door = HttpDoor(app, listener, tls=tls, larger=larger)
    await door.open()
    return door


def web_pki_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's context from PEM files, for readers that know only the Web PKI: TLS 1.2 or later. Raises Invalid."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"the certificate {certificate} and its key cannot be used: {error}") from None
    return context


class HttpDoor:
    """One application on one listening socket."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        tls: ssl.SSLContext | None = None,
        larger: dict[str, int] | None = None,
    ) -> None:
        unix = listener.family == socket.AF_UNIX
        config = uvicorn.Config(
            Bounds(app, larger),
            http=UnixProtocol if unix else BoundedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEADERS,
            timeout_graceful_shutdown=CLOSING_SECONDS,
            ssl_context_factory=(lambda _config, _default: tls) if tls else None,
        )
        self._server = _Server(config)
        self._listener = listener
        self._serving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Serve from now on. Raises Unavailable when the server ends before it began."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            if self._serving.done():
                raise Unavailable("an HTTP door could not be opened") from self._serving.exception()
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Take no more requests, and end those that are open within three seconds."""
        if self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait({self._serving})
        self._listener.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process, not to a door."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, with less patience than uvicorn has for a handshake."""
        config, loop = self.config, asyncio.get_running_loop()
        patience = HANDSHAKE_SECONDS if config.ssl else None

        def protocol() -> asyncio.Protocol:
            made = config.http_protocol_class
            return made(config=config, server_state=self.server_state, app_state={}, _loop=loop)  # type: ignore[call-arg]

        self.servers = [
            await loop.create_server(
                protocol, sock=sock, ssl=config.ssl, backlog=config.backlog, ssl_handshake_timeout=patience
            )
            for sock in sockets or ()
        ]
        self.started = True


async def _read(receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _named(scope: Scope) -> Scope:
    """The scope with its client's name; an account may be a matter of a directory far away. Raises TimeoutError."""
    host, pid = scope.get("client") or ("", 0)
    if not host.startswith(_PEER):
        return scope
    uid = int(host.removeprefix(_PEER))
    known = uid in (0, os.geteuid())
    if not known:
        async with asyncio.timeout(ACCOUNT_SECONDS):
            known = await asyncio.get_running_loop().run_in_executor(_ACCOUNTS, has_account, uid)
    return {**scope, "client": (f"{'uid' if known else 'subuid'}:{uid}", pid)}


async def _refuse(send: Send, status: int, message: str, title: str = "invalid") -> None:
    body = Answer(status, 0, 0, title, message).problem()
    headers = [(b"content-type", PROBLEM_CONTENT_TYPE.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
