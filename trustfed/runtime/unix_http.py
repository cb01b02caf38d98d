"""A small HTTP/1.1 door for admin commands and health: exact routes; every size, count and time bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import h11

from trustfed.errors import Invalid, NotFound
from trustfed.runtime import errors
from trustfed.runtime.sockets import Peer, peer_of

MAX_QUERY_FIELDS = 50
_CLOSE_SECONDS = 1.0


@dataclass(frozen=True)
class Request:
    """One request: `path` without the query, `peer` None over TCP."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    peer: Peer | None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object ({} if it is empty). Raises Invalid."""
        if not self.body:
            return {}
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            raise Invalid(f"the body of {self.method} {self.path} is not JSON") from None
        if not isinstance(value, dict):
            raise Invalid(f"the body of {self.method} {self.path} is not a JSON object")
        return value


@dataclass(frozen=True)
class Response:
    """One answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: object, status: int = 200) -> Response:
        """`value` as JSON."""
        return cls(status, json.dumps(value).encode() + b"\n")


Handler = Callable[[Request], Awaitable[Response]]
Routes = Mapping[tuple[str, str], Handler]
"""(method, path) → handler. HEAD is answered by GET's."""


@dataclass(frozen=True)
class Limits:
    """What one door grants: connections at once, bytes of a head and a body, seconds for each step."""

    connections: int = 64
    head_bytes: int = 16_384
    body_bytes: int = 65_536
    seconds: float = 10.0
    handler_seconds: float = 30.0
    idle_seconds: float = 60.0


class Door:
    """An open door; `close()` ends it and its connections."""

    def __init__(self, listener: socket.socket, routes: Routes, limits: Limits) -> None:
        self._listener, self._routes, self._limits = listener, routes, limits
        self._file = listener.getsockname() if listener.family == socket.AF_UNIX else None
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Begin to answer."""
        self._server = await asyncio.start_server(self._connected, sock=self._listener, limit=65_536)

    async def close(self) -> None:
        """Stop listening, let running handlers end within a second, close the rest; a Unix socket's file is removed."""
        if self._server:
            self._server.close()
        ending = dict(self._connections)
        for task, connection in ending.items():
            connection.last = True
            if not connection.busy:
                task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=_CLOSE_SECONDS)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._file:
            _remove(Path(os.fsdecode(self._file)))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= self._limits.connections:
            writer.transport.abort()
            return
        self._connections[task] = connection = _Connection(reader, writer, self._routes, self._limits)
        try:
            await connection.serve()
        except (TimeoutError, OSError):
            pass  # too slow, or gone: the peer's affair
        finally:
            self._connections.pop(task, None)
            writer.transport.abort()


async def serve(listener: socket.socket, routes: Routes, limits: Limits | None = None) -> Door:
    """Answer on a socket of `trustfed.runtime.sockets` until `close()`. A handler's error becomes problem details."""
    door = Door(listener, routes, limits or Limits())
    await door.open()
    return door


class _Connection:
    """One peer, request after request."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, routes: Routes, limits: Limits
    ) -> None:
        self._reader, self._writer, self._routes, self._limits = reader, writer, routes, limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self.busy = False  # a request is being answered
        self.last = False  # no request after this one
        raw = writer.get_extra_info("socket")
        self._peer = peer_of(raw) if raw is not None and raw.family == socket.AF_UNIX else None

    async def serve(self) -> None:
        wait = self._limits.seconds
        while True:
            try:
                request = await self._request(wait)
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint, str(error))
                return
            if request is None:
                return
            self.busy = True
            await self._send(request.method, await self._answer(request))
            self.busy = False
            if self.last or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()
            wait = self._limits.idle_seconds

    async def _request(self, wait: float) -> Request | None:
        """The next request; None when the peer is done. Raises TimeoutError."""
        head = await self._event(wait)
        if not isinstance(head, h11.Request):
            return None
        body = bytearray()
        async with asyncio.timeout(self._limits.seconds):
            while isinstance(event := await self._event(self._limits.seconds), h11.Data):
                body += event.data
                if len(body) > self._limits.body_bytes:
                    raise h11.RemoteProtocolError(
                        f"the body has more than {self._limits.body_bytes} bytes", error_status_hint=413
                    )
        if not isinstance(event, h11.EndOfMessage):
            return None
        path, _, query = head.target.decode("ascii", "replace").partition("?")
        try:
            fields = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
        except ValueError:
            raise h11.RemoteProtocolError("the query has too many fields") from None
        return Request(head.method.decode("ascii"), path, fields, bytes(body), self._peer)

    async def _event(self, seconds: float) -> object:
        """The next event. Its first byte may take `seconds`; once it has begun, the rest has the time of a request."""
        begun = False
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
            async with asyncio.timeout_at(deadline):
                data = await self._reader.read(65_536)
            self._http.receive_data(data)
            if not begun:
                begun = True
                deadline = min(deadline, asyncio.get_running_loop().time() + self._limits.seconds)

    async def _answer(self, request: Request) -> Response:
        try:
            method = "GET" if request.method == "HEAD" else request.method
            handler = self._routes.get((method, request.path))
            if handler is None:
                allowed = sorted(known for known, path in self._routes if path == request.path)
                if allowed:
                    return Response(405, _problem(405, f"{request.path} allows {', '.join(allowed)}"), _PROBLEM)
                raise NotFound(f"there is no {request.path[:200]} here")
            async with asyncio.timeout(self._limits.handler_seconds):
                return await handler(request)
        except TimeoutError:
            return Response(503, _problem(503, f"{request.path} took too long"), _PROBLEM)
        except Exception as error:
            answer = errors.answer(error)
            return Response(answer.http_status, answer.problem(), _PROBLEM)

    async def _send(self, method: str, response: Response) -> None:
        headers = {
            "content-type": response.content_type,
            "content-length": str(len(response.body)),
            "cache-control": "no-store",
            **response.headers,
        }
        data = self._http.send(h11.Response(status_code=response.status, headers=list(headers.items()))) or b""
        if method != "HEAD":
            data += self._http.send(h11.Data(data=response.body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._write(data)

    async def _refuse(self, status: int, reason: str) -> None:
        """Answer what cannot be understood, once, and close."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send("GET", Response(status, _problem(status, reason), _PROBLEM, {"connection": "close"}))

    async def _write(self, data: bytes | None) -> None:
        if data:
            self._writer.write(data)
            async with asyncio.timeout(self._limits.seconds):
                await self._writer.drain()


_PROBLEM = errors.PROBLEM_CONTENT_TYPE


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _problem(status: int, detail: str) -> bytes:
    return json.dumps({"title": "invalid", "status": status, "detail": detail}).encode()
