"""Routes between real processes: a hub and two clusters, which tell, relay and hear; and what stays when the hub dies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.stack import Cluster, Stack, until

HOST = "payments.shop.svc.cluster.local"
EAST, WEST = "mesh-east", "mesh-west"
GATEWAY = {"address": "198.51.100.7", "port": 15443, "network": "east"}
EXPORT = {
    "ports": [{"number": 8080, "name": "http", "protocol": "HTTP"}],
    "answers": [f"spiffe://{EAST}/ns/shop/sa/payments"],
    "callers": [f"spiffe://{WEST}"],
    "workload": {"app": "payments"},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("mesh-hub")) as made:
        yield made


def routes(cluster: Cluster) -> dict[str, Any]:
    found = cluster.admin.get("/mesh/heard")["routes"]
    return {f"{one['kind']}/{one['name']}": one["says"] for one in found}


def wait_for(cluster: Cluster, *names: str) -> dict[str, Any]:
    until(lambda: set(routes(cluster)) == set(names), f"the routes {names} at {cluster.name}")
    return routes(cluster)


def test_a_route_from_its_export_to_its_end(stack: Stack) -> None:
    east, west = stack.cluster(EAST), stack.cluster(WEST)
    both = [stack.grant(WEST, EAST), stack.grant(EAST, WEST)]
    east.admin.ask("PUT", "/mesh/gateways/gw-1", {"item": GATEWAY})
    east.admin.ask("PUT", f"/mesh/exports/{HOST}", {"item": EXPORT})
    west.admin.ask("PUT", "/mesh/imports/pay", {"item": {"exporter": EAST, "host": HOST}})
    assert wait_for(west, "gateway/gw-1", f"export/{HOST}")[f"export/{HOST}"]["answers"] == EXPORT["answers"]
    assert routes(east) == {}

    def address() -> str:
        return str(routes(west).get("gateway/gw-1", {}).get("address"))

    east.admin.ask("PUT", "/mesh/gateways/gw-1", {"item": {**GATEWAY, "address": "198.51.100.8"}})
    until(lambda: address() == "198.51.100.8", "the gateway's other address")
    (shown,) = [one for one in stack.hub_admin.get("/mesh")["domains"] if one["trust_domain"] == EAST]
    assert shown["importers"] == [WEST]
    listed = stack.run("trustfed.cli", "mesh", "hub", EAST, "--socket", str(stack.hub_admin.path))
    assert HOST in listed and WEST in listed

    # The hub is killed: the last routes stay, and their age is known. What changes meanwhile comes when it is back.
    stack.hub.kill()
    east.admin.ask("PUT", "/mesh/gateways/gw-2", {"item": {**GATEWAY, "address": "198.51.100.9"}})
    east.admin.ask("POST", "/mesh/gateways/gw-1/remove", {})
    until(lambda: not west.admin.get("/status")["hub"]["connected"], "the loss of the hub")
    assert set(routes(west)) == {"gateway/gw-1", f"export/{HOST}"}
    assert west.admin.get("/mesh/heard")["heard_at"] is not None
    stack.hub.start()
    wait_for(west, "gateway/gw-2", f"export/{HOST}")

    # The other direction's end counts as well.
    east.admin.post(f"/grants/{both[1]}/end", {"reason": "over"})
    wait_for(west)
    stack.grant(EAST, WEST)
    wait_for(west, "gateway/gw-2", f"export/{HOST}")
    west.admin.post(f"/grants/{both[0]}/end", {"reason": "over"})
    wait_for(west)
