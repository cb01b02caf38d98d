"""The stand-in for istiod that configures real Envoys takes everything that is rendered."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.cluster_mesh.routes_house import EAST, HOST, OWN, House, export
from trustfed.demo.envoy import gateway, inbound, outbound
from trustfed.demo.envoy.resources import Secrets

STOCK = "stock.shop.svc.cluster.local"
TILL = f"spiffe://{EAST}/ns/shop/sa/till"


def test_a_whole_table_becomes_listeners_and_clusters() -> None:
    house, secrets = House(), Secrets(Path("/run/agent.sock"))
    house.usual()
    house.put(export(OWN, STOCK, (TILL,)))
    documents = [json.loads(one.manifest) for one in house.routes.table().values()]
    out = outbound.outbound(documents, {(HOST, 8080): "127.0.0.1:1"}, secrets, "us-west-2/a")
    assert [one["name"] for one in out.clusters] == [f"outbound|8080||{HOST}"]
    selector = {"istio": "eastwestgateway"}
    (east_west,) = gateway.gateway(documents, "127.0.0.1:2", selector, {STOCK: {8080: ["127.0.0.1:3"]}}).listeners
    assert [one["name"] for one in east_west["filter_chains"]] == [f"outbound_.8080_._.{STOCK}"]
    port = inbound.Port(8080, "HTTP", "127.0.0.1:3", "127.0.0.1:4")
    (listener,) = inbound.inbound(documents, inbound.Workload("shop", {"app": "stock"}, [port]), secrets).listeners
    rules = json.dumps(listener)
    assert f'"exact": "{TILL}"' in rules and f'"prefix": "spiffe://{OWN}/"' in rules
    assert f'"requested_server_name": {{"exact": "outbound_.8080_._.{STOCK}"}}' in rules
    assert "policy[trustfed-stock]" in rules and "policy[trustfed-callers]" in rules
