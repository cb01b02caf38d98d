"""Each reason is produced by what it speaks of, and `route explain` says it in words."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from datetime import timedelta

import pytest
from msgspec.structs import replace as changed

from bundle_publisher.istio import exported as rendered_exports
from bundle_publisher.istio import resource
from tests.fakes.clocks import START
from tests.unit.cluster_mesh.routes_house import EAST, HOST, NORTH, OWN, House, export, gateway, rule
from trustfed.cluster import events as ce
from trustfed.cluster.mesh import imported_hosts, routes
from trustfed.cluster.mesh.events import LocalSeen, MeshPut, RouteTold
from trustfed.cluster.mesh.explain import Hub, age
from trustfed.cluster.mesh.outcomes import Outcome, View
from trustfed.cluster.mesh.reasons import CODES, HINTS
from trustfed.errors import Conflict, Invalid, NotFound
from trustfed.federation.mesh import Import, ServicePort
from trustfed.journal.table import Table

STOCK = "stock.shop.svc.cluster.local"
TILL = f"spiffe://{EAST}/ns/shop/sa/till"


def no_import(house: House) -> None:
    house.usual()
    house.drop("import", f"from-{EAST}")


def not_exported(house: House) -> None:
    house.agree()
    house.put(Import("p", EAST, host=HOST))


def hub_refused(house: House) -> None:
    house.usual()
    house.hub = Hub(True, START, {("import", f"from-{EAST}"): "prod-eu-west is not registered"})


def not_believed(house: House) -> None:
    not_exported(house)
    house.hear(EAST, export())
    why = "gateway meta has an address that is a cloud's metadata service"
    house.hub = Hub(True, START, {}, {f"gateway meta of {EAST}": why, f"gateway other of {NORTH}": "x", "crl": "y"})


def no_grant(house: House) -> None:
    house.usual()
    for name in ("g1", "g2"):
        house.do(ce.GrantEnded(name, "o", "", START))
    house.state = replace_grants(house)
    house.open()


def replace_grants(house: House):  # type: ignore[no-untyped-def]

    return changed(house.state, grants=Table())


def one_way(house: House) -> None:
    not_exported(house)
    house.hear(EAST, gateway(), export())
    house.state = replace_grants(house)
    house.open()
    house.grant(OWN, EAST)


def not_begun(house: House) -> None:
    house.grant(OWN, EAST, since=START + timedelta(days=1))
    house.grant(EAST, OWN)
    house.put(Import("p", EAST, host=HOST))
    house.hear(EAST, gateway(), export())


def ended(house: House) -> None:
    house.usual()
    house.do(ce.GrantEnded("g1", "o", "", START))


def no_callers(house: House) -> None:
    house.usual()
    house.hear(EAST, export(callers=(f"spiffe://{NORTH}",)))


def no_gateway(house: House) -> None:
    not_exported(house)
    house.hear(EAST, export())


def gateways_refused(house: House) -> None:
    not_exported(house)
    house.hear(EAST, gateway(address="127.0.0.1"), gateway("meta", "169.254.169.254"), export())


def ports_conflict(house: House) -> None:
    house.usual()
    house.clock.move(1)
    house.agree(NORTH)
    house.put(Import("north", NORTH, host=HOST))
    house.hear(NORTH, gateway(network=NORTH), export(NORTH, ports=(ServicePort(9090, "http", "HTTP"),)))


def local_unknown(house: House) -> None:
    not_exported(house)
    house.hear(EAST, gateway(), export())


def without_sidecars(house: House) -> None:
    house.usual()
    house.local("none")


def answers_unknown(house: House) -> None:
    house.usual()
    house.local("all")


def unreadable(house: House) -> None:
    house.usual()
    house.local(rules=[{"spec": 1}])


def hidden(house: House) -> None:
    house.usual()
    later = rule("tenant", host="*")
    later["metadata"]["creationTimestamp"] = "2999-01-01T00:00:00Z"
    house.local(rules=[later])


def waits(house: House) -> None:
    house.usual()
    house.local(rules=[rule()])


def beside(house: House) -> None:
    waits(house)
    (patch,) = house.explain.patches(HOST)["patches"]
    house.local(rules=[dict(patch["rule"])])


def for_some(house: House) -> None:
    beside(house)
    (local,) = json.loads(house.state.mesh.local[HOST].rules)
    local["spec"]["exportTo"] = ["."]
    house.local(rules=[local])
    assert not any(key.endswith("/trustfed-payments") for key in house.routes.table())


def other_key(house: House) -> None:
    house.usual()
    house.do(ce.GrantRepinned("g1", b"new"))


def ports_unknown(house: House) -> None:
    house.usual()
    house.do(LocalSeen(HOST, "all", (f"spiffe://{OWN}/p",), b"[]", "kubernetes", START))


def ports_assumed(house: House) -> None:
    house.usual()
    house.local("all", (f"spiffe://{OWN}/p",))


def invalid(house: House) -> None:
    house.usual(STOCK, NORTH)
    most = max(len(one.manifest) for one in house.routes.table().values())
    held = resource.MAX_MANIFEST
    resource.MAX_MANIFEST = most + 500
    try:
        house.agree()
        house.put(Import("p", EAST, host=HOST))
        house.hear(EAST, *(gateway(f"g{number}", f"203.0.113.{number}") for number in range(9)), export())
        house.local()
    finally:
        resource.MAX_MANIFEST = held
    assert house.codes(STOCK) == ["rendered"]  # left out alone


def exported(house: House) -> None:
    house.agree()
    house.put(export(OWN, HOST, (TILL,)))


def closed(house: House) -> None:
    house.put(export(OWN, HOST, ()))


def without_grant(house: House) -> None:
    house.put(export(OWN, HOST, (TILL,)))


def beside_caller(house: House) -> None:
    house.agree()
    house.put(export(OWN, HOST, (), workload={"app": "payments", "version": "v1"}))
    house.put(export(OWN, STOCK, (TILL,), workload={"app": "payments"}))


def away(house: House) -> None:
    house.usual()
    house.hub = Hub(False, START, {})
    house.clock.move(3 * 3_600)


MADE: list[tuple[str, Callable[[House], None]]] = [
    ("rendered", House.usual),
    ("rendered-beside-rule", beside),
    ("no-import", no_import),
    ("not-exported", not_exported),
    ("hub-refused", hub_refused),
    ("not-believed", not_believed),
    ("no-grant", no_grant),
    ("grant-one-way", one_way),
    ("grant-not-begun", not_begun),
    ("grant-ended", ended),
    ("no-callers", no_callers),
    ("no-gateway", no_gateway),
    ("gateways-refused", gateways_refused),
    ("ports-conflict", ports_conflict),
    ("local-unknown", local_unknown),
    ("local-without-sidecars", without_sidecars),
    ("local-answers-unknown", answers_unknown),
    ("rules-unreadable", unreadable),
    ("waits-for-rule", waits),
    ("rule-for-some", for_some),
    ("hidden-by-later-rule", hidden),
    ("key-replaced", other_key),
    ("local-ports-unknown", ports_unknown),
    ("local-ports-assumed", ports_assumed),
    ("invalid", invalid),
    ("exported", exported),
    ("export-closed", closed),
    ("caller-without-grant", without_grant),
    ("caller-beside", beside_caller),
    ("hub-away", away),
]
ELSEWHERE = {"name-taken", "too-many", "callers-cut", "caller-not-named"}


@pytest.mark.parametrize(("code", "make"), MADE, ids=[code for code, _ in MADE])
def test_each_reason_is_explained_in_words(code: str, make: Callable[[House], None]) -> None:
    house = House()
    make(house)
    found = house.explain.explained("payments.shop" if code != "not-exported" else HOST)
    reasons = {one["code"]: one for one in found["reasons"]}
    assert code in reasons
    assert "{" not in reasons[code]["sentence"] and "{" not in reasons[code].get("hint", "")
    assert found["state"] == ("rendered" if set(reasons) & {"rendered", "rendered-beside-rule"} else found["state"])
    bad = set(reasons) - {"rendered", "rendered-beside-rule", "exported", "hub-away"}
    if found["state"] == "waiting":
        assert bad and not any(key.startswith("ServiceEntry/") for key in found["resources"])


def test_every_code_is_tested_and_every_hint_belongs_to_one() -> None:
    assert {code for code, _ in MADE} | ELSEWHERE == set(CODES)
    assert set(HINTS) <= set(CODES)
    for code, hint in HINTS.items():
        fields = {name for _, name, _, _ in string.Formatter().parse(hint) if name}
        words = {name for _, name, _, _ in string.Formatter().parse(CODES[code]) if name}
        assert fields <= words | {"exporter"}, code


def test_too_many_resources_keep_a_host_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_RESOURCES", 3)
    house = House()
    house.usual()
    house.usual(STOCK, NORTH)
    assert house.codes() == ["rendered"] and house.codes(STOCK) == ["too-many"]


def test_own_exports_come_before_imports_and_who_waits_for_room_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_RESOURCES", 6)
    house = House()
    house.usual()
    house.put(export(OWN, STOCK, (TILL,)))
    house.usual("more.shop.svc.cluster.local", NORTH)
    assert house.codes("more.shop.svc.cluster.local") == ["too-many"] and "exported" in house.codes(STOCK)
    house.open()
    assert "exported" in house.codes(STOCK) and len(house.routes.table()) == 5
    house.drop("import", f"from-{EAST}")
    assert house.codes("more.shop.svc.cluster.local") == ["rendered"]


def test_so_many_bytes_that_no_feed_takes_them_keep_a_host_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """535 hosts of one exporter, each answered for by 32 long IDs, would have had every feed refuse all that came after."""
    house = House()
    house.usual()
    used = sum(len(one.manifest) for one in house.routes.table().values())
    monkeypatch.setattr(routes, "MAX_BYTES", used + 500)
    house.usual(STOCK, NORTH)
    assert house.codes() == ["rendered"] and house.codes(STOCK) == ["too-many"]
    house.drop("import", f"from-{EAST}")
    assert house.codes(STOCK) == ["rendered"]
    assert house.routes._bytes == sum(len(one.manifest) for one in house.routes.table().values())


def test_callers_that_no_policy_holds_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered_exports, "MAX_CALLER_BYTES", 50)
    house = House()
    house.agree()
    house.put(export(OWN, HOST, (TILL, f"spiffe://{EAST}/ns/shop/sa/other-one")))
    assert "callers-cut" in house.codes()


def test_an_age_is_shown_and_the_last_routes_stay() -> None:
    house = House()
    away(house)
    found = house.explain.explained(HOST)
    assert found["state"] == "rendered" and "3 h ago" in found["reasons"][-1]["sentence"]
    (row,) = house.explain.rows()
    assert (row["state"], row["age"], row["exporters"]) == ("rendered", "3 h", [EAST])


@pytest.mark.parametrize(
    ("length", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7_300, "2 h"), (200_000, "2 d"), (-5, "0 s")]
)
def test_ages_are_in_their_largest_unit(length: int, text: str) -> None:
    assert age(timedelta(seconds=length)) == text


def test_a_service_may_be_named_short_and_what_is_like_it_is_shown() -> None:
    house = House()
    house.usual()
    house.usual("payments.bank.svc.cluster.local", NORTH)
    assert house.explain.explained("payments.shop")["host"] == HOST
    with pytest.raises(NotFound) as raised:
        house.explain.explained("paymets.shop")
    assert HOST in raised.value.hint
    with pytest.raises(NotFound):
        house.explain.explained("nothing")
    assert house.explain.explained("other.far.svc.example.org")["state"] == "not imported"
    with pytest.raises(Invalid):
        house.explain.explained("*.far.svc.example.org")
    house.usual("payments.shop.svc.other.example", "prod-south")
    with pytest.raises(Conflict, match="may be"):
        house.explain.explained("payments.shop")


def test_another_clusters_calls_are_explained_as_far_as_they_are_decided_here() -> None:
    house = House()
    exported(house)
    found = house.explain.explained("payments.shop", EAST)
    assert [one["code"] for one in found["reasons"]] == ["exported"] and EAST in found["ask"]
    codes = [one["code"] for one in house.explain.explained(HOST, NORTH)["reasons"]]
    assert codes == ["no-grant", "exported"]
    house.agree(NORTH)
    assert [one["code"] for one in house.explain.explained(HOST, NORTH)["reasons"]] == ["caller-not-named", "exported"]
    house.usual(STOCK)
    with pytest.raises(Conflict) as raised:
        house.explain.explained("stock.shop", EAST)
    assert f"ask {EAST}" in raised.value.hint
    assert house.explain.explained("stock.shop", OWN)["state"] == "rendered"


def test_an_item_that_is_none_by_todays_rules_harms_nobody_else() -> None:
    house = House()
    house.usual()
    for kind, name in (("export", STOCK), ("gateway", "odd")):
        house.do(RouteTold(EAST, kind, name, b'{"name":"?"}', 1, b"k", START))
    for kind, name in (("export", STOCK), ("import", "odd"), ("gateway", "odd")):
        house.do(MeshPut(kind, name, b"{}", 9, "command", START))
    house.open()
    assert house.codes() == ["rendered"] and house.codes(STOCK) == ["invalid"]


def test_an_error_of_ours_is_of_one_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = imported_hosts.decide

    def broken(view: View, host: str) -> Outcome:
        if host == STOCK:
            raise RuntimeError("a fault")
        return real(view, host)

    monkeypatch.setattr(imported_hosts, "decide", broken)
    house = House()
    house.usual(STOCK, NORTH)
    house.usual()
    assert house.codes() == ["rendered"] and house.codes(STOCK) == ["invalid"]


def test_no_patch_is_made_where_no_rule_waits() -> None:
    house = House()
    house.usual()
    with pytest.raises(NotFound, match="no rule"):
        house.explain.patches(HOST)
