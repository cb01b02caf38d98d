"""The HTTP doors under callers that hang, drip, flood or send too much: they are cut off, others are served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from fastapi import FastAPI, Request

from trustfed.runtime import web as doors
from trustfed.runtime.sockets import listen_unix
from trustfed.runtime.web import HttpDoor


class Served:
    """A door on a Unix socket with an application that answers who asked, and how long the body was."""

    def __init__(self, folder: Path) -> None:
        app = FastAPI()

        @app.post("/length")
        async def length(request: Request) -> dict[str, object]:
            assert request.client is not None
            return {"length": len(await request.body()), "who": request.client.host}

        @app.post("/large")
        async def large(request: Request) -> dict[str, object]:
            return {"length": len(await request.body())}

        self.path = folder / "door.sock"
        self.door = HttpDoor(app, listen_unix(self.path), larger={"/large": 200_000})

    async def talk(self, *parts: bytes, pause: float = 0.0, end: bool = False) -> bytes:
        """Send these parts with pauses in between; what comes back until the door closes, or answered."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            for part in parts:
                writer.write(part)
                with contextlib.suppress(ConnectionError):  # the door may have answered and closed already
                    await writer.drain()
                await asyncio.sleep(pause)
            if end:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(65536), 20)
        finally:
            writer.close()

    async def post(self, path: str, body: bytes) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: hub\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        return await self.talk(head + body)


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    made = Served(tmp_path)
    await made.door.open()
    yield made
    await made.door.close()


async def test_the_caller_is_who_the_kernel_says(served: Served) -> None:
    answer = await served.post("/length", b"abc")
    assert b"200 OK" in answer and f'"who":"uid:{os.getuid()}"'.encode() in answer
    assert b"server:" not in answer.lower()


async def test_bodies_are_bounded_path_by_path(served: Served) -> None:
    assert b"413" in await served.post("/length", bytes(doors.MAX_BODY + 1))
    assert b"200 OK" in await served.post("/large", bytes(doors.MAX_BODY + 1))
    assert b"413" in await served.post("/large", bytes(200_001))
    chunked = b"POST /length HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b"413" in await served.talk(chunked, *([b"2000\r\n" + bytes(0x2000) + b"\r\n"] * 9))


async def test_headers_are_bounded(served: Served) -> None:
    flood = b"POST /length HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 500) for n in range(100))
    assert b"400" in await served.talk(flood)


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100, b"GET\r\n\r\n"]
)
async def test_what_is_not_http_is_refused(served: Served, junk: bytes) -> None:
    assert not (await served.talk(junk, end=True)).startswith(b"HTTP/1.1 2")
    assert b"200 OK" in await served.post("/length", b"")


async def test_who_asks_nothing_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "FIRST_REQUEST_SECONDS", 0.2)
    served = Served(tmp_path)
    await served.door.open()
    begun = time.monotonic()
    assert await served.talk(b"POST /length HT") == b""
    assert time.monotonic() - begun < 2
    await served.door.close()


async def test_a_body_that_drips_is_cut_off_while_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "BODY_SECONDS", 0.3)
    served = Served(tmp_path)
    await served.door.open()
    head = b"POST /length HTTP/1.1\r\nHost: hub\r\nContent-Length: 1000\r\n\r\n"
    dripping = [asyncio.create_task(served.talk(head, b"x", b"x", pause=0.1)) for _ in range(20)]
    await asyncio.sleep(0.05)
    assert b"200 OK" in await served.post("/length", b"quick")
    assert all(b"408" in answer for answer in await asyncio.gather(*dripping))
    await served.door.close()
