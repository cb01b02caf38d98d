"""A TCP proxy on loopback that misbehaves when told to: between an agent and its cluster, a cluster and the hub.

    async with Proxy(("127.0.0.1", port)) as proxy:
        dial(proxy.address)
        proxy.fault = Fault(up=HOLD)          what the dialler says does not arrive, without an error anywhere
        proxy.fault = Fault(up=0.2, down=0.2)  200 ms each way
        proxy.fault = Fault(cut=True)          open connections are reset, new ones too
        proxy.fault = PASS

`HOLD` is a network that swallows: nothing arrives, and when it is over what was held arrives late, as TCP would send it
again. Bounds: connections, bytes held per connection and direction, and a life after which the proxy ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from dataclasses import dataclass
from types import TracebackType

HOLD = math.inf
"""A delay that does not end."""
CONNECTIONS = 512
CHUNK = 16 * 1024
LIFE_SECONDS = 3600.0
_DIAL_SECONDS = 5.0
_STEP = 0.02
_LINGER_NOT = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """What is wrong now. `up` and `down` are delays in seconds of each chunk from and to the dialler; `drip` is bytes a step of
    20 ms each way, 0 for no limit; `cut` resets what is open and whatever is opened.
    """

    up: float = 0.0
    down: float = 0.0
    drip: int = 0
    cut: bool = False


PASS = Fault()


class Proxy:
    """Passes connections on to `target`, (host, port), with the faults of `fault`. `accepted` counts connections."""

    def __init__(self, target: tuple[str, int], *, port: int = 0, life: float = LIFE_SECONDS) -> None:
        self._target, self._port, self._life = target, port, life
        self._fault = PASS
        self._changed = asyncio.Event()
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._end: asyncio.TimerHandle | None = None
        self.accepted = self.refused = 0

    async def __aenter__(self) -> Proxy:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> Proxy:
        """Listen on loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, limit=CHUNK)
        self._port = self._server.sockets[0].getsockname()[1]
        self._end = asyncio.get_running_loop().call_later(self._life, self._stop)
        return self

    @property
    def address(self) -> str:
        """HOST:PORT to dial."""
        return f"127.0.0.1:{self._port}"

    @property
    def open(self) -> int:
        """Connections that are up."""
        return len(self._links)

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if fault.cut:
            self.reset()

    def reset(self) -> None:
        """Reset what is open; new connections pass."""
        for link in self._links:
            link.cancel()

    async def close(self) -> None:
        """Stop listening, reset what is open."""
        self._stop()
        if self._links:
            await asyncio.wait(set(self._links))
        if self._server is not None:
            await self._server.wait_closed()

    def _stop(self) -> None:
        if self._end is not None:
            self._end.cancel()
        if self._server is not None:
            self._server.close()
        self.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault.cut or len(self._links) >= CONNECTIONS:
            self.refused += 1
            _abort(writer)
            return
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            await self._link(reader, writer)
        except asyncio.CancelledError:
            pass  # a reset; the task ends with its connection
        finally:
            self._links.discard(task)
            _abort(writer)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                far_reader, far_writer = await asyncio.open_connection(*self._target, limit=CHUNK)
        except (OSError, TimeoutError):
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, far_writer, up=True))
                both.create_task(self._pass(far_reader, writer, up=False))
        except* (OSError, ConnectionError):
            pass  # either end has gone
        finally:
            _abort(far_writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        """One direction. A chunk that is read waits here, and what comes behind it in the sender's buffers."""
        loop = asyncio.get_running_loop()
        while data := await reader.read(CHUNK):
            came = loop.time()
            while (wait := came + self._delay(up) - loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), None if math.isinf(wait) else wait)
            while data and (step := self._fault.drip):
                writer.write(data[:step])
                await writer.drain()
                data = data[step:]
                await asyncio.sleep(_STEP)
            writer.write(data)
            await writer.drain()
        # The end of a stream is news too, and waits like the rest.
        while math.isinf(self._delay(up)):
            await self._changed.wait()
        if writer.can_write_eof():
            writer.write_eof()

    def _delay(self, up: bool) -> float:
        return self._fault.up if up else self._fault.down


def _abort(writer: asyncio.StreamWriter) -> None:
    """End it with a reset (SO_LINGER 0): the other side is told that something went wrong."""
    transport_socket = writer.get_extra_info("socket")
    if transport_socket is not None:
        with contextlib.suppress(OSError):
            transport_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
