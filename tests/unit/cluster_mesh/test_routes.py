"""The rendered table follows the journal: what changes, what does not, and what it costs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from bundle_publisher.istio import imported
from tests.fakes.clocks import START
from tests.unit.cluster_mesh.routes_house import EAST, HOST, NORTH, OWN, House, export, gateway, rule
from trustfed.cluster import events as ce
from trustfed.cluster import fold
from trustfed.cluster.mesh import events as e
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.errors import Invalid
from trustfed.federation.mesh import Import, ServicePort
from trustfed.federation.mesh_digest import digest

ENTRY, RULE = "ServiceEntry/shop/trustfed-payments", "DestinationRule/shop/trustfed-payments"
MESH = "AuthorizationPolicy/istio-system/trustfed-callers"
STOCK = "stock.shop.svc.cluster.local"
STOCK_POLICY = "AuthorizationPolicy/shop/trustfed-stock"
TILL = f"spiffe://{EAST}/ns/shop/sa/till"


def admitted(house: House, key: str) -> list[str]:
    source = house.spec(key)["rules"][0]["from"][0]["source"]
    found: list[str] = source["notPrincipals"]
    return found


def addresses(house: House, key: str = ENTRY) -> list[str]:
    return [one["address"] for one in house.spec(key)["endpoints"]]


def test_an_import_with_all_that_it_needs_is_rendered() -> None:
    house = House()
    assert not house.routes.table()
    house.usual()
    assert house.codes() == ["rendered"]
    assert set(house.routes.table()) == {ENTRY, RULE, MESH}
    assert addresses(house) == ["203.0.113.20"]
    assert admitted(house, MESH) == [f"{OWN}/*", "cluster.local/*"]


def test_a_table_is_whole_from_the_first_moment_and_the_same_as_before() -> None:
    house = House()
    house.usual()
    house.put(export(OWN, STOCK, (TILL,)))
    before, known = dict(house.routes.table()), house.routes.digest()
    house.open()
    assert dict(house.routes.table()) == before
    assert house.routes.digest() == known == digest({key: one.version for key, one in before.items()})


def test_only_what_changed_is_told() -> None:
    house = House()
    house.usual()
    house.usual(STOCK, NORTH)
    house.hear(EAST, gateway("east-2", "203.0.113.21"))
    assert house.told == {ENTRY} and addresses(house) == ["203.0.113.20", "203.0.113.21"]
    house.hear(EAST, gateway("east-2", "203.0.113.21"))
    assert house.told == set()
    table = house.routes.table()
    house.do(e.RouteGone(EAST, "gateway", "east-2", "gone", START))
    assert house.told == {ENTRY} and addresses(house) == ["203.0.113.20"]
    assert table is not house.routes.table() and len(table) == 5  # what somebody reads does not change below them


def test_the_end_of_a_grant_takes_routes_and_callers_at_once_and_its_time_does_so_too() -> None:
    house = House()
    house.usual()
    house.put(export(OWN, STOCK, (TILL,)))
    assert admitted(house, STOCK_POLICY)[-1] == "prod-eu-west/ns/shop/sa/till"
    house.do(ce.GrantEnded("g2", "operator", "over", START))
    assert ENTRY not in house.routes.table() and house.codes() == ["grant-ended"]
    assert admitted(house, STOCK_POLICY) == admitted(house, MESH) == [f"{OWN}/*", "cluster.local/*"]
    assert not [key for key in house.routes.table() if key.startswith("Gateway/")]
    house.grant(EAST, OWN, days=5)
    assert house.codes() == ["rendered"] and admitted(house, MESH)[-1] == "prod-eu-west/ns/shop/sa/till"
    house.clock.move(5 * 86_400)
    house.settle()
    assert house.codes() == ["grant-ended"] and MESH in house.routes.table()


async def test_the_clock_alone_begins_and_ends_what_a_grant_allows() -> None:
    house = House()
    house.grant(OWN, EAST, since=START + timedelta(minutes=1))
    house.grant(EAST, OWN)
    house.put(Import("p", EAST, host=HOST))
    house.hear(EAST, gateway(), export())
    house.local()
    assert house.codes() == ["grant-not-begun"]
    running = asyncio.create_task(house.routes.run())
    await asyncio.sleep(0)
    await house.clock.advance(61)
    for _ in range(20):
        await asyncio.sleep(0)
    assert house.codes() == ["rendered"] and ENTRY in house.told
    running.cancel()


def test_local_callers_and_those_without_an_identity_are_never_refused() -> None:
    """DENY only: no ALLOW is ever rendered, own identities are admitted, and a plain-text caller matches no principal."""
    house = House()
    house.usual()
    house.put(export(OWN, STOCK, (TILL,)))
    for key, spec in house.manifests().items():
        if key.startswith("AuthorizationPolicy/"):
            assert spec["action"] == "DENY"
            source, *others = [one["source"] for one in spec["rules"][0]["from"]]
            assert source["principals"] and "*" not in source["principals"]
            assert source["notPrincipals"][0] == f"{OWN}/*"
            assert {one for other in others for one in other["principals"]} == {f"{EAST}/*"}


def test_a_service_that_is_here_too_gets_both_sides_as_answers_and_stays_first() -> None:
    house = House()
    house.usual()
    mine = f"spiffe://{OWN}/ns/shop/sa/payments"
    house.local("all", (mine,))
    policy = house.spec(RULE)["trafficPolicy"]
    assert policy["tls"]["subjectAltNames"] == [f"spiffe://{EAST}/ns/shop/sa/payments", mine]
    assert policy["loadBalancer"]["localityLbSetting"]["failoverPriority"][-1] == "rank.trustfed/1="
    assert house.spec(ENTRY)["subjectAltNames"] == policy["tls"]["subjectAltNames"]
    house.local("some", (mine,))
    assert RULE not in house.routes.table() and ENTRY not in house.routes.table()
    house.do(e.LocalForgotten(HOST, START))
    assert house.codes() == ["local-unknown"]


def test_own_exports_of_an_imported_host_say_who_answers_here() -> None:
    house = House()
    house.usual()
    house.local("all")
    assert house.codes() == ["local-answers-unknown"]
    house.put(export(OWN, HOST, ()))
    assert f"spiffe://{OWN}/ns/shop/sa/payments" in house.spec(RULE)["trafficPolicy"]["tls"]["subjectAltNames"]


def test_an_owners_rule_keeps_an_import_waiting_until_it_holds_the_patch() -> None:
    house = House()
    house.usual()
    owners: dict[str, Any] = rule(loadBalancer={"simple": "RANDOM"})
    house.local(rules=[owners])
    assert house.codes() == ["waits-for-rule"] and not {ENTRY, RULE} & set(house.routes.table())
    (patch,) = house.explain.patches("payments.shop")["patches"]
    house.local(rules=[dict(patch["rule"])])
    assert house.codes() == ["rendered-beside-rule"]
    assert ENTRY in house.routes.table() and RULE not in house.routes.table()


def test_a_rule_in_a_callers_namespace_is_patched_and_ours_still_serves_the_others() -> None:
    house = House()
    house.usual()
    house.local(rules=[rule("client")])
    assert house.codes() == ["waits-for-rule"]
    (patch,) = house.explain.patches(HOST)["patches"]
    house.local(rules=[dict(patch["rule"])])
    assert house.codes() == ["rendered"] and RULE in house.routes.table()


def test_a_later_rule_of_some_namespace_takes_no_route_away() -> None:
    house = House()
    house.usual()
    house.local()
    assert house.codes() == ["rendered"]
    later = rule("tenant", host="*", name="mine")
    later["metadata"]["creationTimestamp"] = "2999-01-01T00:00:00Z"
    for spec in ({}, {"workloadSelector": {"matchLabels": {"app": "x"}}}):
        house.local(rules=[{**later, "spec": {**later["spec"], **spec}}])
        assert ENTRY in house.routes.table() and RULE in house.routes.table()
        assert set(house.codes()) >= {"rendered"} and "waits-for-rule" not in house.codes()
    house.local(rules=[later])
    assert "hidden-by-later-rule" in house.codes()
    assert [patch["rule"]["metadata"]["namespace"] for patch in house.explain.patches(HOST)["patches"]] == ["tenant"]
    # In the namespace of the service, or mesh-wide, a rule is its owner's word whenever it was written.
    for namespace in ("shop", "istio-system"):
        later["metadata"]["namespace"] = namespace
        house.local(rules=[later])
        assert house.codes() == ["waits-for-rule"]


def test_an_exporter_that_joins_waits_for_the_owners_rule_alone() -> None:
    house = House()
    house.usual()
    house.local(rules=[rule()])
    (patch,) = house.explain.patches(HOST)["patches"]
    house.local(rules=[dict(patch["rule"])])
    house.agree(NORTH)
    house.put(Import("north", NORTH, host=HOST))
    house.hear(NORTH, gateway("n", "203.0.113.99", network=NORTH), export(NORTH))
    assert sorted(house.codes()) == ["rendered-beside-rule", "waits-for-rule"]
    assert addresses(house) == ["203.0.113.20"]


def test_exporters_of_one_host_join_where_their_ports_agree() -> None:
    house = House()
    house.usual()
    house.clock.move(1)
    house.agree(NORTH)
    house.put(Import("north", NORTH, host=HOST))
    house.hear(NORTH, gateway("n", "203.0.113.99", network=NORTH), export(NORTH))
    assert addresses(house) == ["203.0.113.20", "203.0.113.99"]
    house.hear(NORTH, export(NORTH, ports=(ServicePort(8080, "web", "HTTP"),)))
    assert sorted(house.codes()) == ["ports-conflict", "rendered"] and addresses(house) == ["203.0.113.20"]
    house.do(e.RouteGone(EAST, "export", HOST, "gone", START))  # who came first has gone: the other keeps the host
    assert addresses(house) == ["203.0.113.99"] and house.spec(ENTRY)["ports"][0]["name"] == "web"


def test_what_is_measured_moves_weights_and_takes_gateways_away_but_never_the_last() -> None:
    house = House()
    house.usual()
    house.hear(EAST, gateway("east-2", "203.0.113.21"))
    house.do(e.GatewayJudged(EAST, "east-1", True, 50, 9_000, START))
    assert [one["weight"] for one in house.spec(ENTRY)["endpoints"]] == [3, 6]
    house.do(e.GatewayJudged(EAST, "east-1", False, 50, 0, START))
    assert addresses(house) == ["203.0.113.21"]
    later = START + timedelta(seconds=5)
    house.do(e.GatewayJudged(EAST, "east-2", False, 50, 0, later))
    assert addresses(house) == ["203.0.113.21"]
    house.do(e.GatewayJudged(EAST, "east-1", True, 50, 0, later))
    assert addresses(house) == ["203.0.113.20"]


def test_a_service_that_fails_at_a_gateway_leaves_that_gateway_alone() -> None:
    house = House()
    house.usual()
    house.put(Import("stock", EAST, host=STOCK))
    house.hear(EAST, gateway("east-2", "203.0.113.21"), export(EAST, STOCK))
    house.local(host=STOCK)
    house.do(e.ServiceJudged(EAST, STOCK, "east-1", False, START))
    assert addresses(house, "ServiceEntry/shop/trustfed-stock") == ["203.0.113.21"]
    assert addresses(house) == ["203.0.113.20", "203.0.113.21"]


def test_exports_that_share_pods_admit_each_others_callers_only_where_they_must() -> None:
    house = House()
    house.agree()
    a, b = f"spiffe://{EAST}/a", f"spiffe://{EAST}/b"
    house.put(export(OWN, STOCK, (a,), workload={"app": "stock"}))
    house.put(export(OWN, "stock-v1.shop.svc.cluster.local", (b,), workload={"app": "stock", "version": "v1"}))
    wide, narrow = admitted(house, STOCK_POLICY), admitted(house, "AuthorizationPolicy/shop/trustfed-stock-v1")
    assert wide[2:] == [f"{EAST}/a"] and narrow[2:] == [f"{EAST}/a", f"{EAST}/b"]
    assert "caller-beside" in house.codes("stock-v1.shop.svc.cluster.local")
    house.drop("export", STOCK)
    assert admitted(house, "AuthorizationPolicy/shop/trustfed-stock-v1")[2:] == [f"{EAST}/b"]
    house.drop("export", "stock-v1.shop.svc.cluster.local")
    assert set(house.routes.table()) == {MESH}


def test_imports_by_namespace_and_group_want_what_is_in_them() -> None:
    house = House()
    house.agree()
    house.hear(EAST, gateway(), export(groups=("till",)))
    house.local()
    assert house.codes() == ["no-import"]
    house.put(Import("all", EAST, namespace="shop"))
    assert house.codes() == ["rendered"]
    house.put(Import("all", EAST, group="till"))
    assert house.codes() == ["rendered"]
    house.drop("import", "all")
    assert house.codes() == ["no-import"] and set(house.routes.table()) == {MESH}


def test_of_two_hosts_that_want_one_name_the_earlier_has_it_whatever_came_first_here(monkeypatch: Any) -> None:
    monkeypatch.setattr(imported, "address", lambda host: "241.0.0.1")
    house, tcp = House(), (ServicePort(5432, "tcp", "TCP"),)
    house.usual()
    house.hear(EAST, export(ports=tcp))
    house.clock.move(1)
    house.usual(STOCK, NORTH)
    assert house.codes() == house.codes(STOCK) == ["rendered"]  # HTTP tells them apart by name
    house.hear(NORTH, export(NORTH, STOCK, ports=tcp))
    assert house.codes() == ["rendered"] and house.codes(STOCK)[0] == "name-taken"
    house.open()
    assert house.codes() == ["rendered"] and house.codes(STOCK)[0] == "name-taken"
    house.do(e.LocalForgotten(HOST, START))
    assert house.codes(STOCK) == ["rendered"]
    house.local()
    assert house.codes() == ["rendered"] and house.codes(STOCK)[0] == "name-taken"


async def test_many_hosts_are_done_in_slices_and_shown_at_once() -> None:
    house = House()
    house.agree()
    house.put(Import("all", EAST, namespace="shop"))
    house.hear(EAST, gateway())
    for number in range(300):
        host = f"s{number}.shop.svc.cluster.local"
        house.hear(EAST, export(EAST, host))
        house.local(host=host)
    assert len(house.routes.table()) == 601
    sizes: set[int] = set()
    steps = house.routes.settle()
    house.routes.on_event(event := e.GatewayJudged(EAST, "east-1", True, 50, 1, START))
    house.state = fold.apply(house.state, event)
    for _ in steps:
        sizes.add(len(house.routes.table()))
    assert sizes == {601}
    house.do(e.RouteGone(EAST, "gateway", "east-1", "gone", START))
    assert set(house.routes.table()) == {MESH}


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("root_namespace", "Istio System"),
        ("root_namespace", ""),
        ("gateway_selector", ()),
        ("gateway_selector", ("istio",)),
        ("gateway_port", 0),
        ("gateway_port", 70_000),
        ("own_domains", ("spiffe://corp.example",)),
        ("own_domains", ("Corp",)),
        ("own_domains", ("",)),
        ("own_domains", tuple(f"d{number}.example" for number in range(65))),
    ],
)
def test_a_setting_that_no_istiod_takes_is_one_clear_error(member: str, value: Any) -> None:
    with pytest.raises(Invalid, match=f"mesh.{member}"):
        MeshConfig(**{member: value})
