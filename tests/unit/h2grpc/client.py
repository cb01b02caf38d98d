"""A raw HTTP/2 client for the tests: h2 on an asyncio stream, with the frames in the test's hand."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import h2.config
import h2.connection
import h2.events
from hyperframe.frame import Frame, GoAwayFrame

from trustfed.errors import Denied
from trustfed.h2grpc.limits import Limits
from trustfed.h2grpc.server import GrpcServer
from trustfed.h2grpc.service import Bidi, Call, Feed, Handler, ServerStream, Unary, Watch

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/Unary"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def framed(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BL", flag, len(message)) + message


def headers(path: str = "/test.Echo/Unary", *more: tuple[str, str], **changed: str | None) -> list[tuple[str, str]]:
    """The usual request headers; `method=None` leaves one out, `te="x"` changes one."""
    found = []
    for name, value in HEADERS:
        key = name.lstrip(":").replace("-", "_")
        wanted = changed.get(key, path if name == ":path" else value)
        if wanted is not None:
            found.append((name, wanted))
    return [*found, *more]


def descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def settled_descriptors() -> int:
    """The same, once what earlier tests left to the collector is closed: a base that nobody else lowers meanwhile."""
    gc.collect()
    return descriptors()


class TestPeer:
    __test__ = False

    def __init__(self, uid: int, log: list[str]) -> None:
        self.uid = uid
        self.log = log
        log.append("accepted")

    def close(self) -> None:
        self.log.append("closed")


class Echo:
    """A service with one method of each shape, and a record of what happened."""

    def __init__(self) -> None:
        self.feeds: list[Feed] = []
        self.released = 0
        self.cancelled = 0
        self.calls: list[Call] = []
        self.peers: list[str] = []
        self.pulled = 0

    def unary(self, call: Call, message: bytes) -> bytes:
        self.calls.append(call)
        if message == b"denied":
            raise Denied("no identity for you", hint="ask for 50 % more")
        if message == b"broken":
            raise ValueError("a secret detail")
        return message

    async def slow(self, call: Call, message: bytes) -> bytes:
        self.calls.append(call)
        try:
            await asyncio.sleep(float(message or b"60"))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b"slept"

    def watch(self, call: Call, message: bytes, feed: Feed) -> Callable[[], None]:
        self.feeds.append(feed)
        if message:
            feed.send(message)

        def release() -> None:
            self.released += 1
            self.feeds.remove(feed)

        return release

    async def count(self, call: Call, message: bytes) -> AsyncIterator[bytes]:
        try:
            for number in range(int(message)):
                self.pulled = number
                yield b"%d" % number + b"." * 1000
        finally:
            self.cancelled += 1

    async def bidi(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message[::-1]

    def routes(self) -> dict[str, Handler]:
        return {
            "/test.Echo/Unary": Unary(self.unary),
            "/test.Echo/Slow": Unary(self.slow),
            "/test.Echo/Watch": Watch(self.watch),
            "/test.Echo/Count": ServerStream(self.count),
            "/test.Echo/Bidi": Bidi(self.bidi),
        }


@asynccontextmanager
async def serving(directory: Path, limits: Limits | None = None) -> AsyncIterator[tuple[GrpcServer, Echo, Path]]:
    echo = Echo()
    server = GrpcServer(echo.routes(), accept=lambda _: TestPeer(os.getuid(), echo.peers), limits=limits)
    path = directory / "s.sock"
    await server.serve_unix(path, 0o777)
    try:
        yield server, echo, path
    finally:
        await server.close(0.1)


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    # Not settimeout: that makes it non-blocking, and a full backlog is then refused instead of waited for.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))
    connection.connect(str(path))
    connection.setblocking(False)
    return connection


class RawClient:
    """One connection: `http2` makes frames, `write` sends them, `until` reads events until one fits."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.http2 = h2.connection.H2Connection(config=config)
        self.http2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.ended = False

    @classmethod
    async def connect(cls, path: Path) -> RawClient:
        # Blocking: where the backlog is full, asyncio takes "try again" for "in progress" and ends up not connected.
        connection = await asyncio.to_thread(_connected, path)
        return cls(*await asyncio.open_unix_connection(sock=connection))

    def flush(self) -> None:
        self.writer.write(self.http2.data_to_send())

    def call(self, head: list[tuple[str, str]], body: bytes | None, *, end: bool = True) -> int:
        stream: int = self.http2.get_next_available_stream_id()
        self.http2.send_headers(stream, head, end_stream=body is None and end)
        if body is not None:
            self.http2.send_data(stream, body, end_stream=end)
        return stream

    async def read(self, seconds: float = 20.0) -> bool:
        """Read once; False at the end of the connection."""
        try:
            data = await asyncio.wait_for(self.reader.read(65536), seconds)
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
            return False
        self.events += self.http2.receive_data(data)
        self.flush()
        return True

    async def until(self, *kinds: type[h2.events.Event]) -> h2.events.Event:
        while True:
            for event in self.events:
                if isinstance(event, kinds):
                    return event
            if not await self.read():
                raise AssertionError(f"closed before {kinds}; saw {self.events}")

    async def outcome(self, stream: int) -> tuple[dict[str, str], bytes]:
        """Trailers (or trailers-only headers) and body of a stream."""
        while True:
            found: dict[str, str] = {}
            body = b""
            for event in self.events:
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found.update(dict(event.headers or []))
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    return found, body
                elif isinstance(event, h2.events.StreamReset):
                    return {"reset": str(int(event.error_code or 0)), **found}, body
            if not await self.read():
                raise AssertionError(f"closed before stream {stream} ended; saw {self.events}")

    async def goaway(self) -> int:
        """Read to the end of the connection: the error code of the GOAWAY before it, -1 without one."""
        raw = b""
        while True:
            try:
                chunk = await asyncio.wait_for(self.reader.read(65536), 20)
            except ConnectionError:
                # The server closed with something unread: the error comes before what it had said, which is here all the same.
                raw += bytes(self.reader._buffer)  # type: ignore[attr-defined]
                break
            if not chunk:
                break
            raw += chunk
        code = -1
        while len(raw) >= 9:
            frame, size = Frame.parse_frame_header(memoryview(raw)[:9])
            frame.parse_body(memoryview(raw)[9 : 9 + size])
            raw = raw[9 + size :]
            if isinstance(frame, GoAwayFrame):
                code = frame.error_code
        return code

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()
