"""The gRPC server of a Unix socket or a loopback port: routes in, connections bounded, an orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable
from pathlib import Path

from trustfed.errors import Invalid
from trustfed.h2grpc.connection import Accept, Connection
from trustfed.h2grpc.deadlines import Deadlines
from trustfed.h2grpc.limits import Ledger, Limits
from trustfed.h2grpc.service import Routes
from trustfed.h2grpc.socket_file import SocketFile, listen

_SWEEP = 1.0


class GrpcServer:
    """Serves `routes` to whoever `accept` lets in.

    `accept(socket)` runs once for each connection, before any of its bytes are read. It returns who that is, or raises
    (a `trustfed.errors` error refuses quietly); it must not keep the socket. The peer's `close()` is called when the
    connection has ended.
    """

    def __init__(
        self,
        routes: Routes,
        *,
        accept: Accept,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._routes = dict(routes)
        self._accept = accept
        self._limits = limits or Limits()
        self._clock = clock
        self._connections: set[Connection] = set()
        self._sockets: list[tuple[SocketFile | None, asyncio.Server]] = []
        self._ledger: Ledger | None = None
        self._deadlines: Deadlines | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    async def serve_unix(self, path: Path, mode: int) -> None:
        """Listen at `path` with permission bits `mode` (0o777 lets every workload connect), and return.

        Raises Invalid, Conflict or Unavailable as `socket_file.listen` says. May be called for several paths.
        """
        file = listen(path, mode)
        server = await asyncio.get_running_loop().create_unix_server(self._factory(), sock=file.socket)
        self._began(file, server)

    async def serve_tcp(self, listener: socket.socket) -> None:
        """Answer on `listener`, a socket of `trustfed.runtime.sockets.listen_tcp` on loopback, and return.

        No client certificate is asked for and the kernel knows no user of such a peer: all of them count as one user.
        Raises Invalid for an address that others can reach.
        """
        if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            listener.close()
            raise Invalid("this server has no way to know its callers", hint="listen at 127.0.0.1 or [::1]")
        self._began(None, await asyncio.get_running_loop().create_server(self._factory(), sock=listener))

    def _factory(self) -> Callable[[], Connection]:
        loop = asyncio.get_running_loop()
        if self._ledger is None:
            self._ledger = Ledger(self._limits, self._clock, loop.call_soon)
        if self._deadlines is None:
            self._deadlines = Deadlines(loop)
        ledger, deadlines = self._ledger, self._deadlines
        return lambda: Connection(self._routes, self._accept, ledger, self._connections, loop, deadlines)

    def _began(self, file: SocketFile | None, server: asyncio.Server) -> None:
        self._sockets.append((file, server))
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._connections):
            connection.sweep(now)
        self._sweeping = loop.call_later(_SWEEP, self._sweep)

    async def close(self, within: float) -> None:
        """Stop: no new connections, GOAWAY to all, streams end with UNAVAILABLE.

        Calls being answered get `within` seconds; then everything is closed.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        for file, server in self._sockets:
            server.close()
            if file is not None:
                file.remove()
        self._sockets.clear()
        for connection in list(self._connections):
            connection.leave()
        while self._connections and loop.time() < end:  # noqa: ASYNC110 - once in the server's life
            await asyncio.sleep(min(0.01, within))
        for connection in list(self._connections):
            connection.cut()
        await asyncio.sleep(0)
        for connection in list(self._connections):
            connection.sweep(loop.time())
        if self._deadlines is not None:
            self._deadlines.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        await asyncio.sleep(0)
