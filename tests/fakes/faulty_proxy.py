"""A TCP proxy on loopback in front of a real server (S3, STS), which cuts, delays and answers in its place.

async with FaultyProxy("127.0.0.1", port) as proxy:   proxy.url
    proxy.mode = "refuse"       connections are closed at once
    proxy.mode = "hang"         they are accepted, and nothing comes
    proxy.mode = "lose"         requests reach the server, and its answers are lost
    proxy.mode = "cut"          an answer ends after `proxy.cut_after` bytes
    proxy.mode = "drip"         an answer comes `proxy.drip` bytes at a time, with a pause each
    proxy.answer = b"HTTP/1.1 503 ..."   is what every request gets instead
proxy.connections counts, proxy.sent keeps the end of what clients sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from types import TracebackType

_PART = 65_536
MAX_SENT = 65_536


class FaultyProxy:
    """Passes bytes through until it is told otherwise; a change counts for what comes from then on."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """`tls` ends TLS here: the server behind is spoken to without."""
        self.mode = "pass"
        self.answer = b""
        self.cut_after, self.drip, self.drip_seconds = 20, 1, 0.05
        self.connections = 0
        self.sent = b""
        self._host, self._port, self._tls = host, port, tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FaultyProxy:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=self._tls)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None
    ) -> None:
        self._server.close()
        await self.hang_up()

    async def hang_up(self) -> None:
        """End every connection there is: clients that keep theirs must make new ones."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def refuse_with(self, status: int, code: str) -> None:
        """Answer everything as an S3 server that refuses: `status` with the error code `code`."""
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>SECRET-TEXT</Message></Error>".encode()
        head = f"HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        self.answer = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "refuse":
            return
        if self.mode == "hang":
            await asyncio.sleep(3600)
        if self.answer:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
            if b"expect: 100-continue" in head.lower():
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(self.answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return
        upstream, down = await asyncio.open_connection(self._host, self._port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._up(reader, down))
                both.create_task(self._down(upstream, writer))
        except* OSError:
            pass
        finally:
            down.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while part := await reader.read(_PART):
            self.sent = (self.sent + part)[-MAX_SENT:]
            to.write(part)
            await to.drain()
        with contextlib.suppress(OSError, NotImplementedError):
            to.write_eof()

    async def _down(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        sent = 0
        while part := await reader.read(_PART):
            match self.mode:
                case "lose":
                    raise ConnectionResetError
                case "cut":
                    to.write(part[: max(self.cut_after - sent, 0)])
                    await to.drain()
                    sent += len(part)
                    if sent >= self.cut_after:
                        raise ConnectionResetError
                case "drip":
                    for at in range(0, len(part), self.drip):
                        to.write(part[at : at + self.drip])
                        await to.drain()
                        await asyncio.sleep(self.drip_seconds)
                case _:
                    to.write(part)
                    await to.drain()
        to.close()  # what is on its way still arrives
