"""POST /v1/envelopes/{td}: anybody may bring a domain's envelope, nobody can bring one that its key did not sign next."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx

from tests.unit.hub.hub_parts import HubParts
from trustfed.hub.public import https_app


def door(hub: HubParts) -> httpx.AsyncClient:
    app = https_app(hub.parts(), timedelta(days=1), lambda: True)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://hub")


async def test_an_envelope_that_continues_is_taken_once(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    following = await west.envelope()
    async with door(hub) as client:
        for _ in range(2):
            answer = await client.post("/v1/envelopes/west", content=following)
            assert answer.status_code == 200, answer.text
    assert hub.state.domains["west"].envelope == following


async def test_what_is_refused_takes_no_writers_turn(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    junk = (await west.envelope())[:-20]
    turns = 0
    operations = hub.parts().operations
    execute = operations._fold.execute

    async def counted(*given: Any, **named: Any) -> Any:
        nonlocal turns
        turns += 1
        return await execute(*given, **named)

    operations._fold.execute = counted  # type: ignore[method-assign]
    async with door(hub) as client:
        posts = [client.post("/v1/envelopes/west", content=junk) for _ in range(200)]
        answers = {answer.status_code for answer in await asyncio.gather(*posts)}
    assert answers <= {400, 503}
    assert turns == 0


async def test_older_foreign_and_forged_envelopes_are_refused(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    old = hub.state.domains["west"].envelope
    newest = await west.envelope()
    async with door(hub) as client:
        assert (await client.post("/v1/envelopes/west", content=newest)).status_code == 200
        for name, data, status in (
            ("west", old, 403),
            ("west", await east.envelope(), 403),
            ("east", newest, 403),
            ("west", newest[:-20], 400),
            ("west", b"", 400),
            ("nobody", newest, 404),
            ("NOT-A-DOMAIN", newest, 400),
        ):
            answer = await client.post(f"/v1/envelopes/{name}", content=data)
            assert answer.status_code == status, (name, answer.text)
    assert hub.state.domains["west"].envelope == newest
