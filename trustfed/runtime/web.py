"""FastAPI applications on sockets of ours: TLS from an SVID, the caller of a Unix socket, our errors, bounded bodies."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from trustfed.errors import Invalid, NotFound, TrustfedError
from trustfed.runtime.errors import PROBLEM_CONTENT_TYPE, answer
from trustfed.runtime.sockets import peer_of

MAX_BODY = 256 * 1024
_CONNECTIONS = 512
_IDLE_SECONDS = 30
_CLOSE_SECONDS = 3

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _PeerProtocol(H11Protocol):
    """HTTP/1.1 that knows which uid is at the other end of a Unix socket: it becomes the client's "host"."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family == socket.AF_UNIX:
            self.client = (f"uid:{peer_of(connection).uid}", 0)


class _Server(uvicorn.Server):
    """uvicorn on a socket that is already open; signals stay the process's own."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._listener, self._context = listener, context

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = _PeerProtocol(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        if self._listener.family == socket.AF_UNIX:
            server: asyncio.AbstractServer = await loop.create_unix_server(protocol, sock=self._listener)
        else:
            handshake = 5.0 if self._context else None
            server = await loop.create_server(
                protocol, sock=self._listener, ssl=self._context, ssl_handshake_timeout=handshake
            )
        self.servers = [server]  # type: ignore[list-item]
        self.started = True


class WebDoor:
    """An application that is being served until `close()`."""

    def __init__(self, server: _Server, task: asyncio.Task[None]) -> None:
        self._server, self._task = server, task

    async def close(self) -> None:
        """Stop listening, let requests that run end within seconds."""
        self._server.should_exit = True
        await asyncio.wait([self._task], timeout=_CLOSE_SECONDS + 1)


async def serve(app: FastAPI, listener: socket.socket, context: ssl.SSLContext | None = None) -> WebDoor:
    """Serve `app` on `listener`; returns once it answers."""
    config = uvicorn.Config(
        BoundedBody(app),
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
        h11_max_incomplete_event_size=32 * 1024,
    )
    server = _Server(config, listener, context)
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            task.result()
        await asyncio.sleep(0.005)
    return WebDoor(server, task)


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


def our_errors(app: FastAPI) -> None:
    """Every refusal leaves as problem details (RFC 9457): ours, the framework's, and what nobody expected."""

    @app.exception_handler(TrustfedError)
    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> Response:
        said = answer(error)
        return Response(said.problem(), said.http_status, media_type=PROBLEM_CONTENT_TYPE)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        said = answer(Invalid(f"{place[:80]}: {first['msg'][:200]}"))
        return Response(said.problem(), said.http_status, media_type=PROBLEM_CONTENT_TYPE)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            said = answer(NotFound(f"{request.url.path[:120]!r} is not a path here"))
        else:
            said = answer(Invalid(str(error.detail)[:200]))
        return Response(said.problem(), error.status_code, headers=error.headers, media_type=PROBLEM_CONTENT_TYPE)


class BoundedBody:
    """Refuses a request body beyond MAX_BYTES, announced or not, before the application holds it."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken = 0
        over = answer(Invalid(f"the request body has more than {MAX_BODY} bytes"))
        started = False

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY:
                raise _TooLarge
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if not length.isdigit() or len(length) > 12 or int(length) > MAX_BODY:
                raise _TooLarge
            await self._app(scope, bounded, watched)
        except _TooLarge:
            if started:
                raise
            headers = [(b"content-type", PROBLEM_CONTENT_TYPE.encode()), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 413, "headers": headers})
            await send({"type": "http.response.body", "body": over.problem()})


class _TooLarge(BaseException):
    """Passes through the application's own error handlers."""
