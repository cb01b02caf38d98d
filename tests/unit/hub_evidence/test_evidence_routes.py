"""The routes of evidence: what each role may ask, and what they answer."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import httpx
import pytest
from fastapi import FastAPI

from tests.unit.hub_evidence.evidence_house import EvidenceHouse, row, until
from trustfed.hub.access import Caller
from trustfed.hub.api import operator_app
from trustfed.hub.evidence import api
from trustfed.hub.evidence.orders import Order

ROUTES = [
    ("GET", "/evidence/status", "viewer"),
    ("GET", "/evidence/figures?domain=west", "viewer"),
    ("GET", "/evidence/trend?domain=west&class=leaf", "viewer"),
    ("GET", "/evidence/standing/west", "viewer"),
    ("GET", "/evidence/alarms", "viewer"),
    ("GET", "/evidence/failed?class=leaf", "viewer"),
    ("GET", "/evidence/checkpoint", "viewer"),
    ("GET", "/evidence/log-keys", "viewer"),
    ("POST", "/evidence/ask", "auditor"),
    ("GET", "/evidence/report?from=300000&to=600000&domain=west", "auditor"),
    ("GET", "/evidence/orders/west", "auditor"),
    ("POST", "/evidence/log-keys/west/accept", "admin"),
    ("POST", "/evidence/logs/west/accept", "admin"),
]
BELOW = {"viewer": None, "auditor": "viewer", "admin": "operator"}
BODIES = {
    "/evidence/ask": {"kind": "status", "domain": "hub.example"},
    "/evidence/log-keys/west/accept": {"vkey": "x", "reason": "it was restored"},
    "/evidence/logs/west/accept": {"reason": "it was restored"},
}


APPS: WeakKeyDictionary[EvidenceHouse, FastAPI] = WeakKeyDictionary()


def app_of(house: EvidenceHouse) -> FastAPI:
    """The application, made once: the door lets in whoever the test says."""
    if house not in APPS:
        parts = replace(house.hub.parts(), evidence=house.evidence)
        app = operator_app(parts, lambda request: request.app.state.caller)
        app.include_router(api.routes(parts))
        APPS[house] = app
    return APPS[house]


async def ask(house: EvidenceHouse, role: str | None, method: str, path: str, body: object = None) -> httpx.Response:
    app = app_of(house)
    app.state.caller = Caller("token:1", role) if role else None
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://hub") as client:
        return await client.request(method, path, json=body if body is not None else BODIES.get(path))


async def test_each_route_has_its_least_role(house: EvidenceHouse) -> None:
    await house.cluster("west")
    await until(lambda: house.evidence.own_log.note is not None)
    for method, path, role in ROUTES:
        assert (await ask(house, None, method, path)).status_code == 401, path
        if below := BELOW[role]:
            assert (await ask(house, below, method, path)).status_code == 403, path
        answer = await ask(house, role, method, path)
        # There is no other log key to accept here.
        assert answer.status_code == (404 if path.startswith("/evidence/log-keys/") else 200), (path, answer.text)


async def test_what_they_answer(house: EvidenceHouse) -> None:
    cluster, fleet = await house.cluster("west"), house.evidence.fleet
    async with cluster.stream() as stream:
        await stream.say(cluster.delta(1, [row(at_ms=fleet.now_ms, due=4, on_time=3, late=1)], whole=True))
        await stream.until("taken")
    await until(lambda: house.evidence.sessions.get("west") is None)  # else it waits for what the cluster says
    await house.evidence.orders.order("west", Order("rotate", {"all": True}, "drill", "uid:1", id="o1"))
    figures = (await ask(house, "viewer", "GET", "/evidence/figures?domain=west")).json()
    assert [one["headline"] for one in figures["figures"] if one["class_"] == "leaf"] == [0.75]
    begin, end = fleet.now_ms - 3_600_000, fleet.now_ms
    path = f"/evidence/figures?domain=west&from_ms={begin}&to_ms={end}"
    assert (await ask(house, "viewer", "GET", path)).json()["figures"][0]["counts"]["due"] == 4
    status = (await ask(house, "viewer", "GET", "/evidence/status")).json()
    assert status["domains"][0]["trust_domain"] == "west" and status["totals"]["failed"] == 1
    (order,) = (await ask(house, "auditor", "GET", "/evidence/orders/west")).json()["orders"]
    assert (order["id"], order["body"], order["outcome"]) == ("o1", {"all": True}, "waiting")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/evidence/figures?domain=nowhere", 404),
        ("/evidence/figures?domain=west&from_ms=1", 400),
        ("/evidence/trend?domain=west&class=%3Cscript%3E", 400),
        ("/evidence/failed?class=leaf&size=501", 422),
        ("/evidence/report?from=300000&to=600001", 400),
        ("/evidence/report?from=300000&to=600000&domain=nowhere", 404),
        ("/evidence/standing/%3Cscript%3E", 404),
    ],
)
async def test_bad_questions_get_one_clear_error(house: EvidenceHouse, path: str, status: int) -> None:
    await house.cluster("west")
    answer = await ask(house, "auditor", "GET", path)
    assert answer.status_code in (status, 400)
    assert answer.headers["content-type"] == "application/problem+json"  # what is repeated in it is no markup there
