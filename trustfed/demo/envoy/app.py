"""A service that knows nothing of TLS, and callers that do not either: their sidecars do it for them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from trustfed.runtime.sockets import parse_address

MAX_HEAD = 16_384
CALL_SECONDS = 10.0
PING = b"ping, and back"  # a sidecar that takes both waits for five bytes, to know plain text from TLS
_CALLER = b"x-forwarded-client-cert:"


class App:
    """HTTP/1.1 that tells its caller whose certificate its sidecar saw, and a TCP port that sends back what it gets.

    It serves on loopback ports of its own, in a thread, from construction to `close`.
    """

    def __init__(self) -> None:
        self._http, self._tcp = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        self.http, self.tcp = (f"127.0.0.1:{one.getsockname()[1]}" for one in (self._http, self._tcp))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="app", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, with the connections it has."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        for listener, serve in ((self._http, _answer), (self._tcp, _echo)):
            self._loop.run_until_complete(asyncio.start_server(serve, sock=listener, limit=MAX_HEAD))
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._http.close()
        self._tcp.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests without a body, one after another."""
    with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            seen = next((line for line in head.split(b"\r\n") if line.lower().startswith(_CALLER)), b"")
            names = [part[4:] for part in seen[len(_CALLER) :].strip().decode().split(";") if part.startswith("URI=")]
            body = json.dumps({"caller": names[-1] if names else None}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
    writer.transport.abort()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        while data := await reader.read(MAX_HEAD):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


def get(address: str, connection: http.client.HTTPConnection | None = None) -> tuple[int, str]:
    """Status and body of one request over plain HTTP/1.1. Raises OSError, http.client.HTTPException."""
    kept = connection or http.client.HTTPConnection(*parse_address(address), timeout=CALL_SECONDS)
    try:
        kept.request("GET", "/")
        answer = kept.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        if connection is None:
            kept.close()


def echo(address: str) -> bytes:
    """What a TCP service sends back to PING; b"" when the connection was closed without an answer. Raises OSError."""
    with socket.create_connection(parse_address(address), CALL_SECONDS) as connection:
        connection.sendall(PING)
        return connection.recv(64)


@dataclass
class Count:
    """What came of calls."""

    calls: int = 0
    failed: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def since(self, then: Count) -> Count:
        """What came of those made after `then`."""
        return Count(self.calls - then.calls, self.failed - then.failed, self.failures - then.failures)


class Load:
    """Calls at a steady rate from construction to `close`, each kind in a thread: HTTP over one connection that is kept,
    and TCP, each on a new connection (so that each is a handshake between the sidecars).
    """

    def __init__(self, http_address: str, tcp_address: str, rate: float = 20.0) -> None:
        self._rate = rate
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._counts = {"HTTP": Count(), "TCP": Count()}
        self._kept: http.client.HTTPConnection | None = None
        work = (("HTTP", lambda: self._get(http_address)), ("TCP", lambda: _echoed(tcp_address)))
        self._threads = [threading.Thread(target=self._call, args=one, name=one[0], daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Make no more calls."""
        self._ended.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS)

    def count(self) -> dict[str, Count]:
        """What came of the calls of each kind so far."""
        with self._lock:
            return {
                kind: Count(count.calls, count.failed, Counter(count.failures)) for kind, count in self._counts.items()
            }

    def _call(self, kind: str, one: Callable[[], str]) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            try:
                failure = one()
            except (OSError, http.client.HTTPException) as error:
                failure = type(error).__name__
                self._drop()
            with self._lock:
                count = self._counts[kind]
                count.calls += 1
                if failure:
                    count.failed += 1
                    count.failures[failure] += 1
            due = max(due + 1 / self._rate, time.monotonic() - 1)
            self._ended.wait(max(0.0, due - time.monotonic()))

    def _get(self, address: str) -> str:
        if self._kept is not None and self._kept.sock is not None and select.select([self._kept.sock], [], [], 0)[0]:
            self._drop()  # closed while nobody used it, as a proxy may do
        if self._kept is None:
            self._kept = http.client.HTTPConnection(*parse_address(address), timeout=CALL_SECONDS)
        status, body = get(address, self._kept)
        return "" if status == 200 else f"{status} {body[:100]}"

    def _drop(self) -> None:
        if threading.current_thread().name == "HTTP" and self._kept is not None:
            self._kept.close()
            self._kept = None


def _echoed(address: str) -> str:
    return "" if echo(address) == PING else "closed without an answer"
