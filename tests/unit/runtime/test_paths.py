"""Paths: what a handler is given from a path and a query, what it may answer, and what is refused before it is called."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from trustfed.runtime.paths import Paths
from trustfed.runtime.problems import map_errors


def application() -> Paths:
    app = Paths()
    map_errors(app)

    @app.get("/things")
    @app.get("/items")
    async def listed(after: str = "", limit: int = 100, broken: bool = False) -> dict[str, object]:
        return {"after": after, "limit": limit, "broken": broken}

    @app.get("/things/{position}")
    async def one(position: int) -> dict[str, int]:
        return {"position": position}

    @app.put("/things/{name}/{part}")
    async def put(part: str, name: str, request: Request) -> Response:
        return Response(f"{name} {part} ".encode() + await request.body(), 201)

    @app.delete("/things/{name}/{part}")
    async def deleted(name: str, part: str) -> list[str]:
        return [name, part]

    @app.post("/fail")
    async def fail() -> None:
        raise RuntimeError("a secret")

    return app


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as made:
        yield made


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"after": "", "limit": 100, "broken": False}),
        ("?after=a%2Fb%20c&limit=-3&broken=true", {"after": "a/b c", "limit": -3, "broken": True}),
        ("?limit=1&limit=2&broken=0&other=x", {"after": "", "limit": 2, "broken": False}),
    ],
)
async def test_a_query_gives_what_it_names(client: httpx.AsyncClient, query: str, found: dict[str, object]) -> None:
    for path in ("/things", "/items"):
        answer = await client.get(path + query)
        assert (answer.status_code, answer.json()) == (200, found)


async def test_a_path_gives_its_segments_by_name(client: httpx.AsyncClient) -> None:
    assert (await client.get("/things/7")).json() == {"position": 7}
    answer = await client.put("/things/a%20b/c", content=b"body")
    assert (answer.status_code, answer.text) == (201, "a b c body")
    assert (await client.delete("/things/a/b")).json() == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("/things?limit=ten", "limit"),
        ("/things?limit=", "limit"),
        ("/things?limit=1_000", "limit"),
        (f"/things?limit={10**18}", "limit"),
        ("/things?limit=%D9%A3", "limit"),  # a digit of another script
        ("/things?broken=maybe", "broken"),
        ("/things/seven", "position"),
    ],
)
async def test_a_wrong_kind_names_the_member_and_not_the_value(
    client: httpx.AsyncClient, path: str, member: str
) -> None:
    answer = await client.get(path)
    assert answer.status_code == 400 and answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].startswith(f"{member} is ") and answer.json()["hint"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/things", 405),
        ("HEAD", "/things", 405),
        ("OPTIONS", "/things", 405),
        ("POST", "/fail", 500),
        ("GET", "/items/", 404),  # no redirect, which would go to the host that the request names
        ("DELETE", "/things/", 404),
        ("DELETE", "/things/a%2Fb%2Fc/d", 404),
    ],
)
async def test_what_nobody_answers_is_a_problem_of_the_house(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


def test_a_handler_that_cannot_be_served_is_refused_where_it_is_written() -> None:
    app = Paths()

    async def nameless(limit: int) -> None: ...

    async def deaf() -> None: ...

    async def strange(limit: float = 1.0) -> None: ...

    for path, handler in (("/a", nameless), ("/a/{name}", deaf), ("/a", strange)):
        with pytest.raises(TypeError):
            app.get(path)(handler)
