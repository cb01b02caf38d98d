"""Where Istio's mTLS is turned off, or led past a sidecar: such an endpoint counts as one without."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.kubernetes_api import pod, policy, service
from tests.unit.cluster_kubernetes.kubernetes_house import PAYMENTS
from tests.unit.cluster_mesh.probing_house import HOME
from trustfed.cluster.mesh.kubernetes.local import Local, look, numbered
from trustfed.cluster.mesh.kubernetes.objects import Rules, pod_of, service_of
from trustfed.cluster.mesh.kubernetes.policies import MAX_SELECTING, Policies, policy_of

MESH_OFF = policy("m", "istio-system", "DISABLE")
SHOP_OFF, SHOP_ON, SHOP_UNSET = (policy("n", "shop", mode) for mode in ("DISABLE", "PERMISSIVE", "UNSET"))
SELECTED = {"app": "payments"}
TRAFFIC = "traffic.sidecar.istio.io/"


def selecting(mode: str | None = None, created: str = "2025-01-01", **ports: str) -> dict[str, Any]:
    numbers = {int(name[1:]): said for name, said in ports.items()}
    return policy("w", "shop", mode, created=created, selector=SELECTED, ports=numbers)


def seen(policies: list[Any] | str, *, pods: list[Any] | None = None, held: Local | None = None, **spec: Any) -> str:
    """What is said of the sidecars of payments, whose pods have one."""
    found = service_of(service("payments", "shop", **spec))
    behind = [pod_of(one) for one in pods or [pod("p", "shop", "payments")]]
    kept = policies if isinstance(policies, str) else Policies(map(policy_of, policies), "istio-system")
    local = look(PAYMENTS, found, [one for one in behind if one], Rules([]), kept, HOME, held)
    return local.sidecars if isinstance(local, Local) else f"unknown: {local.why}"


def port(number: int, target: int | str | None = None, name: str = "http") -> dict[str, object]:
    return {"port": number, "name": name, **({} if target is None else {"targetPort": target})}


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ([], "all"),
        ([MESH_OFF], "some"),
        ([policy("m", "istio-system", "STRICT")], "all"),
        ([policy("m", "other", "DISABLE")], "all"),
        ([policy("m", "istio-system", "DISABLE", selector=SELECTED)], "all"),  # Istio gives it to nobody
        ([SHOP_OFF], "some"),
        ([MESH_OFF, SHOP_ON], "all"),  # the nearer one
        ([MESH_OFF, SHOP_UNSET], "some"),  # which must say something
        ([MESH_OFF, policy("n", "shop")], "some"),
        ([SHOP_OFF, selecting("STRICT")], "all"),
        ([SHOP_ON, selecting("DISABLE")], "some"),
        ([SHOP_OFF, selecting("UNSET")], "some"),
        ([SHOP_ON, selecting(p8080="DISABLE")], "some"),
        ([SHOP_OFF, selecting(p8080="STRICT")], "all"),
        ([SHOP_ON, selecting(p9090="DISABLE")], "all"),  # no port of the Service
        ([selecting("DISABLE", p8080="UNSET")], "some"),
        ([policy("w", "shop", "DISABLE", selector={"app": "orders"})], "all"),
        ([policy("w", "shop", "DISABLE", selector={**SELECTED, "v": "1"})], "all"),
        ([selecting("STRICT"), selecting("DISABLE", "2025-02-01")], "all"),  # the oldest
        ([selecting("STRICT", "2025-02-01"), selecting("DISABLE")], "some"),
        ([selecting("STRICT"), selecting("DISABLE")], "some"),  # as old: nobody knows
        ([SHOP_ON, policy("n2", "shop", "DISABLE")], "some"),
        ([SHOP_ON, policy("n2", "shop", "DISABLE", created="2025-02-01")], "all"),
        ([policy("n", "shop", "OPPORTUNISTIC")], "some"),  # whatever that may be
        ([policy(f"w{n}", "shop", "STRICT", selector={"app": str(n)}) for n in range(MAX_SELECTING + 1)], "some"),
    ],
)
def test_policies_are_taken_in_istios_order(policies: list[Any], said: str) -> None:
    assert seen(policies) == said


@pytest.mark.parametrize(
    ("ports", "level", "said"),
    [
        ([port(80, 8080)], "p8080", "some"),  # the pod's port and not the Service's
        ([port(80, 8080)], "p80", "all"),
        ([port(8080)], "p8080", "some"),
        ([port(80, "web")], "p8080", "some"),
        ([port(80, "admin")], "p8080", "all"),
        ([port(80, 8081), port(81, 8080, "b")], "p8080", "some"),  # a rule is for all ports of its host
        ([{**port(80, 8080), "protocol": "UDP"}, port(81, 8081, "b")], "p8080", "all"),
    ],
)
def test_a_port_is_the_one_of_the_pod(ports: list[Any], level: str, said: str) -> None:
    pods = [pod("p", "shop", "payments", ports={"web": 8080})]
    assert seen([selecting(**{level: "DISABLE"})], pods=pods, ports=ports) == said


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({f"{TRAFFIC}excludeInboundPorts": "8080"}, "some"),
        ({f"{TRAFFIC}excludeInboundPorts": "9090, 8080"}, "some"),
        ({f"{TRAFFIC}excludeInboundPorts": "9090"}, "all"),
        ({f"{TRAFFIC}excludeInboundPorts": ""}, "all"),
        ({f"{TRAFFIC}excludeInboundPorts": "*"}, "some"),
        ({f"{TRAFFIC}excludeInboundPorts": "80 8080"}, "some"),  # what cannot be read
        ({f"{TRAFFIC}includeInboundPorts": "*"}, "all"),
        ({f"{TRAFFIC}includeInboundPorts": "8080,9090"}, "all"),
        ({f"{TRAFFIC}includeInboundPorts": "9090"}, "some"),
        ({f"{TRAFFIC}includeInboundPorts": ""}, "some"),
        ({f"{TRAFFIC}includeInboundPorts": "8080", f"{TRAFFIC}excludeInboundPorts": "8080"}, "some"),
        ({"sidecar.istio.io/interceptionMode": "NONE"}, "some"),
        ({"sidecar.istio.io/interceptionMode": "TPROXY"}, "all"),
    ],
)
def test_what_is_led_past_the_sidecar_counts_as_without(annotations: dict[str, str], said: str) -> None:
    assert seen([], pods=[pod("p", "shop", "payments", annotations=annotations)]) == said
    both = [pod("p", "shop", "payments"), pod("q", "shop", "payments", annotations=annotations)]
    assert seen([], pods=both) == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "REDIRECT", "-b", "*", "-d", "15090,15021,15020"], "all"),
        (["-m", "REDIRECT", "-x", "", "-b", "*", "-d", "15090,8080"], "some"),
        (["-b", "9090"], "some"),
        (["-b", "", "-d", ""], "some"),
        (["-m", "NONE"], "some"),
        (["-d", 8080, {}], "all"),
        ("-d 8080", "all"),
    ],
)
def test_defaults_of_the_mesh_are_read_from_what_sets_the_redirection_up(arguments: Any, said: str) -> None:
    one = pod("p", "shop", "payments", annotations={f"{TRAFFIC}includeInboundPorts": "8080, 9091"})
    one["spec"]["initContainers"] = [{"name": "istio-init", "args": arguments}]
    assert seen([], pods=[one]) == said


def test_ports_of_istio_itself_and_of_the_node_are_never_redirected() -> None:
    assert seen([], ports=[port(80, 8080), port(15020, name="metrics")]) == "some"
    on_node = pod("p", "shop", "payments")
    on_node["spec"]["hostNetwork"] = True
    assert seen([], pods=[on_node]) == "some"


def test_of_policies_that_were_not_read_nothing_is_concluded() -> None:
    assert seen("not read") == "unknown: not read"
    plain = pod("q", "shop", "payments", sidecar=False)
    assert seen("not read", pods=[pod("p", "shop", "payments"), plain]) == "some"
    assert seen("not read", pods=[plain]) == "none"
    past = pod("q", "shop", "payments", annotations={f"{TRAFFIC}excludeInboundPorts": "8080"})
    assert seen("not read", pods=[past]) == "some"
    for held, said in (("all", "all"), ("some", "some"), ("none", "some"), ("absent", "some")):
        assert seen("not read", held=Local(held, (), ())) == said  # what was known, or more careful
    assert seen("not read", pods=[past], held=Local("all", (), ())) == "some"


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ([port(9090, name="grpc"), port(8080)], ("8080:http", "9090:grpc")),
        ([{"port": 8080}], ("8080:",)),
        ([{**port(53, name="dns"), "protocol": "UDP"}, port(53, name="dns-tcp")], ("53:dns-tcp",)),
        ([port(number, name=f"p{number}") for number in range(1, 130)], ()),  # more than are kept: not known
        ([port(8080, name="A B")], ()),
        ([], ()),
    ],
)
def test_ports_are_those_of_the_service(ports: list[Any], said: tuple[str, ...]) -> None:
    found = service_of(service("payments", "shop", ports=ports))
    assert found is not None
    assert numbered(found) == said
