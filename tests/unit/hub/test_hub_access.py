"""Every route by every role, over the real application; and tokens that open nothing."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.unit.hub.hub_parts import ADMIN, DAY, HubParts
from trustfed.errors import Invalid
from trustfed.hub import access
from trustfed.hub.access import ROLES
from trustfed.hub.api import Allowed
from trustfed.hub.public import API, admin_app, https_app

LEAST = {
    "GET /whoami": "viewer",
    "GET /status": "viewer",
    "GET /metrics": "viewer",
    "GET /domains": "viewer",
    "GET /domains/{name}": "viewer",
    "POST /domains": "operator",
    "DELETE /domains/{name}": "admin",
    "GET /bundles/{name}": "viewer",
    "GET /clusters": "viewer",
    "POST /intermediates/{serial}/revoke": "admin",
    "GET /grants": "viewer",
    "POST /grants": "operator",
    "POST /grants/{grant_id}/end": "operator",
    "GET /roots": "viewer",
    "POST /roots/prepare": "admin",
    "POST /roots/activate": "admin",
    "POST /roots/retire": "admin",
    "GET /approvals": "auditor",
    "GET /approvals/{proposal}": "auditor",
    "POST /approvals/{proposal}/approve": "admin",
    "POST /approvals/{proposal}/withdraw": "admin",
    "GET /audit": "auditor",
    "GET /audit/{position}": "auditor",
    "GET /tokens": "admin",
    "POST /tokens": "admin",
    "DELETE /tokens/{token_id}": "admin",
    "GET /events": "auditor",
    "GET /evidence/status": "viewer",
    "GET /evidence/figures": "viewer",
    "GET /evidence/report": "auditor",
    "GET /evidence/trend": "viewer",
    "GET /evidence/standing/{domain}": "viewer",
    "GET /evidence/alarms": "viewer",
    "GET /evidence/failed": "viewer",
    "POST /evidence/ask": "auditor",
    "GET /evidence/orders/{domain}": "auditor",
    "GET /evidence/checkpoint": "viewer",
    "GET /evidence/log-keys": "viewer",
    "POST /evidence/log-keys/{domain}/accept": "admin",
    "POST /evidence/logs/{domain}/accept": "admin",
    "GET /mesh": "viewer",
    "GET /mesh/{domain}": "viewer",
    "GET /publication": "viewer",
    "GET /publication/keys": "admin",
    "POST /publication/keys": "admin",
    "GET /publication/root": "viewer",
    "POST /publication/root": "admin",
}
OPEN = {
    "GET /live",
    "GET /ready",
    "GET /v1/roots",
    "GET /v1/nonce",
    "POST /v1/enrol",
    "POST /v1/resign",
    "POST /v1/envelopes/{name}",
    "GET /bundles/{name}",
    "GET /bundle-map",
    "GET /crl",
    "GET /crl/{root}",
}


def _routes(app: Any, prefix: str = "") -> dict[str, str | None]:
    """Each route of an application and the least role that its guard asks for."""
    found: dict[str, str | None] = {}
    for route in app.routes:
        if isinstance(route, APIRoute):
            guards = [d.call.role for d in route.dependant.dependencies if isinstance(d.call, Allowed)]
            for method in route.methods:
                found[f"{method} {prefix}{route.path}"] = guards[0] if guards else None
        elif hasattr(route, "original_router"):  # FastAPI keeps an included router whole
            found |= _routes(route.original_router, prefix + route.include_context.prefix)
        else:
            assert route.path == "/api/openapi.json", route
    return found


def _client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=("uid:7", 1)), base_url="https://hub")


async def test_every_route_is_either_guarded_as_listed_or_open_on_purpose(hub: HubParts) -> None:
    app = https_app(hub.parts(), timedelta(days=1), lambda: True)
    expected: dict[str, str | None] = {key.replace(" ", f" {API}", 1): role for key, role in LEAST.items()}
    expected |= dict.fromkeys(OPEN) | {"GET /metrics": "viewer"}
    assert _routes(app) == expected
    assert _routes(admin_app(hub.parts(), lambda: True)) == {**LEAST, "GET /live": None, "GET /ready": None}


async def test_every_role_gets_what_it_may_and_no_more(hub: HubParts) -> None:
    app = https_app(hub.parts(), timedelta(days=1), lambda: True)
    tokens = {role: (await hub.operations.issue_token(ADMIN, role, role, DAY))[1] for role in ROLES}
    async with _client(app) as client:
        for route, least in LEAST.items():
            method, path = route.split(" ")
            url = API + re.sub(r"\{\w+\}", "x", path)
            assert (await client.request(method, url)).status_code == 401, route
            for role, token in tokens.items():
                answer = await client.request(method, url, headers={"Authorization": f"Bearer {token}"})
                allowed = ROLES.index(role) >= ROLES.index(least)
                assert (answer.status_code == 403) is not allowed, (route, role, answer.text)


async def test_what_pages_nobody_takes_an_admin(hub: HubParts) -> None:
    for role, status in (("operator", 403), ("admin", 201)):
        token = (await hub.operations.issue_token(ADMIN, role, role, DAY))[1]
        async with _client(https_app(hub.parts(), timedelta(days=1), lambda: True)) as client:
            order = {"name": "quiet", "owner": "team", "simulated": True}
            made = await client.post(f"{API}/domains", json=order, headers={"Authorization": f"Bearer {token}"})
        assert made.status_code == status, made.text
    assert hub.state.domains["quiet"].simulated


async def test_tokens_that_open_nothing(hub: HubParts) -> None:
    token_id, text = await hub.operations.issue_token(ADMIN, "ci", "admin", timedelta(hours=1))
    now = hub.clock.now()
    for shown in (
        None,
        "",
        "Bearer",
        f"Basic {text}",
        f"Bearer {text[:-1]}",
        f"Bearer {text[:-1]}{'A' if text[-1] != 'A' else 'B'}",
        f"Bearer trustfed-api-{token_id}-{'A' * 43}",
        "Bearer " + "x" * 10_000,
    ):
        assert access.caller(hub.state, shown, now) is None, shown
    assert access.caller(hub.state, f"bearer {text}", now) == access.Caller(f"token:{token_id}", "admin", "uid:0")
    hub.clock.move(3600)
    assert access.caller(hub.state, f"Bearer {text}", hub.clock.now()) is None
    journal = b"".join(record.canonical for record in await hub.journal.read(0, 1000))
    assert text.removeprefix(f"trustfed-api-{token_id}-").encode() not in journal


async def test_a_revoked_token_opens_nothing_at_once(hub: HubParts) -> None:
    token_id, text = await hub.operations.issue_token(ADMIN, "ci", "viewer", DAY)
    await hub.operations.revoke_token(ADMIN, token_id)
    await hub.operations.revoke_token(ADMIN, token_id)
    assert access.caller(hub.state, f"Bearer {text}", hub.clock.now()) is None


@pytest.mark.parametrize(("role", "life"), [("king", DAY), ("viewer", timedelta(0)), ("viewer", timedelta(days=400))])
async def test_a_token_that_breaks_a_rule(hub: HubParts, role: str, life: timedelta) -> None:
    with pytest.raises(Invalid):
        await hub.operations.issue_token(ADMIN, "ci", role, life)


async def test_the_admin_socket_acts_as_the_peers_uid(hub: HubParts) -> None:
    async with _client(admin_app(hub.parts(), lambda: False)) as client:
        assert (await client.get("/whoami")).json() == {"actor": "uid:7", "role": "admin"}
        made = await client.post("/domains", json={"name": "west", "owner": "team"})
        assert made.status_code == 201
        event = (await client.get("/events?after=3")).json()["events"][-1]
        assert (event["actor"], event["kind"], event["owner"]) == ("uid:7", "domain.invited", "team")
        assert (await client.get("/ready")).status_code == 503
        page = (await client.get("/events?limit=2")).json()
        assert (len(page["events"]), page["next"]) == (2, 2)


async def test_an_unexpected_error_is_opaque(hub: HubParts) -> None:
    app = https_app(hub.parts(), timedelta(days=1), lambda: True)

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("a secret detail")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="https://hub") as client:
        answer = await client.get("/boom")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text and answer.json()["error_id"]
