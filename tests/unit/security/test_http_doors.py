"""What every HTTP door refuses: cookies, hostile names, bodies beyond their bound, documents without a bottom."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI, Request

from tests.unit.hub.hub_parts import ADMIN, HubParts
from trustfed.hub.public import API, admin_app, https_app
from trustfed.runtime import web
from trustfed.runtime.sockets import listen_tcp

HOSTILE = (
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "a b",
    "spiffe://west/x",
    "WEST",
    "west\r\nSet-Cookie: a=b",
    "{{7*7}}",
    "x" * 5_000,
)


@pytest.fixture
async def hub() -> AsyncIterator[HubParts]:
    made = await HubParts.make()
    yield made
    await made.close()


def _client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=("uid:7", 1)), base_url="https://hub")


async def test_no_door_takes_or_sets_a_cookie(hub: HubParts) -> None:
    """Without ambient authority a page in somebody's browser can command nothing."""
    _, text = await hub.operations.issue_token(ADMIN, "ci", "admin", timedelta(hours=1))
    async with _client(https_app(hub.parts(), timedelta(days=1), lambda: True)) as client:
        for name in ("Authorization", "token", "session"):
            answer = await client.get(f"{API}/whoami", headers={"Cookie": f"{name}=Bearer {text}"})
            assert answer.status_code == 401
        for path in (f"{API}/whoami", "/live", "/bundle-map", "/v1/nonce", "/nothing"):
            answer = await client.get(path, headers={"Authorization": f"Bearer {text}"})
            assert "set-cookie" not in answer.headers
            assert "access-control-allow-origin" not in answer.headers
        answer = await client.post(f"{API}/domains", headers={"Origin": "https://evil.example"}, json={})
        assert answer.status_code == 401


async def test_hostile_names_come_back_as_json_or_not_at_all(hub: HubParts) -> None:
    """A name is refused by its grammar, and what an error repeats of it is inert JSON, never markup."""
    async with _client(admin_app(hub.parts(), lambda: True)) as client:
        for name in HOSTILE:
            for answer in (
                await client.post("/domains", json={"name": name, "owner": "team"}),
                await client.get(f"/domains/{quote(name, safe='')}"),
                await client.post("/grants", json={"importer": name, "exporter": "a", "until": name, "reason": "x"}),
            ):
                assert 400 <= answer.status_code < 500, (name, answer.text)
                assert answer.headers["content-type"].startswith("application/problem+json")
                assert "detail" in answer.json() and len(answer.content) < 1_000
        assert not hub.state.domains and not hub.state.grants


async def test_a_body_beyond_its_bound_is_refused() -> None:
    """Announced or not, more bytes than the bound end the request with 413 before an application holds them."""
    app, held = FastAPI(), []

    @app.post("/take")
    async def take(request: Request) -> dict[str, int]:
        held.append(await request.body())
        return {"bytes": len(held[-1])}

    listener = listen_tcp("127.0.0.1:0")
    port = listener.getsockname()[1]
    most = web.MAX_BODY
    door = await web.serve(app, listener)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.post("/take", content=b"x" * most)).json() == {"bytes": most}
            refused = await client.post("/take", content=b"x" * (most + 1))
            assert refused.status_code == 413
            assert refused.headers["content-type"].startswith("application/problem+json")
        # In chunks, with no length announced; and for ever, which is cut and not collected.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n" % 8192 + b"x" * 8192 + b"\r\n"
        for _ in range(most // 8192 + 2):
            writer.write(chunk)
        status = await asyncio.wait_for(reader.readline(), 20)
        assert b" 413 " in status
        writer.close()
        assert [len(body) for body in held] == [most]
    finally:
        await door.close()


async def test_a_document_without_a_bottom_is_one_clear_error(hub: HubParts) -> None:
    """JSON nested beyond reason neither exhausts the stack nor becomes an internal error."""
    async with _client(admin_app(hub.parts(), lambda: True)) as client:
        for body in (b"[" * 30_000, b'{"name":' * 5_000, b"{" * 30_000, b'"\\ud800"', b"\xff\xfe"):
            answer = await client.post("/domains", content=body, headers={"Content-Type": "application/json"})
            assert 400 <= answer.status_code < 500, answer.text
            assert "internal" not in answer.text
        enrol = https_app(hub.parts(), timedelta(days=1), lambda: True)
    async with _client(enrol) as client:
        for body in (b"[" * 30_000, json.dumps({"token": "x" * 60_000}).encode(), b""):
            answer = await client.post("/v1/enrol", content=body)
            assert answer.status_code == 400, answer.text


async def test_who_is_silent_at_the_handshake_is_let_go_and_others_are_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hundreds of connections that never say a word, or say nonsense, cost others nothing and end in time."""
    monkeypatch.setattr(web, "HANDSHAKE_SECONDS", 1.0)
    certificate, key = tmp_path / "door.pem", tmp_path / "door.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=localhost", "-days", "2", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    app = FastAPI()

    @app.get("/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    listener = listen_tcp("127.0.0.1:0")
    port = listener.getsockname()[1]
    door = await web.serve(app, listener, web.web_pki_context(certificate, key))
    idle = []
    try:
        for number in range(300):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if number % 3 == 0:
                writer.write(b"\x16\x03\x01\x02\x00" if number % 2 else b"GET / HTTP/1.1\r\n\r\n")
            idle.append((reader, writer))
        async with httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=False) as client:
            for _ in range(20):
                assert (await client.get("/live")).json() == {"live": True}
        async with asyncio.timeout(10):
            for reader, _ in idle:
                with contextlib.suppress(ConnectionError):
                    await reader.read()  # whatever it says, it ends
    finally:
        for _, writer in idle:
            writer.close()
        await door.close()
