"""Whatever happens in whatever order: the table is a function of the state, and lets nobody in who was not agreed on."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.clocks import START
from tests.unit.cluster_mesh.routes_house import EAST, HTTP, NORTH, OWN, House, export, gateway, rule
from trustfed.cluster import events as ce
from trustfed.cluster.mesh import events as e
from trustfed.federation.mesh import Import, ServicePort

HOSTS = ("a.shop.svc.cluster.local", "b.shop.svc.cluster.local")
DOMAINS = (EAST, NORTH)
host, domain = st.sampled_from(HOSTS), st.sampled_from(DOMAINS)
Step = Callable[[House], None]


def _end(house: House, number: int) -> None:
    held = house.state.grants.get(f"g{number}")
    if held is not None and held.state == "accepted":
        house.do(ce.GrantEnded(f"g{number}", "o", "", START))


STEPS: st.SearchStrategy[Step] = st.one_of(
    st.builds(lambda d: lambda h: h.grant(OWN, d) and None, domain),
    st.builds(lambda d: lambda h: h.grant(d, OWN) and None, domain),
    st.builds(lambda n: lambda h: _end(h, n), st.integers(1, 8)),
    st.builds(lambda d, one: lambda h: h.put(Import(f"i-{d}", d, host=one)), domain, host),
    st.builds(lambda d: lambda h: h.put(Import(f"i-{d}", d, namespace="shop")), domain),
    st.builds(lambda d: lambda h: h.drop("import", f"i-{d}"), domain),
    st.builds(lambda d, n: lambda h: h.hear(d, gateway(f"g{n}", f"203.0.113.{n}")), domain, st.integers(1, 3)),
    st.builds(
        lambda d, one, port: lambda h: h.hear(d, export(d, one, ports=(HTTP if port else ServicePort(1, "x", "TCP"),))),
        domain,
        host,
        st.booleans(),
    ),
    st.builds(lambda d, one: lambda h: h.do(e.RouteGone(d, "export", one, "", START)), domain, host),
    st.builds(lambda d, n: lambda h: h.do(e.RouteGone(d, "gateway", f"g{n}", "", START)), domain, st.integers(1, 3)),
    st.builds(
        lambda one, how, ruled: (
            lambda h: h.local(how, (f"spiffe://{OWN}/x",), [rule(host=one)] if ruled else [], host=one)
        ),
        host,
        st.sampled_from(("absent", "all", "some", "none")),
        st.booleans(),
    ),
    st.builds(
        lambda one, callers: lambda h: h.put(export(OWN, one, tuple(f"spiffe://{c}/x" for c in callers))),
        host,
        st.sets(domain),
    ),
    st.builds(lambda one: lambda h: h.drop("export", one), host),
    st.builds(
        lambda d, n, up: lambda h: h.do(e.GatewayJudged(d, f"g{n}", up, 50, 1, START)),
        domain,
        st.integers(1, 3),
        st.booleans(),
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=8, max_size=40))
def test_the_table_is_a_function_of_the_state(steps: list[Step]) -> None:
    house = House()
    for step in steps:
        before = dict(house.routes.table())
        step(house)
        after = dict(house.routes.table())
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert changed == {key for key in house.told if before.get(key) != after.get(key)}
    kept, reasons = dict(house.routes.table()), {host: house.codes(host) for host in HOSTS}
    house.open()
    assert dict(house.routes.table()) == kept
    assert {host: house.codes(host) for host in HOSTS} == reasons
    _check_everybody(house)


def _check_everybody(house: House) -> None:
    state, now = house.state, house.clock.now()
    stands = state.imports(now).keys() & state.importers(now).keys()
    exports = {item.name for item in state.mesh.of_kind("export")}
    for key, spec in house.manifests().items():
        kind, namespace, name = key.split("/")
        if kind == "AuthorizationPolicy":
            source = spec["rules"][0]["from"][0]["source"]
            peers = {grant.exporter for grant in state.grants.values() if grant.importer == OWN}
            if not exports and "notPrincipals" not in source:
                assert source == {"principals": [f"{one}/*" for one in sorted(peers)]}
                continue
            foreign = {one.split("/")[0] for one in source["notPrincipals"]} - {OWN, "cluster.local"}
            assert spec["action"] == "DENY" and foreign <= stands
        elif kind == "Gateway":
            (host,) = spec["servers"][0]["hosts"]
            assert host in exports and f"AuthorizationPolicy/shop/trustfed-{host[0]}" in house.routes.table()
        else:
            names = (
                spec["subjectAltNames"] if kind == "ServiceEntry" else spec["trafficPolicy"]["tls"]["subjectAltNames"]
            )
            host = f"{name.removeprefix('trustfed-')}.{namespace}.svc.cluster.local"
            assert names == sorted(set(names))
            assert {one.split("/")[2] for one in names} - {OWN} <= stands
            seen = state.mesh.local.get(host)
            assert seen is not None and seen.sidecars in ("absent", "all")
    if exports or state.imports(now):
        assert "AuthorizationPolicy/istio-system/trustfed-callers" in house.routes.table()
