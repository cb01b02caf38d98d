"""The admin socket's mesh paths: what they refuse, what a repeated command comes to, and whose name is on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ca.keys.open import KeysConfig
from tests.unit.cluster_mesh.desired_house import HOST, House, gateway
from trustfed.cluster import events as e
from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.compose import _Running
from trustfed.cluster.config import ClusterConfig, Door
from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.admin_mesh import mesh_paths
from trustfed.cluster.mesh.admin_mesh_desired import desired_paths
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.cluster.parts import close_parts, open_parts
from trustfed.errors import Invalid
from trustfed.federation.mesh import body_of
from trustfed.runtime.paths import Paths
from trustfed.runtime.problems import map_errors
from trustfed.runtime.reach import Reach

ITEM = {"address": "203.0.113.20", "port": 15443, "network": "prod-us-west"}
Client = httpx.AsyncClient


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    await made.start()
    yield made
    await made.fold.close()


@pytest.fixture
async def client(house: House) -> AsyncIterator[Client]:
    app = Paths()
    map_errors(app)
    none: dict[str, Any] = dict.fromkeys(field.name for field in fields(AdminParts))
    parts = AdminParts(**none | {"fold": house.fold, "journal": house.journal, "clock": house.clock})
    mesh_paths(app, parts, Reach())
    desired_paths(app, parts, Reach(), "", dict)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=("uid:7", 1), raise_app_exceptions=False), base_url="http://admin"
    ) as opened:
        yield opened


BODIES: list[tuple[str, str, Any, str]] = [
    ("PUT", "/mesh/gateways/west-1", {"item": {**ITEM, "trust": "me"}}, "unknown member 'trust'"),
    ("PUT", "/mesh/gateways/west-1", {"item": ITEM, "source": "kubernetes"}, "unknown field `source`"),
    ("PUT", "/mesh/gateways/west-1", {"item": {**ITEM, "name": "west-2"}}, "name of the gateway is 'west-2'"),
    ("PUT", "/mesh/gateways/west-1", {"item": [ITEM]}, "does not fit"),
    ("PUT", "/mesh/gateways/west-1", {}, "missing required field `item`"),
    ("PUT", "/mesh/gateways/west-1", {"item": {**ITEM, "port": 10**30}}, ""),
    ("PUT", "/mesh/gateways/west-1", {"item": ITEM, "reason": "x" * 5_000}, "reason"),
    ("PUT", "/mesh/gateways/west-1", {"item": ITEM, "local": {"sidecars": "absent"}}, "names none"),
    ("PUT", "/mesh/gateways/West", {"item": ITEM}, "the name of gateway 'West'"),
    ("PUT", "/mesh/exports/x", {"item": ITEM}, "unknown member 'address'"),
    ("PUT", f"/mesh/local/{HOST}", {"sidecars": "absent", "rules": [1]}, "does not fit"),
    ("PUT", f"/mesh/local/{HOST}", {"sidecars": "all", "answers": "x"}, "does not fit"),
    ("PUT", f"/mesh/local/{HOST}", {"sidecars": "none", "ports": [8080]}, "does not fit"),
    ("PUT", f"/mesh/local/{HOST}", {"sidecars": "none", "ports": ["http:8080"]}, "has the port 'http:8080'"),
    ("PUT", f"/mesh/local/{HOST}", {"sidecars": "none", "rules": [{"kind": "Secret"}]}, "no DestinationRule"),
    ("POST", "/mesh/apply", {"files": [{"path": "a.yaml"}]}, "missing required field `text`"),
    ("POST", "/mesh/apply", {"files": [{"path": "a\x1b[2J", "text": gateway()}]}, "no name for a file"),
    ("POST", "/mesh/apply", {"files": [{"path": "", "text": gateway()}]}, "no name for a file"),
    ("POST", "/mesh/apply", {"files": [{"path": "a", "text": "x"}] * 1_001}, "larger than"),
    ("POST", "/mesh/apply", {"files": [{"path": "a", "text": "\ud83d" * 3}]}, ""),
    ("POST", "/mesh/apply", {"documents": []}, "unknown field `documents`"),
]


async def test_bodies_that_do_not_fit(house: House, client: Client) -> None:
    before = house.fold.position
    for method, path, body, words in BODIES:
        answer = await client.request(method, path, content=_json(body))
        problem = answer.json()
        assert answer.status_code == 400, (path, body, problem)
        assert words in problem["detail"] and len(problem["detail"]) < 500, (path, problem)
    for raw in (b"[", b"[]", b"\xff", b'"x"', b"{" * 100_000, b'{"item":' + b"[" * 100_000):
        assert (await client.put("/mesh/gateways/west-1", content=raw)).status_code == 400
    assert house.fold.position == before


async def test_a_repeated_command_is_applied_once_and_bears_its_actor(house: House, client: Client) -> None:
    for _ in range(2):
        answer = await client.put(
            "/mesh/gateways/west-1", json={"item": ITEM, "reason": "why"}, headers={"command-id": "c1"}
        )
        assert (answer.status_code, answer.json()["sequence"]) == (200, 1)
    (event,) = [r.event for r in await house.journal.read(1, 10)]
    assert (event.actor, event.reason, event.command_id) == ("uid:7", "why", "c1")
    await client.post("/mesh/gateways/west-1/remove", json={})
    answer = await client.put("/mesh/gateways/west-1", json={"item": ITEM}, headers={"command-id": "c1"})
    assert answer.status_code == 404 and "has been removed since" in answer.json()["detail"]


async def test_local_knowledge_of_an_import_comes_with_it_or_not_at_all(house: House, client: Client) -> None:
    item = {"exporter": "prod-eu-central", "host": HOST}
    bad = await client.put("/mesh/imports/stock", json={"item": item, "local": {"sidecars": "all"}})
    assert bad.status_code == 400 and not house.names
    good = await client.put(
        "/mesh/imports/stock", json={"item": item, "local": {"sidecars": "absent", "ports": ["9090:grpc", "8080:http"]}}
    )
    assert good.status_code == 200
    assert (await client.get("/mesh/local")).json()["local"][0] | {"at": ""} == {
        "host": HOST, "sidecars": "absent", "answers": [], "rules": [], "source": "command", "at": "",
        "ports": ["8080:http", "9090:grpc"],
    }  # fmt: skip


async def test_listings_are_bounded_pages_in_order(house: House, client: Client) -> None:
    await house.do(lambda s: _many(s, house))
    first = (await client.get("/mesh/gateways?limit=7")).json()
    names = [row["name"] for row in first["gateways"]]
    assert names == sorted(names) and len(names) == 7 and first["next"] == names[-1]
    rest = (await client.get(f"/mesh/gateways?limit=1000000&after={first['next']}")).json()
    assert (len(rest["gateways"]), rest["next"]) == (13, None)
    assert (await client.get("/mesh/gateways?limit=-5")).json()["next"] == "g00"
    row = first["gateways"][0]
    assert {name: row[name] for name in ("address", "source")} == {"address": "203.0.113.20", "source": "kubernetes"}


def _many(state: Any, house: House) -> Any:
    draft = own.Draft(state, "kubernetes", house.clock.now())
    for number in range(20):
        item = own.Gateway(f"g{number:02}", "203.0.113.20", 15443, "prod-us-west")
        assert body_of(item)["weight"] == 1
        draft.put(item)
    return draft.done()


def test_what_the_configuration_may_say() -> None:
    for wrong in (
        {"allow_networks": ("127.0.0.1/8",)},
        {"allow_networks": ("localhost",)},
        {"directory_poll": timedelta(0)},
    ):
        with pytest.raises(Invalid, match=r"mesh\."):
            MeshConfig(**wrong)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


async def test_a_cluster_applies_the_directory_that_its_file_names(tmp_path: Path) -> None:
    """All the parts of a cluster as its file puts them together, without its doors."""
    directory = tmp_path / "mesh"
    directory.mkdir()
    (directory / "a.yaml").write_text(gateway(address="127.0.0.1"))
    config = ClusterConfig(
        tmp_path / "data",
        Door("127.0.0.1:1"),
        Door("127.0.0.1:2"),
        keys=KeysConfig(store="memory"),
        mesh=MeshConfig(allow_networks=("127.0.0.0/8",), directory=directory, directory_poll=timedelta(seconds=1)),
    )
    parts = await open_parts(config)
    now = parts.clock.now()
    keyed = e.Keyed("i", "prod-us-west", "k", b"key", now)
    await parts.fold.execute(lambda _: [keyed], command_id="c", actor="test", now=now)
    mesh = _Running(parts)._mesh
    look = asyncio.create_task(mesh._directory.run())  # type: ignore[union-attr]
    try:
        async with asyncio.timeout(20):
            while not parts.fold.state.mesh.own:
                await asyncio.sleep(0.01)
        assert mesh.status()["directory"]["path"] == str(directory)  # type: ignore[index]
    finally:
        look.cancel()
        await asyncio.wait({look})
        await mesh.close()
        await close_parts(parts)
