"""What operators see of the domains' meshes at the hub: in pages, with importers and refusals, for viewers at least."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import httpx

from tests.fakes.mesh_world import export, gateway, import_
from tests.unit.hub_mesh.mesh_hub import MeshHub
from trustfed.hub.public import API, admin_app, https_app


def _client(world: MeshHub, app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, client=("uid:0", 0))
    return httpx.AsyncClient(transport=transport, base_url="http://hub")


async def test_what_a_domain_says_in_pages(world: MeshHub) -> None:
    west, east = await world.domains("west", "east")
    await world.agree(west, east)
    await east.say(gateway(), gateway("bad", "127.0.0.1"), export("east"), export("east", "stock"))
    await west.say(import_("east", host="payments.shop.svc.cluster.local"))
    parts = dataclasses.replace(world.hub.parts(), mesh=world.mesh)
    async with _client(world, admin_app(parts, lambda: True)) as client:
        (of_east, of_west) = (await client.get("/mesh")).json()["domains"]
        assert (of_east["gateways"], of_east["exports"], of_east["refused"]) == (1, 2, 1)
        assert (of_east["importers"], of_west["imports"]) == (["west"], 1)
        first = (await client.get("/mesh/east", params={"limit": 2})).json()
        assert [item["key"] for item in first["items"]] == [
            "export/payments.shop.svc.cluster.local",
            "export/stock.shop.svc.cluster.local",
        ]
        assert [item["importer_count"] for item in first["items"]] == [1, 0]
        assert [one["name"] for one in first["refusals"]] == ["bad"]
        second = (await client.get("/mesh/east", params={"limit": 2, "after": first["next"]})).json()
        assert [item["says"]["address"] for item in second["items"]] == ["198.51.100.7"]
        assert second["next"] is None
        assert (await client.get("/mesh/nowhere")).status_code == 404
        assert (await client.get("/mesh/east", params={"limit": 100_000})).status_code == 400


async def test_nobody_without_a_role_sees_it(world: MeshHub) -> None:
    parts = dataclasses.replace(world.hub.parts(), mesh=world.mesh)
    async with _client(world, https_app(parts, timedelta(days=1), lambda: True)) as client:
        assert (await client.get(f"{API}/mesh")).status_code == 401
        assert (await client.get(f"{API}/mesh/east")).status_code == 401
