"""The small HTTP door: it answers, it says no clearly, and no peer can hold it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from trustfed.errors import Conflict, Denied
from trustfed.runtime.sockets import address_of, listen_tcp, listen_unix
from trustfed.runtime.unix_http import Limits, Request, Response, serve


async def hello(request: Request) -> Response:
    peer = request.peer
    return Response.of({"query": dict(request.query), "body": request.json(), "uid": peer.uid if peer else None})


async def refuse(request: Request) -> Response:
    raise Denied("not you", hint="ask")


async def crash(request: Request) -> Response:
    raise RuntimeError("secret detail")


async def hang(request: Request) -> Response:
    await asyncio.sleep(60)
    return Response()


async def text(request: Request) -> Response:
    return Response(200, b"x" * 1000, "text/plain", {"x-more": "1"})


ROUTES = {
    ("GET", "/hello"): hello,
    ("POST", "/hello"): hello,
    ("POST", "/refuse"): refuse,
    ("GET", "/crash"): crash,
    ("GET", "/hang"): hang,
    ("GET", "/text"): text,
}
QUICK = Limits(connections=3, seconds=0.6, handler_seconds=0.6, idle_seconds=0.6)


@asynccontextmanager
async def door(folder: Path, limits: Limits | None = None) -> AsyncIterator[str]:
    path = folder / "s"
    opened = await serve(listen_unix(path), ROUTES, limits)
    try:
        yield str(path)
    finally:
        await opened.close()
        assert not path.exists()


def client(path: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=path), base_url="http://door")


async def raw(path: str, data: bytes) -> bytes:
    """What the door sends until it closes."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b"reset"
        finally:
            writer.transport.abort()


async def test_requests_on_one_connection(tmp_path: Path) -> None:
    async with door(tmp_path) as path, client(path) as http:
        first = await http.get("/hello", params={"a": "1", "b": "x y", "c": ""})
        assert first.json() == {"query": {"a": "1", "b": "x y", "c": ""}, "body": {}, "uid": os.getuid()}
        assert first.headers["content-type"] == "application/json" and first.headers["cache-control"] == "no-store"
        second = await http.post("/hello", json={"k": [1]})
        assert second.json()["body"] == {"k": [1]}
        third = await http.get("/text")
        assert third.text == "x" * 1000 and third.headers["x-more"] == "1"
        head = await http.head("/text")
        assert head.status_code == 200 and head.content == b"" and head.headers["content-length"] == "1000"


async def test_tcp_has_no_peer() -> None:
    listener = listen_tcp("127.0.0.1:0")
    opened = await serve(listener, ROUTES)
    try:
        async with httpx.AsyncClient(base_url=f"http://{address_of(listener)}") as http:
            assert (await http.get("/hello")).json()["uid"] is None
    finally:
        await opened.close()


async def test_refusals_are_problem_details(tmp_path: Path) -> None:
    async with door(tmp_path, QUICK) as path, client(path) as http:
        for method, target, status, said in (
            ("POST", "/refuse", 403, "not you"),
            ("GET", "/none", 404, "/none"),
            ("GET", "/hello/", 404, "/hello/"),
            ("DELETE", "/hello", 405, "GET, POST"),
            ("GET", "/crash", 500, "internal error"),
            ("GET", "/hang", 503, "too long"),
        ):
            answer = await http.request(method, target)
            assert answer.status_code == status, target
            assert answer.headers["content-type"] == "application/problem+json"
            assert said in answer.json()["detail"] and "secret" not in answer.text
        for body in (b"{", b"[]", b"5", b"\xff", b"[" * 20_000):
            assert (await http.post("/hello", content=body)).status_code == 400


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /hello HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000, 431),
        (b"POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 65537\r\n\r\n" + b"x" * 65_537, 413),
        (b"GET /hello?" + b"a&" * 60 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (
            b"POST /hello HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            + b"4000\r\n"
            + b"x" * 0x4000
            + b"\r\n"
            b"4000\r\n" + b"x" * 0x4000 + b"\r\n4000\r\n" + b"x" * 0x4000 + b"\r\n5000\r\n" + b"x" * 0x5000 + b"\r\n",
            413,
        ),
    ],
)
async def test_what_is_no_request(tmp_path: Path, sent: bytes, status: int) -> None:
    async with door(tmp_path) as path:
        answer = await raw(path, sent)
        # A peer that is still sending when the door closes may lose the answer, never the refusal.
        assert answer == b"reset" or answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
        assert b"HTTP/1.1 200" not in answer
        async with client(path) as http:
            assert (await http.get("/hello")).status_code == 200


async def test_slow_peers_are_let_go(tmp_path: Path) -> None:
    async with door(tmp_path, QUICK) as path:
        for begun in (b"", b"GET /hel", b"POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab"):
            assert await raw(path, begun) in (b"", b"reset")


async def test_too_many_connections(tmp_path: Path) -> None:
    async with door(tmp_path, Limits(connections=3)) as path:
        held = [await asyncio.open_unix_connection(path) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert await raw(path, b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n") in (b"", b"reset")
        held.pop()[1].close()
        await asyncio.sleep(0.02)
        async with client(path) as http:
            assert (await http.get("/hello")).status_code == 200
        for _, writer in held:
            writer.close()


async def test_pipelined_and_expecting(tmp_path: Path) -> None:
    one = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
    async with door(tmp_path) as path:
        answer = await raw(path, one + one + last + b"{}")
        assert answer.count(b"HTTP/1.1 200") == 3


async def test_close_lets_a_running_handler_end(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def brief(request: Request) -> Response:
        begun.set()
        await asyncio.sleep(0.05)
        return Response.of("done")

    opened = await serve(listen_unix(tmp_path / "s"), {("GET", "/brief"): brief})
    asked = asyncio.create_task(raw(str(tmp_path / "s"), b"GET /brief HTTP/1.1\r\nhost: x\r\n\r\n"))
    await begun.wait()
    await opened.close()
    assert json.loads((await asked).split(b"\r\n\r\n")[1]) == "done"
    listen_unix(tmp_path / "s").close()


async def test_second_door_is_refused(tmp_path: Path) -> None:
    async with door(tmp_path) as path:
        with pytest.raises(Conflict):
            listen_unix(Path(path))
