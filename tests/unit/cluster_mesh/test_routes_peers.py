"""Whose identities the rendered policies refuse, from the grant on; and whose exports join a Service that is here too."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from bundle_publisher.istio.exported import ANY_SPIFFE_ID
from tests.fakes.clocks import START
from tests.unit.cluster_mesh.routes_house import EAST, HOST, NORTH, OWN, House, export, gateway
from trustfed.cluster import events as ce
from trustfed.cluster.istio_ca.events import LegacyAnchorAdded, LegacyAnchorEnded
from trustfed.cluster.mesh import events as e
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.federation.mesh import Import, ServicePort, write_item

ENTRY = "ServiceEntry/shop/trustfed-payments"
MESH = "AuthorizationPolicy/istio-system/trustfed-callers"
STOCK = "stock.shop.svc.cluster.local"
STOCK_POLICY = "AuthorizationPolicy/shop/trustfed-stock"
TILL = f"spiffe://{EAST}/ns/shop/sa/till"


def admitted(house: House, key: str) -> list[str]:
    source = house.spec(key)["rules"][0]["from"][0]["source"]
    found: list[str] = source["notPrincipals"]
    return found


def addresses(house: House) -> list[str]:
    return [one["address"] for one in house.spec(ENTRY)["endpoints"]]


def test_nobody_is_of_two_domains() -> None:
    """A certificate with a second URI SAN, of ours or of another's agreed caller, is refused for the first one's sake."""
    house = House()
    house.agree()
    house.agree(NORTH)
    house.put(export(OWN, STOCK, (TILL,)))
    rule, both = house.spec(MESH)["rules"]
    assert [one["source"] for one in rule["from"]][1:] == [
        {"principals": [f"{EAST}/*"], "notPrincipals": [TILL.removeprefix("spiffe://")]},
        {"principals": [f"{NORTH}/*"]},
    ]
    assert both == {
        "from": [{"source": {"principals": [f"{EAST}/*", f"{NORTH}/*"]}}],
        "when": [{"key": "source.principal", "values": [f"{OWN}/*", "cluster.local/*"]}],
    }
    house.do(ce.GrantEnded("g1", "x", "over", START))  # its anchors may be with a proxy for a moment
    assert f"{EAST}/*" in json.dumps(house.spec(MESH)["rules"][1])


def test_from_the_grant_on_a_peers_identities_are_refused_though_nothing_is_exported() -> None:
    """Its anchors are in ROOTCA then. No other identities are refused: a mesh may have a name that nobody told of."""
    house = House()
    house.do(ce.GrantOffered("o", OWN, NORTH, START, START + timedelta(days=1), "", b"k", 0))
    assert not house.routes.table()
    house.clock.move(60)
    house.grant(OWN, "spire.example", local=True)
    house.grant(OWN, EAST, since=START + timedelta(days=1))  # before its anchors are there
    foreign = {"source": {"principals": [f"{EAST}/*", "spire.example/*"]}}
    both = {"from": [foreign], "when": [{"key": "source.principal", "values": [f"{OWN}/*", "cluster.local/*"]}]}
    bare = {"action": "DENY", "rules": [{"from": [foreign]}, both]}
    assert house.manifests() == {MESH: bare} and house.routes.table()[MESH].created_at == START
    house.put(export(OWN, STOCK, ()))
    assert admitted(house, MESH) == [f"{OWN}/*", "cluster.local/*"]
    assert house.spec(MESH)["rules"][0]["from"][0]["source"]["principals"] == list(ANY_SPIFFE_ID)
    house.drop("export", STOCK)  # the last one
    assert house.manifests() == {MESH: bare}
    house.do(ce.GrantEnded("g2", "o", "", START))  # a proxy may have its anchors for a moment
    assert house.manifests() == {MESH: bare}


def test_own_domains_are_admitted_wherever_our_own_is() -> None:
    house = House(MeshConfig(own_domains=("corp.example", "partner.example", OWN)))
    house.put(export(OWN, STOCK, (TILL,)))
    house.agree()
    own = [f"{OWN}/*", "cluster.local/*", "corp.example/*", "partner.example/*"]
    assert admitted(house, MESH)[:4] == admitted(house, STOCK_POLICY)[:4] == own
    assert house.spec(STOCK_POLICY)["rules"][1]["from"][0]["source"]["notPrincipals"] == own
    assert house.spec(MESH)["rules"][1]["when"] == [{"key": "source.principal", "values": own}]
    exported = house.routes.exported(STOCK)
    assert exported is not None and (reason := exported.reasons[0]).code == "exported"
    assert "corp.example, partner.example is refused" in reason.sentence and "mesh.own_domains" in reason.hint
    assert house.routes.status()["own_domains"] == [one.removesuffix("/*") for one in own]


@pytest.mark.parametrize("local", [False, True])
def test_an_own_domain_that_is_a_peer_is_foreign_all_the_same(local: bool, capsys: Any) -> None:
    house = House(MeshConfig(own_domains=(EAST, "corp.example")))
    assert admitted_names(house) == [OWN, "cluster.local", "corp.example", EAST]
    house.grant(OWN, EAST, local=local)
    assert admitted_names(house) == [OWN, "cluster.local", "corp.example"]
    assert house.routes.status()["own_domains_refused"] == [EAST]
    assert house.spec(MESH)["rules"][0]["from"] == [{"source": {"principals": [f"{EAST}/*"]}}]
    house.do(ce.GrantEnded("g1", "o", "", START))
    assert admitted_names(house) == [OWN, "cluster.local", "corp.example", EAST] and not house.routes.table()


def admitted_names(house: House) -> list[str]:
    found = house.routes.status()["own_domains"]
    assert isinstance(found, list)
    return found


def test_what_a_replaced_key_signed_is_rendered_no_more() -> None:
    house = House()
    house.usual()
    house.do(ce.GrantRepinned("g1", b"new"))
    assert house.codes() == ["key-replaced"] and set(house.routes.table()) == {MESH}
    house.do(e.RouteTold(EAST, "export", HOST, write_item(export()), 2, b"new", START))
    assert house.codes() == ["no-gateway"]
    house.do(e.RouteTold(EAST, "gateway", "east-1", write_item(gateway()), 2, b"new", START))
    assert house.codes() == ["rendered"]


@pytest.mark.parametrize(
    ("ports", "codes"),
    [
        (("8080:http",), ["rendered"]),
        (("8080:http", "9090:tcp"), ["rendered"]),
        (("8081:http",), ["ports-conflict"]),
        (("8080:web",), ["ports-conflict"]),
        (("8080:",), ["ports-conflict"]),
        (("9090:tcp",), ["ports-conflict"]),
        ((), ["rendered", "local-ports-assumed"]),
    ],
)
def test_a_service_that_is_here_too_has_the_exporters_ports(ports: tuple[str, ...], codes: list[str]) -> None:
    house = House()
    house.usual()
    house.do(e.LocalSeen(HOST, "all", (f"spiffe://{OWN}/p",), b"[]", "command", START, ports))
    assert house.codes() == codes
    if codes == ["ports-conflict"]:
        (reason,) = house.routes.reasons(HOST)
        assert f"than the Service here ({', '.join(ports)})" in reason.sentence
        house.local("absent")  # without a Service there is none to agree with
        assert house.codes() == ["rendered"]


def test_kubernetes_that_has_not_said_which_ports_there_are_keeps_a_host_waiting() -> None:
    house = House()
    house.usual()
    house.do(e.LocalSeen(HOST, "all", (f"spiffe://{OWN}/p",), b"[]", "kubernetes", START))
    assert house.codes() == ["local-ports-unknown"] and ENTRY not in house.routes.table()


def test_an_exporter_with_other_ports_than_the_service_here_does_not_keep_the_host_from_the_next() -> None:
    house = House()
    house.usual()
    house.clock.move(1)
    house.agree(NORTH)
    house.put(Import("north", NORTH, host=HOST))
    here = (ServicePort(8081, "http", "HTTP"),)
    house.hear(NORTH, gateway("n", "203.0.113.99", network=NORTH), export(NORTH, ports=here))
    house.do(e.LocalSeen(HOST, "all", (f"spiffe://{OWN}/p",), b"[]", "kubernetes", START, ("8081:http",)))
    assert sorted(house.codes()) == ["ports-conflict", "rendered"] and addresses(house) == ["203.0.113.99"]


def test_a_mesh_that_moves_admits_its_old_identities_for_as_long_as_it_does() -> None:
    house = House()
    house.put(export(OWN, STOCK, ()))
    house.do(LegacyAnchorAdded("old.example", (), START + timedelta(days=1), "g", "it moves", START))
    assert admitted(house, MESH) == admitted(house, STOCK_POLICY) == [f"{OWN}/*", "cluster.local/*", "old.example/*"]
    house.do(LegacyAnchorEnded("old.example", "time", "over", START))
    assert admitted(house, MESH) == [f"{OWN}/*", "cluster.local/*"]
    house.do(ce.GrantOffered("o", OWN, "cluster.local", START, START + timedelta(days=1), "", b"k", 0))
    house.grant("cluster.local", OWN)
    assert admitted(house, MESH) == [f"{OWN}/*", "cluster.local/*"]  # what others offer or accept changes nothing here
    house.grant(OWN, "cluster.local")  # a member of the federation by that name is foreign
    assert admitted(house, MESH) == [f"{OWN}/*"]


def test_a_caller_of_a_domain_outside_the_federation_needs_its_one_grant() -> None:
    house = House()
    house.put(export(OWN, STOCK, ("spiffe://spire.example/till",)))
    assert admitted(house, MESH) == [f"{OWN}/*", "cluster.local/*"]
    house.grant(OWN, "spire.example", local=True)
    assert admitted(house, MESH)[-1] == "spire.example/till"
