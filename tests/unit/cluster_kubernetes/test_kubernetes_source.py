"""Annotated Services and pods become exports and local knowledge, through every fault of the API server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes import kubernetes_api as fakes
from tests.fakes.kubernetes_api import KubernetesApi, pod, policy, rule, service
from tests.unit.cluster_kubernetes.kubernetes_house import (
    CALLER,
    EXPORTED,
    PAYMENTS,
    SA,
    SUFFIX,
    KubernetesHouse,
    until,
)
from tests.unit.cluster_mesh.probing_house import HOME, ProbingHouse, export
from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.events import RouteTold
from trustfed.cluster.mesh.kubernetes import exporting, source
from trustfed.cluster.mesh.kubernetes.local import SETTLE_SECONDS
from trustfed.federation.mesh import Export, ServicePort, write_item
from trustfed.runtime.pace import Paces


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[KubernetesHouse]:
    journalled = await ProbingHouse.make()
    with KubernetesApi(tmp_path) as api:
        yield KubernetesHouse(api, journalled)
    await journalled.close()


def running_payments(house: KubernetesHouse, annotations: dict[str, str] | None = None) -> None:
    house.api.put("services", service("payments", "shop", annotations))
    house.api.put("pods", pod("payments-1", "shop", "payments", account="payments"))


async def test_an_annotated_service_is_exported_as_it_is(house: KubernetesHouse) -> None:
    running_payments(
        house,
        {
            **EXPORTED,
            "trustfed.io/groups": "payments, checkout",
            "trustfed.io/owner": "team-pay",
            "trustfed.io/locality": "eu-west-1/eu-west-1a",
            "trustfed.io/reason": "ticket 12",
        },
    )
    house.api.put("destinationrules", rule("p", "shop", "payments", subsets=[{"name": "v1"}, {"name": "v2"}]))
    async with house.running():
        await until(house.export, "the export")
        await until(house.local, "local knowledge")
    exported, local = house.export(), house.local()
    assert exported is not None
    assert local is not None
    assert (exported.answers, exported.callers) == ((f"{SA}payments",), (CALLER,))
    assert [(p.number, p.name, p.protocol) for p in exported.ports] == [(8080, "http", "HTTP")]
    assert (dict(exported.workload), exported.subsets) == ({"app": "payments"}, ("v1", "v2"))
    assert (exported.groups, exported.locality) == (("payments", "checkout"), "eu-west-1/eu-west-1a")
    assert (local.sidecars, local.answers, local.source) == ("all", (f"{SA}payments",), "kubernetes")
    assert [one["metadata"]["name"] for one in json.loads(local.rules)] == ["p"]
    (put,) = [r.event for r in await house.journalled.journal.read(0, 100) if r.event.kind == "mesh.put"]
    assert (put.actor, put.owner, put.reason) == ("kubernetes", "team-pay", "ticket 12")


async def test_a_service_that_nobody_annotated_or_imports_is_left_alone(house: KubernetesHouse) -> None:
    running_payments(house)
    house.api.put("services", service("orders", "other", EXPORTED))
    house.api.put("pods", pod("o", "other", "orders", account="orders"))
    async with house.running():
        await until(lambda: house.export(f"orders.other.{SUFFIX}"), "the other export")
    assert house.export() is None
    assert house.local() is None
    assert house.api.count("list", "/api/v1/namespaces/shop/pods") == 0


async def test_taking_the_annotation_off_or_the_service_away_takes_the_export_back(house: KubernetesHouse) -> None:
    running_payments(house, EXPORTED)
    async with house.running():
        await until(house.export, "the export")
        house.api.put("services", service("payments", "shop"))
        await until(lambda: house.export() is None, "its end")
        await until(lambda: house.local() is None, "nobody wants it any more")
        house.api.put("services", service("payments", "shop", EXPORTED))
        await until(house.export, "the export again")
        house.api.delete("services", "shop", "payments")
        await until(lambda: house.export() is None, "its end")


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({**EXPORTED, "trustfed.io/export": "yes"}, "is 'yes'"),
        ({**EXPORTED, "trustfed.io/callers": "east.test"}, "east.test"),
        ({**EXPORTED, "trustfed.io/callers": f"spiffe://{HOME}/ns/a/sa/b"}, "own domain"),
        ({**EXPORTED, "trustfed.io/answers": "spiffe://north.test/ns/shop/sa/payments"}, "may answer"),
        ({**EXPORTED, "trustfed.io/caller": CALLER}, "did you mean trustfed.io/callers"),
        ({**EXPORTED, "trustfed.io/locality": "über all"}, "locality"),
    ],
)
async def test_an_annotation_that_is_wrong_is_refused_and_the_good_state_stays(
    house: KubernetesHouse, annotations: dict[str, str], said: str
) -> None:
    running_payments(house, EXPORTED)
    async with house.running():
        await until(house.export, "the export")
        good = house.export()
        house.api.put("services", service("payments", "shop", annotations))
        await until(house.refused, "the refusal")
        assert said in house.refused()["shop/payments"]
        assert house.export() == good
        house.api.put("services", service("payments", "shop", EXPORTED))
        await until(lambda: not house.refused(), "all is well again")
        assert house.export() == good


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "ExternalName", "externalName": "elsewhere.example"}, "ExternalName"),
        ({"selector": None}, "selects no pods"),
        ({"ports": [{"port": 53, "name": "dns", "protocol": "UDP"}]}, "no TCP port"),
        ({"ports": [{"port": 8080}]}, "has no name"),
        ({"ports": "x"}, "no TCP port"),
        ({"selector": {"app": "nothing-runs"}}, "no pods yet"),
    ],
)
async def test_a_service_that_cannot_be_exported_says_why(
    house: KubernetesHouse, spec: dict[str, object], said: str
) -> None:
    house.api.put("services", service("payments", "shop", EXPORTED, **spec))
    running_orders = service("orders", "shop", EXPORTED)
    house.api.put("services", running_orders)
    house.api.put("pods", pod("o", "shop", "orders"))
    async with house.running():
        await until(house.refused, "the refusal")
        await until(lambda: house.export(f"orders.shop.{SUFFIX}"), "the others go on")
        assert said in house.refused()["shop/payments"]
        assert house.export() is None


async def test_sidecars_answers_and_rules_of_a_host_that_is_imported(house: KubernetesHouse) -> None:
    running_payments(house)
    await house.imports()
    async with house.running():
        await until(lambda: (seen := house.local()) and seen.sidecars == "all", "all have one")
        house.api.put("pods", pod("payments-2", "shop", "payments", account="canary", sidecar="init"))
        await until(lambda: (seen := house.local()) and len(seen.answers) == 2, "a further identity")
        house.api.put("pods", pod("payments-3", "shop", "payments", sidecar=False))
        await until(lambda: (seen := house.local()) and seen.sidecars == "some", "one has none")
        house.api.put("destinationrules", rule("mine", "elsewhere", "*.shop.svc.cluster.local", trafficPolicy={}))
        house.api.put("destinationrules", rule("trustfed-payments", "shop", "payments"))
        house.api.put("destinationrules", rule("others", "elsewhere", "payments"))
        await until(lambda: (seen := house.local()) and b"mine" in seen.rules, "the rule")
        seen = house.local()
        assert seen is not None
        assert [one["metadata"]["name"] for one in json.loads(seen.rules)] == ["mine"]
        house.api.delete("pods", "shop", "payments-3")
        house.clock.ahead += 2 * SETTLE_SECONDS
        await until(lambda: house.source.status()["settling"], "it has to settle")
        assert house.local().sidecars == "some"  # type: ignore[union-attr]
        house.clock.ahead += 2 * SETTLE_SECONDS
        house.source._news.set()
        await until(lambda: (seen := house.local()) and seen.sidecars == "all", "it has settled")


async def test_mtls_that_is_turned_off_is_believed_at_once(house: KubernetesHouse) -> None:
    running_payments(house)
    await house.imports()
    async with house.running():
        await until(lambda: (seen := house.local()) and seen.sidecars == "all", "all take it")
        house.api.put("peerauthentications", policy("default", "elsewhere", "DISABLE"))
        house.api.put("peerauthentications", policy("default", "istio-system", "DISABLE"))
        await until(lambda: (seen := house.local()) and seen.sidecars == "some", "off for the mesh")
        house.api.put("peerauthentications", policy("default", "shop", "STRICT"))
        house.clock.ahead += 2 * SETTLE_SECONDS
        await until(lambda: house.source.status()["settling"], "it has to settle")
        house.clock.ahead += 2 * SETTLE_SECONDS
        house.source._news.set()
        await until(lambda: (seen := house.local()) and seen.sidecars == "all", "on in the namespace")
        excluded = {"traffic.sidecar.istio.io/excludeInboundPorts": "8080"}
        house.api.put("pods", pod("payments-2", "shop", "payments", annotations=excluded))
        await until(lambda: (seen := house.local()) and seen.sidecars == "some", "a port that is excluded")


async def test_the_root_namespace_is_the_configured_one(house: KubernetesHouse) -> None:
    other = KubernetesHouse(house.api, house.journalled, "mesh-root")
    house.api.put("peerauthentications", policy("default", "mesh-root", "DISABLE"))
    running_payments(other)
    await other.imports()
    async with other.running():
        await until(lambda: (seen := other.local()) and seen.sidecars == "some", "off for the mesh")


async def test_where_policies_cannot_be_read_nothing_is_believed_to_take_mtls(house: KubernetesHouse) -> None:
    house.api.put("peerauthentications", policy("default", "elsewhere", "STRICT"))
    house.api.fault("list", fakes.status(403), path="/apis/security.istio.io/v1/peerauthentications", times=10_000)
    running_payments(house)
    await house.imports()
    async with house.running():
        await until(lambda: "PeerAuthentications" in str(house.source.status()["unknown"]), "that it is not known")
        assert house.local() is None
        house.api.put("pods", pod("payments-2", "shop", "payments", account="payments", sidecar=False))
        await until(lambda: (seen := house.local()) and seen.sidecars == "some", "what is seen all the same")
        house.api.delete("pods", "shop", "payments-2")
        house.api.clear_faults()
        await until(lambda: not house.errors(), "all is well again")
        await until(lambda: house.source.status()["settling"], "to be believed after a while")
        house.clock.ahead += 2 * SETTLE_SECONDS
        house.source._news.set()
        await until(lambda: (seen := house.local()) and seen.sidecars == "all", "all take it")


async def test_who_answers_is_still_read_where_policies_are_not(house: KubernetesHouse) -> None:
    running_payments(house)
    await house.imports()
    async with house.running():
        await until(lambda: (seen := house.local()) and seen.sidecars == "all", "all take it")
    house.api.fault("list", fakes.status(403), path="/apis/security.istio.io/v1/peerauthentications", times=10_000)
    again = KubernetesHouse(house.api, house.journalled)
    async with again.running():
        house.api.put("pods", pod("payments-2", "shop", "payments", account="canary"))
        await until(lambda: (seen := again.local()) and len(seen.answers) == 2, "a further identity")
        assert again.local().sidecars == "all"  # type: ignore[union-attr]
        assert "PeerAuthentications" in str(again.source.status()["unknown"])


async def test_the_ports_of_a_service_are_known(house: KubernetesHouse) -> None:
    running_payments(house)
    await house.imports()
    async with house.running():
        await until(lambda: (seen := house.local()) and seen.ports == ("8080:http",), "its port")
        ports = [{"name": "web", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]
        house.api.put("services", service("payments", "shop", ports=ports))
        await until(lambda: (seen := house.local()) and seen.ports == ("8080:web",), "its new name")


async def test_a_host_that_is_told_by_another_domain_is_looked_at(house: KubernetesHouse) -> None:
    async with house.running():
        data = write_item(export("east.test"))
        told = RouteTold("east.test", "export", PAYMENTS, data, 1, b"key", house.journalled.clock.now())
        await house.journalled.record(told)
        await until(lambda: (seen := house.local()) and seen.sidecars == "absent", "no such service here")


async def test_a_service_whose_pods_are_gone_keeps_what_was_known(house: KubernetesHouse) -> None:
    running_payments(house)
    await house.imports()
    async with house.running():
        await until(house.local, "local knowledge")
        house.api.delete("pods", "shop", "payments-1")
        house.api.put("services", service("another", "shop", {**EXPORTED, "trustfed.io/answers": f"{SA}x"}))
        await until(lambda: house.export(f"another.shop.{SUFFIX}"), "something later")
        house.clock.ahead += 3 * SETTLE_SECONDS
        house.source._mark(set())
        await until(lambda: not house.source._all, "it was looked at")
        assert house.local().answers == (f"{SA}payments",)  # type: ignore[union-attr]


OUTAGES = {
    "away": lambda api: api.stop(),
    "500": lambda api: api.fault("*", fakes.status(500), times=1_000),
    "token refused": lambda api: api.fault("*", fakes.status(401), times=1_000),
    "garbage": lambda api: api.fault("*", fakes.bytes_instead(b"<html>"), times=1_000),
    "empty documents": lambda api: api.fault("*", fakes.bytes_instead(b"{}"), times=1_000),
    "not there": lambda api: api.fault("*", fakes.status(404), times=1_000),
    "cut": lambda api: api.fault("*", fakes.cut, times=1_000),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_changes_nothing(house: KubernetesHouse, outage: str) -> None:
    running_payments(house, EXPORTED)
    house.api.put("destinationrules", rule("p", "shop", "payments"))
    async with house.running():
        await until(house.export, "the export")
        await until(house.local, "local knowledge")
        await until(lambda: house.api.watching == 4, "the watches")  # one that opens later would not be cut
        before = house.journalled.fold.position
        OUTAGES[outage](house.api)
        house.api.cut_watches()
        await until(lambda: len(house.errors()) == 4, "all four are seen to fail")
        assert house.journalled.fold.position == before
        house.api.clear_faults()
        house.api.start() if outage == "away" else None
        house.api.put("services", service("payments", "shop", {**EXPORTED, "trustfed.io/groups": "g"}))
        await until(lambda: (e := house.export()) and e.groups == ("g",), "what happened meanwhile")
        await until(lambda: not house.errors(), "all is well again")


async def test_what_happened_while_a_watch_was_cut_or_forgotten_is_read(house: KubernetesHouse) -> None:
    running_payments(house, EXPORTED)
    async with house.running():
        await until(house.export, "the export")
        await until(lambda: house.api.watching == 4, "the watches")
        house.api.forget_history()  # so that the watch gets 410 Gone, and lists again
        house.api.cut_watches()
        house.api.delete("services", "shop", "payments")
        await until(lambda: house.export() is None, "its end")


async def test_a_restart_during_an_outage_forgets_nothing(house: KubernetesHouse) -> None:
    running_payments(house, EXPORTED)
    async with house.running():
        await until(house.local, "local knowledge")
        await until(house.export, "the export")
    house.api.fault("*", fakes.status(503), times=1_000)
    again = KubernetesHouse(house.api, house.journalled)
    before = house.journalled.fold.position
    async with again.running():
        await until(lambda: len(again.errors()) == 3, "services, rules and policies fail")
        assert house.journalled.fold.position == before
        house.api.clear_faults()
        await until(lambda: not again.errors() and len(again.source._shown._pods) == 1, "all is well again")
    assert again.export() is not None


async def test_items_of_other_sources_are_not_touched(house: KubernetesHouse) -> None:
    item = Export(PAYMENTS, (ServicePort(1, "tcp", "TCP"),), (f"{SA}payments",), (), {"app": "mine"})
    now = house.journalled.clock.now()
    await house.journalled.record(*own.put(house.journalled.state, item, "command", now))
    await house.journalled.record(
        *own.local(house.journalled.state, PAYMENTS, "absent", (), (), "directory", now + timedelta(seconds=1))
    )
    running_payments(house, EXPORTED)
    async with house.running():
        await until(house.refused, "the refusal")
        assert "was put by a command" in house.refused()["shop/payments"]
        await until(lambda: "directory of desired state" in str(house.source.status()["unknown"]), "the other one")
        house.api.delete("services", "shop", "payments")
        await until(lambda: not house.refused(), "the refusal's end")
    assert house.export() == item
    assert house.local().source == "directory"  # type: ignore[union-attr]


async def test_a_service_that_changes_without_end_makes_few_events(house: KubernetesHouse) -> None:
    running_payments(house, EXPORTED)
    async with house.running():
        await until(house.export, "the export")
        before = house.journalled.fold.position
        shown = house.source._shown._services
        for number in range(60):
            house.api.put("services", service("payments", "shop", {**EXPORTED, "trustfed.io/groups": f"g{number}"}))
            await until(lambda at=number: f"g{at}" in str(shown.items), "it was seen")  # type: ignore[misc]
        await until(lambda: not house.source._all, "decided")
        assert house.journalled.fold.position - before <= 12
        house.clock.ahead += 60
        house.source._mark({"shop"})
        await until(lambda: (e := house.export()) and e.groups == ("g59",), "the newest, in the end")


async def test_hosts_of_another_cluster_domain_are_absent_here(house: KubernetesHouse) -> None:
    running_payments(house)
    host = "payments.shop.svc.other.local"
    await house.imports(host)
    async with house.running():
        await until(lambda: (seen := house.local(host)) and seen.sidecars == "absent", "no such name here")


async def test_without_istio_in_this_cluster_there_are_no_rules(house: KubernetesHouse) -> None:
    house.api.groups = []
    running_payments(house)
    await house.imports()
    async with house.running():
        await until(lambda: (seen := house.local()) and seen.rules == b"[]", "known, without rules")


async def test_the_status_and_the_metrics_show_what_fails(house: KubernetesHouse) -> None:
    running_payments(house, EXPORTED)
    house.api.fault("list", fakes.status(403), path="/api/v1/namespaces/shop/pods", times=1_000)
    async with house.running():
        await until(house.errors, "the pods are refused")
        await until(lambda: "pods of shop have not been read" in str(house.source.status()["unknown"]), "and why")
        assert b"trustfed_mesh_kubernetes_failing 1" in house.registry.exposition()
        assert house.export() is None
        house.api.clear_faults()
        await until(house.export, "the export")
    assert house.api.token not in str(house.source.status())


async def test_one_namespace_cannot_fill_the_journal(house: KubernetesHouse) -> None:
    annotations = {**EXPORTED, "trustfed.io/answers": f"{SA}x"}
    house.source._exporting._namespaces = Paces(5, 60.0)
    for number in range(20):
        house.api.put("services", service(f"s{number}", "greedy", annotations))
    running_payments(house, EXPORTED)
    async with house.running():
        await until(house.export, "the export of another namespace")
        mesh = house.journalled.state.mesh
        assert sum(own.name.endswith(f".greedy.{SUFFIX}") for own in mesh.of_kind("export")) == 5
        house.clock.ahead += 60
        house.source._mark({"greedy"})
        await until(lambda: len(list(house.journalled.state.mesh.of_kind("export"))) == 7, "one more, in its turn")


async def test_annotations_of_one_namespace_displace_no_host_that_is_in_use(
    house: KubernetesHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_HOSTS", 3)
    monkeypatch.setattr(exporting, "MAX_OF_NAMESPACE", 1)
    running_payments(house)
    await house.imports()
    for number in range(4):
        house.api.put("services", service(f"a{number}", "aaa", {**EXPORTED, "trustfed.io/answers": f"{SA}a"}))
    async with house.running():
        await until(lambda: len(house.refused()) == 3, "the refused")
        house.api.put("pods", pod("payments-2", "shop", "payments", account="payments", sidecar=False))
        await until(lambda: (local := house.local()) and local.sidecars == "some", "the pod without a sidecar")
    assert sum(held.name.split(".")[1] == "aaa" for held in house.journalled.state.mesh.of_kind("export")) == 1
    assert "namespace aaa exports 1 services already" in next(iter(house.refused().values()))


@pytest.mark.parametrize("rules", [1, 40], ids=["large", "many"])
async def test_no_tenants_rule_hides_a_pod_without_a_sidecar(house: KubernetesHouse, rules: int) -> None:
    running_payments(house)
    house.api.put("destinationrules", rule("owners", "shop", PAYMENTS))
    await house.imports()
    async with house.running():
        await until(house.local, "local knowledge")
        for number in range(rules):
            name, host, size = f"r{number}", "*" if rules == 1 else PAYMENTS, 9_000 if rules == 1 else 10
            house.api.put("destinationrules", rule(name, "tenant", host, subsets=[{"name": "v" * size}]))
        await until(lambda: house.source.status()["unknown"], "that the rules are too much")
        house.api.put("pods", pod("payments-2", "shop", "payments", account="other", sidecar=False))
        await until(lambda: (local := house.local()) and local.sidecars == "some", "the pod without a sidecar")
        local = house.local()
    assert local is not None
    assert local.answers == (f"{SA}other", f"{SA}payments")
    assert "owners" in {one["metadata"]["name"] for one in json.loads(local.rules)}
