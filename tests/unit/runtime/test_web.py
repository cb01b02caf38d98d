"""The FastAPI door and the HTTPS client, against each other over real TLS and real Unix sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from tests.fakes.world import DomainWorld
from trustfed.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from trustfed.runtime import https_client, web
from trustfed.runtime.https_client import Server
from trustfed.runtime.problems import map_errors
from trustfed.runtime.sockets import listen_tcp, listen_unix
from trustfed.runtime.tls import ReloadingContext, client_context
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.x509svid import parse_leaf


def application() -> FastAPI:
    app = FastAPI(openapi_url=None)
    map_errors(app)

    @app.get("/who")
    async def who(request: Request) -> dict[str, str]:
        return {"who": request.client.host if request.client else ""}

    @app.post("/size")
    async def size(request: Request) -> dict[str, int]:
        return {"size": len(await request.body())}

    @app.get("/refuse")
    async def refuse() -> None:
        raise Conflict("the thing moved", hint="look again")

    @app.get("/break")
    async def break_() -> None:
        raise RuntimeError("secret detail")

    @app.get("/endless")
    async def endless() -> Response:
        return Response(b"x" * (https_client.MAX_ANSWER + 10))

    return app


def uds(path: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://door")


async def test_a_unix_socket_names_the_uid_of_its_caller(tmp_path: Path) -> None:
    door = await web.serve(application(), listen_unix(tmp_path / "s"))
    async with uds(tmp_path / "s") as client:
        assert (await client.get("/who")).json() == {"who": f"uid:{os.getuid()}"}
    await door.close()


async def test_refusals_are_problem_details_with_a_hint(tmp_path: Path) -> None:
    door = await web.serve(application(), listen_unix(tmp_path / "s"))
    async with uds(tmp_path / "s") as client:
        answer = await client.get("/refuse")
        assert answer.status_code == 409
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json()["detail"] == "the thing moved"
        assert answer.json()["hint"] == "look again"
        assert (await client.get("/nowhere")).json()["status"] == 404
        assert (await client.delete("/refuse")).status_code == 405
    await door.close()


async def test_what_nobody_expected_is_opaque(tmp_path: Path) -> None:
    door = await web.serve(application(), listen_unix(tmp_path / "s"))
    async with uds(tmp_path / "s") as client:
        answer = await client.get("/break")
        assert answer.status_code == 500
        assert "secret detail" not in answer.text
        assert answer.json()["error_id"]
    await door.close()


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_beyond_the_bound_is_refused_announced_or_not(tmp_path: Path, announced: bool) -> None:
    door = await web.serve(application(), listen_unix(tmp_path / "s"))
    body = b"x" * (web.MAX_BODY + 1)

    async def chunks() -> object:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    async with uds(tmp_path / "s") as client:
        answer = await client.post("/size", content=body if announced else chunks())  # type: ignore[arg-type]
        assert answer.status_code == 413
        assert (await client.post("/size", content=body[:-1])).json() == {"size": web.MAX_BODY}
    await door.close()


async def test_a_request_head_without_end_is_cut(tmp_path: Path) -> None:
    door = await web.serve(application(), listen_unix(tmp_path / "s"))
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
    writer.write(b"GET /who HTTP/1.1\r\nHost: door\r\nX: " + b"a" * 100_000)
    answer = await asyncio.wait_for(reader.read(1000), 20)
    assert answer.startswith(b"HTTP/1.1 400") or answer == b""
    writer.close()
    await door.close()


async def tls_door() -> tuple[DomainWorld, web.HttpDoor, int]:
    world = await DomainWorld.make("west")
    context = ReloadingContext(await world.svid("/trustfed/cluster"), (), client="none")
    listener = listen_tcp("127.0.0.1:0")
    port = listener.getsockname()[1]
    return world, await web.serve(application(), listener, context.context), port


def only(expected: SpiffeId) -> https_client.Verify:
    def verify(chain: tuple[bytes, ...]) -> None:
        if parse_leaf(chain[0]).id != expected:
            raise Denied("another server")

    return verify


async def test_the_client_reaches_the_server_it_means_and_no_other() -> None:
    world, door, port = await tls_door()
    context = client_context(None, (world.root.certificate,))
    right = SpiffeId.of(world.trust_domain, "/trustfed/cluster")
    good = Server("127.0.0.1", port, context, only(right))
    assert b"127.0.0.1" in await asyncio.to_thread(https_client.get, good, "/who")
    assert (await asyncio.to_thread(https_client.post, good, "/size", {"a": 1}))["size"] == 8
    wrong = Server("127.0.0.1", port, context, only(SpiffeId.of(world.trust_domain, "/trustfed/hub")))
    with pytest.raises(Denied, match="another server"):
        await asyncio.to_thread(https_client.get, wrong, "/who")
    stranger = await DomainWorld.make("west")
    elsewhere = Server("127.0.0.1", port, client_context(None, (stranger.root.certificate,)), only(right))
    with pytest.raises(Unavailable, match="cannot be reached"):
        await asyncio.to_thread(https_client.get, elsewhere, "/who")
    await door.close()


async def test_the_clients_errors_are_the_servers() -> None:
    world, door, port = await tls_door()
    server = Server("127.0.0.1", port, client_context(None, (world.root.certificate,)), None)
    with pytest.raises(Conflict, match="the thing moved"):
        await asyncio.to_thread(https_client.get, server, "/refuse")
    with pytest.raises(NotFound):
        await asyncio.to_thread(https_client.get, server, "/nowhere")
    with pytest.raises(Invalid, match="more than"):
        await asyncio.to_thread(https_client.get, server, "/endless")
    await door.close()


async def test_nobody_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server("127.0.0.1", port, https_client.pinned_content_context(), None, timeout=2)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await asyncio.to_thread(https_client.get, server, "/")
