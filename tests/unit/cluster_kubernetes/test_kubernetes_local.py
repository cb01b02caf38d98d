"""What is read of objects, and how quickly what they show is believed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.kubernetes_api import pod, rule, service
from tests.unit.cluster_kubernetes.kubernetes_house import EXPORTED, PAYMENTS, SA
from tests.unit.cluster_mesh.probing_house import HOME
from trustfed.cluster.mesh.kubernetes import exports
from trustfed.cluster.mesh.kubernetes.local import Local, Unknown, careful, look
from trustfed.cluster.mesh.kubernetes.objects import Rule, Rules, Service, pod_of, rule_of, service_of
from trustfed.cluster.mesh.kubernetes.policies import Policies, policy_of
from trustfed.cluster.mesh.kubernetes.port import name_of
from trustfed.errors import Invalid

A, B = f"{SA}a", f"{SA}b"
PORTS = ("8080:http",)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
MEMBERS = st.sampled_from(
    [
        "metadata",
        "spec",
        "status",
        "annotations",
        "ports",
        "selector",
        "containers",
        "initContainers",
        "labels",
        "host",
        "mtls",
        "mode",
        "portLevelMtls",
    ]
)


def the_service(**spec: object) -> Service:
    found = service_of(service("payments", "shop", EXPORTED, **spec))
    assert found is not None
    return found


def the_rule(host: str, namespace: str = "shop", name: str = "r") -> Rule | None:
    return rule_of(rule(name, namespace, host), "cluster.local")


@pytest.mark.parametrize(
    ("written", "namespace", "covers"),
    [
        ("payments", "shop", True),
        ("payments", "other", False),
        (PAYMENTS, "other", True),
        (PAYMENTS.upper(), "other", True),
        ("payments.shop", "shop", False),  # Istio takes a name with a dot as it is
        ("*.shop.svc.cluster.local", "other", True),
        ("*", "other", True),
        ("*.svc.cluster.local", "other", True),
        ("*.orders.svc.cluster.local", "other", False),
    ],
)
def test_a_rule_applies_to_the_hosts_that_istio_gives_it_to(written: str, namespace: str, covers: bool) -> None:
    found = the_rule(written, namespace)
    assert found is not None
    assert bool(Rules([found]).of(PAYMENTS)) is covers


def test_what_we_rendered_is_no_owners_rule() -> None:
    assert the_rule("payments", name="trustfed-payments") is None


@settings(max_examples=40)
@given(st.dictionaries(MEMBERS, st.dictionaries(MEMBERS, JSON, max_size=4) | JSON, max_size=4))
def test_whatever_the_server_says_is_read_or_left_out(item: dict[str, Any]) -> None:
    name_of(item)
    found, _, _ = service_of(item), pod_of(item), rule_of(item, "cluster.local")
    policy_of(item)
    assert found is not None
    try:
        exports.offer_of(found, PAYMENTS, (A,), ())
    except Invalid as refused:
        assert refused.message


def test_sidecars_are_those_containers() -> None:
    kept = [pod_of(pod("p", "shop", "a", sidecar=sidecar)) for sidecar in (True, "init", False)]
    assert [one.sidecar for one in kept if one is not None] == [True, True, False]
    assert pod_of(pod("p", "shop", "a", phase="Succeeded")) is None


@pytest.mark.parametrize(
    ("port", "protocol"),
    [
        ({"name": "http"}, "HTTP"),
        ({"name": "http-web"}, "HTTP"),
        ({"name": "grpc-api"}, "GRPC"),
        ({"name": "db"}, "TCP"),
        ({"name": "web", "appProtocol": "http2"}, "HTTP2"),
        ({"name": "web", "appProtocol": "kubernetes.io/h2c"}, "HTTP2"),
        ({"name": "http", "appProtocol": "mysql"}, "TCP"),
    ],
)
def test_protocols_are_chosen_as_istio_chooses(port: dict[str, str], protocol: str) -> None:
    offer = exports.offer_of(the_service(ports=[{"port": 80, **port}]), PAYMENTS, (A,), ())
    assert offer.export.ports[0].protocol == protocol


def see(pods: list[Any], held: Local | None = None, rules: tuple[Rule, ...] = (), **spec: object) -> Local | Unknown:
    kept = [found for one in pods if (found := pod_of(one)) is not None]
    return look(PAYMENTS, the_service(**spec), kept, Rules(rules), Policies([], "istio-system"), HOME, held)


def test_only_pods_behind_the_service_count() -> None:
    pods = [pod("1", "shop", "payments", account="a"), pod("2", "shop", "orders", account="b", sidecar=False)]
    assert see(pods) == Local("all", (A,), (), PORTS)


def test_a_service_that_never_had_pods_is_as_good_as_absent() -> None:
    """In many meshes the calling cluster has a Service without endpoints, only so that its name resolves."""
    assert see([]) == Local("absent", (), (), PORTS)
    assert see([], Local("all", (A,), ())) == Local("all", (A,), (), PORTS)


def test_rules_that_are_too_large_are_not_kept_for_every_host() -> None:
    """Whoever may write one rule for `*` must not fill the journal with it, host by host."""

    def sized(host: str, count: int) -> Rule:
        found = rule_of(rule("r", "tenant", host, filler="x" * count), "cluster.local")
        assert found is not None
        return found

    pods = [pod("1", "shop", "payments", account="a")]
    assert isinstance(see(pods, rules=(sized("*", 3_000), sized("*.local", 3_000))), Local)
    assert see(pods, rules=(sized("*", 5_000), sized("*.local", 5_000))) == Unknown(
        "the DestinationRules with a * that apply to it (tenant/r, tenant/r) are longer than 8192 bytes"
    )
    assert isinstance(see(pods, rules=(sized(PAYMENTS, 40_000),)), Unknown)
    assert isinstance(see(pods, rules=(sized("orders.shop.svc.cluster.local", 40_000),)), Local)


def test_of_what_is_not_made_of_pods_nothing_is_known() -> None:
    assert isinstance(see([], selector={}), Unknown)
    assert isinstance(see([], type="ExternalName"), Unknown)
    assert look(PAYMENTS, None, [], Rules([]), "not read", HOME, None) == Local("absent", (), ())


@pytest.mark.parametrize(
    ("held", "found", "said"),
    [
        (None, ("all", (A,)), ("all", (A,))),
        (("all", (A,)), ("some", (A,)), ("some", (A,))),  # more careful: at once
        (("all", (A,)), ("none", (A,)), ("none", (A,))),
        (("all", (A,)), ("all", (A, B)), ("all", (A, B))),
        (("absent", ()), ("all", (A,)), ("all", (A,))),
        (("absent", ()), ("none", (A,)), ("none", (A,))),
        (("all", (A, B)), ("all", (A,)), ("all", (A, B))),  # bolder: what was said stays for now
        (("all", (A,)), ("all", (B,)), ("all", (A, B))),
        (("some", (A,)), ("all", (A,)), ("some", (A,))),
        (("none", (A,)), ("absent", ()), ("none", (A,))),
        (("all", (A,)), ("absent", ()), ("all", (A,))),
    ],
)
def test_what_is_more_careful_is_believed_at_once(held: Any, found: Any, said: Any) -> None:
    before = Local(held[0], held[1], ()) if held else None
    rules = ({"kind": "DestinationRule"},)
    assert careful(before, Local(found[0], found[1], rules)) == Local(said[0], said[1], rules)
