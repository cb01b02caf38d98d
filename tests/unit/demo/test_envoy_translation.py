"""The stand-in for istiod that the proofs use: what it translates, and that it refuses what it does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.system.stack import until
from trustfed.demo.envoy.follow import Follower
from trustfed.demo.envoy.gateway import gateway, sni
from trustfed.demo.envoy.inbound import Port, Workload, inbound
from trustfed.demo.envoy.manifests import read_directory
from trustfed.demo.envoy.outbound import outbound, seconds
from trustfed.demo.envoy.proxy import Proxy
from trustfed.demo.envoy.resources import Resources, Secrets
from trustfed.errors import Invalid

HOST = "payments.ns.svc.cluster.local"
PAYMENTS, CHECKOUT = "spiffe://prod-eu-west/ns/ns/sa/payments", "prod-us-west/ns/ns/sa/checkout"
LISTENS = {(HOST, 8080): "127.0.0.1:1001", (HOST, 5432): "127.0.0.1:1002"}
SECRETS = Secrets(Path("/agent.sock"))


def manifest(kind: str, spec: dict[str, Any], namespace: str = "ns", name: str = "trustfed-x", **more: Any) -> Any:
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace, **more}, "spec": spec}


def endpoint(address: str, locality: str, weight: int = 1) -> dict[str, Any]:
    return {"address": address, "ports": {"http": 15443, "tcp": 15443}, "locality": locality, "weight": weight}


def entry(*endpoints: dict[str, Any], sans: tuple[str, ...] = (PAYMENTS,)) -> Any:
    ports = [
        {"number": 8080, "name": "http", "protocol": "HTTP"},
        {"number": 5432, "name": "tcp", "protocol": "TCP"},
        {"number": 9999, "name": "other", "protocol": "TCP"},
    ]
    spec = {"hosts": [HOST], "resolution": "STATIC", "ports": ports, "endpoints": list(endpoints)}
    return manifest("ServiceEntry", spec | ({"subjectAltNames": list(sans)} if sans else {}))


def rule(**more: Any) -> Any:
    policy: dict[str, Any] = {"tls": {"mode": "ISTIO_MUTUAL"}} | more
    return manifest("DestinationRule", {"host": HOST, "trafficPolicy": policy})


def policy(not_principals: list[str], labels: dict[str, str] | None = None, namespace: str = "ns") -> Any:
    source = {"principals": ["*"], "notPrincipals": not_principals}
    spec: dict[str, Any] = {"action": "DENY", "rules": [{"from": [{"source": source}]}]}
    return manifest("AuthorizationPolicy", spec | ({"selector": {"matchLabels": labels}} if labels else {}), namespace)


def east_west(*hosts: str) -> Any:
    server = {"port": {"number": 15443, "name": "tls", "protocol": "TLS"}, "tls": {"mode": "AUTO_PASSTHROUGH"}}
    return manifest("Gateway", {"selector": {"istio": "eastwestgateway"}, "servers": [server | {"hosts": list(hosts)}]})


def test_an_imported_service_becomes_a_listener_and_a_cluster_per_port() -> None:
    documents = [
        entry(endpoint("203.0.113.20", "eu-west-1/a", 3)),
        rule(connectionPool={"tcp": {"maxConnectionDuration": "1h"}}, outlierDetection={"consecutive5xxErrors": 5}),
    ]
    made = outbound(documents, LISTENS, SECRETS, "us-west-2/a")
    assert [one["name"] for one in made.listeners] == [f"outbound|8080||{HOST}", f"outbound|5432||{HOST}"]
    http, tcp = made.clusters
    tls = http["transport_socket"]["typed_config"]
    assert tls["sni"] == f"outbound_.8080_._.{HOST}" == sni(HOST, 8080)
    validation = tls["common_tls_context"]["combined_validation_context"]
    assert validation["default_validation_context"]["match_subject_alt_names"] == [{"exact": PAYMENTS}]
    assert validation["validation_context_sds_secret_config"]["name"] == "ROOTCA"
    assert http["outlier_detection"]["consecutive_5xx"] == 5
    assert "3600s" in json.dumps(http["typed_extension_protocol_options"])
    assert "3600s" in json.dumps(made.listeners[1]) and "istio-peer-exchange" in json.dumps(tcp["transport_socket"])


def test_the_rules_names_win_over_those_of_the_entry_and_none_at_all_is_refused() -> None:
    both = ["spiffe://prod-us-west/ns/ns/sa/payments", PAYMENTS]
    made = outbound(
        [entry(endpoint("203.0.113.20", "")), rule(tls={"mode": "ISTIO_MUTUAL", "subjectAltNames": both})],
        LISTENS,
        SECRETS,
    )
    assert json.dumps([{"exact": one} for one in both]) in json.dumps(made.clusters[0])
    with pytest.raises(Invalid, match="anybody may answer"):
        outbound([entry(endpoint("203.0.113.20", ""), sans=()), rule()], LISTENS, SECRETS)
    known = endpoint("203.0.113.20", "") | {"labels": {"security.istio.io/tlsMode": "istio"}}
    assert PAYMENTS in json.dumps(outbound([entry(known)], LISTENS, SECRETS).clusters)  # auto mTLS: there is no rule
    with pytest.raises(Invalid, match="nothing asks for mTLS"):
        outbound([entry(endpoint("203.0.113.20", "")), rule(tls={})], LISTENS, SECRETS)


def test_the_oldest_of_two_rules_for_a_host_holds() -> None:
    old = rule(tls={"mode": "ISTIO_MUTUAL", "subjectAltNames": ["spiffe://old/x"]})
    new = rule(tls={"mode": "ISTIO_MUTUAL", "subjectAltNames": ["spiffe://new/x"]})
    old["metadata"]["creationTimestamp"], new["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z", "2026-02-01"
    made = outbound([entry(endpoint("203.0.113.20", "")), new, old], LISTENS, SECRETS)
    assert "spiffe://old/x" in json.dumps(made.clusters) and "spiffe://new/x" not in json.dumps(made.clusters)


def test_nearer_gateways_come_first_when_there_is_outlier_detection() -> None:
    places = ("us-west-2/a", "us-west-2/b", "eu-west-1/a", "ap-1/a")
    documents = entry(*(endpoint(f"203.0.113.{n}", place) for n, place in enumerate(places)))
    failover = {"localityLbSetting": {"enabled": True, "failover": [{"from": "us-west-2", "to": "eu-west-1"}]}}
    near = rule(loadBalancer=failover, outlierDetection={"consecutive5xxErrors": 5})
    made = outbound([documents, near], LISTENS, SECRETS, "us-west-2/a")
    found = made.clusters[0]["load_assignment"]["endpoints"]
    assert {f"{one['locality']['region']}/{one['locality']['zone']}": one["priority"] for one in found} == {
        "us-west-2/a": 0,
        "us-west-2/b": 1,
        "eu-west-1/a": 2,
        "ap-1/a": 3,
    }
    made = outbound([documents, rule(loadBalancer=failover)], LISTENS, SECRETS, "us-west-2/a")
    assert {one["priority"] for one in made.clusters[0]["load_assignment"]["endpoints"]} == {0}


def test_a_gateway_opens_exported_hosts_only() -> None:
    services = {HOST: {8080: ["127.0.0.1:1"]}, "private.ns.svc.cluster.local": {8080: ["127.0.0.1:2"]}}
    labels = {"istio": "eastwestgateway"}
    made = gateway([east_west(HOST, "unknown.ns.svc.cluster.local")], "127.0.0.1:15443", labels, services)
    (listener,) = made.listeners
    assert [chain["filter_chain_match"]["server_names"] for chain in listener["filter_chains"]] == [[sni(HOST, 8080)]]
    assert gateway([east_west(HOST)], "127.0.0.1:15443", {"istio": "ingress"}, services) == Resources()
    with pytest.raises(Invalid, match=r"exposes \*\.local"):
        gateway([east_west("*.local")], "127.0.0.1:15443", labels, services)


def test_deny_policies_of_the_workload_and_of_the_mesh_guard_every_port() -> None:
    workload = Workload("ns", {"app": "payments"}, [Port(8080, "HTTP", "127.0.0.1:1", "127.0.0.1:2")])
    tcp = Workload("ns", {"app": "payments"}, [Port(5432, "TCP", "127.0.0.1:1", "127.0.0.1:2")])
    documents = [
        policy(["prod-eu-west/*", CHECKOUT], {"app": "payments"}),
        policy(["prod-eu-west/*"], {"app": "other"}),
        policy(["prod-eu-west/*", "*/sa/any"], namespace="istio-system"),
        policy(["never/*"], namespace="elsewhere"),
    ]
    for one, filter_name in ((workload, "envoy.filters.http.rbac"), (tcp, "envoy.filters.network.rbac")):
        (listener,) = inbound(documents, one, SECRETS).listeners
        assert [chain["filter_chain_match"]["transport_protocol"] for chain in listener["filter_chains"]] == [
            "tls",
            "raw_buffer",
        ]
        text = json.dumps(listener)
        assert filter_name in text and "never/" not in text
        assert text.count('"prefix": "spiffe://prod-eu-west/"') == 4  # two policies, two chains
        assert f'"exact": "spiffe://{CHECKOUT}"' in text and '"regex": "spiffe://.*/sa/any"' in text
    assert "rbac" not in json.dumps(inbound([], workload, SECRETS).listeners)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (manifest("AuthorizationPolicy", {"action": "ALLOW", "rules": [{}]}), "no DENY policy"),
        (manifest("AuthorizationPolicy", {"action": "DENY", "rules": [{"to": []}]}), "the field to"),
        (manifest("AuthorizationPolicy", {"targetRefs": []}), "the field targetRefs"),
    ],
)
def test_what_it_does_not_translate_it_refuses(document: Any, words: str) -> None:
    workload = Workload("ns", {}, [Port(8080, "HTTP", "127.0.0.1:1", "127.0.0.1:2")])
    with pytest.raises(Invalid, match=words):
        inbound([document], workload, SECRETS)


def test_durations_as_kubernetes_writes_them() -> None:
    assert [seconds(text) for text in ("1h", "1h30m", "500ms", "30s")] == ["3600s", "5400s", "0.5s", "30s"]
    for text in ("1", "s", "1d", "-1s"):
        with pytest.raises(Invalid, match="no duration"):
            seconds(text)


def test_a_directory_is_read_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    assert read_directory(tmp_path / "missing") == []
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.yaml").write_text(json.dumps(entry()) + "\n---\n" + json.dumps(rule()) + "\n")
    (tmp_path / "deep/b.json").write_text(json.dumps(east_west(HOST)))
    (tmp_path / ".half.yaml").write_text("{")
    (tmp_path / "note.txt").write_text("no manifest")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "a.yaml")
    assert [one["kind"] for one in read_directory(tmp_path)] == ["ServiceEntry", "DestinationRule", "Gateway"]
    (tmp_path / "c.yaml").write_text('{"kind": "Gateway"}')
    with pytest.raises(Invalid, match=r"c\.yaml is no Kubernetes object"):
        read_directory(tmp_path)


def test_a_proxy_is_told_only_of_changes(tmp_path: Path) -> None:
    proxy = Proxy("envoy-x", tmp_path / "x", SECRETS)
    proxy.prepare()
    made = outbound([entry(endpoint("203.0.113.20", "")), rule()], LISTENS, SECRETS)
    assert proxy.apply(made) and not proxy.apply(made)
    told = json.loads((tmp_path / "x/listeners.json").read_text())
    assert len(told["resources"]) == 2 and proxy.apply(Resources())
    assert json.loads((tmp_path / "x/listeners.json").read_text())["version_info"] != told["version_info"]
    assert (proxy.config.stat().st_mode & 0o777) == 0o600
    assert not proxy.ready()


def test_proxies_follow_a_directory_and_keep_what_they_have_when_it_cannot_be_translated(tmp_path: Path) -> None:
    routes = tmp_path / "istio"
    routes.mkdir()
    proxy = Proxy("envoy-x", tmp_path / "x", SECRETS)
    proxy.prepare()
    follower = Follower(routes, [(proxy, lambda documents: outbound(documents, LISTENS, SECRETS))])

    def told() -> int:
        return len(json.loads((tmp_path / "x/listeners.json").read_text())["resources"])

    def put(name: str, *documents: Any) -> None:
        (routes / f".{name}").write_text("\n---\n".join(map(json.dumps, documents)))
        (routes / f".{name}").rename(routes / name)

    try:
        put("a.yaml", entry(endpoint("203.0.113.20", "")), rule())
        until(lambda: told() == 2, "the routes")
        put("a.yaml", entry(endpoint("203.0.113.20", ""), sans=()), rule())
        until(lambda: "anybody may answer" in follower.error, "the error")
        assert told() == 2
        (routes / "a.yaml").unlink()
        until(lambda: told() == 0 and not follower.error, "their end")
    finally:
        follower.close()
