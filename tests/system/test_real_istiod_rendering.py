"""What a real istiod makes of our resources: the clusters, endpoints, listeners and RBAC that it sends to proxies.

TRUSTFED_ISTIOD names a pilot-discovery of 1.29, which runs without Kubernetes; without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
import queue
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.system.stack import until
from tests.unit.cluster_mesh.routes_house import EAST, HOST, NORTH, OWN, House, export, gateway
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.demo.ports import free_port
from trustfed.federation.mesh import Import, ServicePort
from trustfed.proto import envoy_pb2 as pb

ISTIOD = os.environ.get("TRUSTFED_ISTIOD", "")
pytestmark = [
    pytest.mark.skipif(not ISTIOD, reason="TRUSTFED_ISTIOD names no istiod (pilot-discovery 1.29)"),
    pytest.mark.timeout(120),
]
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
CONFIG = "type.googleapis.com/envoy.config."
CDS, EDS, LDS = (
    CONFIG + name for name in ("cluster.v3.Cluster", "endpoint.v3.ClusterLoadAssignment", "listener.v3.Listener")
)
STOCK, BOTH, DB, LEDGER = (f"{name}.shop.svc.cluster.local" for name in ("stock", "both", "db", "ledger"))
TILL, THIEF = f"spiffe://{EAST}/ns/shop/sa/till", f"spiffe://{EAST}/ns/shop/sa/thief"
MINE = f"spiffe://{OWN}/ns/shop/sa/both"
PROXIES = {"stock": "10.0.0.9", "ledger": "10.0.0.11"}


class RealIstiod:
    """An istiod of OWN whose configuration is one directory; `close` ends it."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.source.mkdir()
        mesh = folder / "mesh.yaml"
        mesh.write_text(json.dumps({"trustDomain": OWN, "configSources": [{"address": f"fs://{self.source}"}]}))
        self.http, self.grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        argv = [ISTIOD, "discovery", "--registries=", f"--meshConfig={mesh}", f"--clusterID={OWN}"]
        argv += [f"--httpAddr={self.http}", f"--grpcAddr={self.grpc}", "--secureGRPCAddr=", "--httpsAddr="]
        argv += [f"--monitoringAddr=127.0.0.1:{free_port()}", "--ctrlz_port=0"]
        more = {"POD_NAME": "istiod-0", "ENABLE_CA_SERVER": "false", "PILOT_SKIP_VALIDATE_TRUST_DOMAIN": "true"}
        with (folder / "log").open("wb") as log:
            self._popen = subprocess.Popen(argv, cwd=folder, env={**os.environ, **more}, stdout=log, stderr=log)
        until(self._open, "istiod opens its door for proxies", 60)

    def _open(self) -> bool:
        host, _, port = self.grpc.rpartition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def close(self) -> None:
        self._popen.terminate()
        self._popen.wait(10)

    def write(self, name: str, document: bytes) -> None:
        """Put one object into its directory, as a feed does."""
        (self.source / ".new").write_bytes(document)
        (self.source / ".new").rename(self.source / f"{name}.yaml")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def holds(self, kind: str, name: str) -> bool:
        return any(one["kind"] == kind and one["metadata"]["name"] == name for one in self.get("/debug/configz"))

    def sent(self, kind: str, name: str, namespace: str, ip: str, labels: dict[str, str], hosts: list[str]) -> Any:
        """What a proxy is sent, as istiod itself dumps it: by the type of its parts."""
        node = pb.Node(id=f"{kind}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local")
        node.metadata.update(
            {"NAMESPACE": namespace, "CLUSTER_ID": OWN, "NETWORK": OWN, "LABELS": labels, "INSTANCE_IPS": ip}
        )
        asked: queue.Queue[pb.DiscoveryRequest | None] = queue.Queue()
        with grpc.insecure_channel(self.grpc) as channel:
            call = channel.stream_stream(
                ADS,
                request_serializer=pb.DiscoveryRequest.SerializeToString,
                response_deserializer=pb.DiscoveryResponse.FromString,
            )
            answers = call(iter(asked.get, None), timeout=30)
            for type_url in (CDS, EDS, LDS):
                names = hosts if type_url == EDS else []
                asked.put(pb.DiscoveryRequest(node=node, type_url=type_url, resource_names=names))
                got = next(answers)
                ack = pb.DiscoveryRequest(type_url=type_url, version_info=got.version_info, resource_names=names)
                ack.response_nonce = got.nonce
                asked.put(ack)
            dump = self.get(f"/debug/config_dump?proxyID={name}.{namespace}&include_eds=true")
            asked.put(None)
        return {one["@type"].rpartition(".")[2]: one for one in dump["configs"]}


def local_service(host: str, ip: str, locality: str = "us-west-2/b") -> bytes:
    """A service of the mesh's own, as Kubernetes would have told of it."""
    name, namespace = host.split(".")[:2]
    endpoint = {"address": ip, "ports": {"http": 8080, "tcp": 9090}, "network": OWN, "locality": locality}
    endpoint["labels"] = {"app": name, "security.istio.io/tlsMode": "istio"}
    spec = {
        "hosts": [host],
        "addresses": [ip.replace("10.0", "10.96")],
        "location": "MESH_INTERNAL",
        "resolution": "STATIC",
        "ports": [
            {"number": 8080, "name": "http", "protocol": "HTTP"},
            {"number": 9090, "name": "tcp", "protocol": "TCP"},
        ],
        "endpoints": [endpoint],
    }
    return owned("ServiceEntry", "networking.istio.io/v1", name, namespace, spec)


def owned(kind: str, version: str, name: str, namespace: str, spec: dict[str, Any]) -> bytes:
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": "2020-01-01T00:00:00Z"}
    return json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}).encode()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What proxies of a mesh are sent before it federates, and after."""
    istiod = RealIstiod(tmp_path_factory.mktemp("istiod"))
    try:
        allow = {
            "action": "ALLOW",
            "selector": {"matchLabels": {"app": "ledger"}},
            "rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}],
        }
        istiod.write("allow", owned("AuthorizationPolicy", "security.istio.io/v1", "owners", "shop", allow))
        for host, ip in ((STOCK, PROXIES["stock"]), (BOTH, "10.0.0.10"), (LEDGER, PROXIES["ledger"])):
            istiod.write(host, local_service(host, ip))
        until(lambda: istiod.holds("ServiceEntry", "ledger"), "istiod reads the mesh's own services", 30)
        clusters = [f"outbound|8080||{host}" for host in (STOCK, BOTH, LEDGER, HOST)]
        clusters += [f"outbound|5432||{DB}", f"outbound|8080|v1|{BOTH}"]

        def look() -> dict[str, Any]:
            found = {
                name: istiod.sent("sidecar", name, "shop", ip, {"app": name}, clusters) for name, ip in PROXIES.items()
            }
            labels = {"istio": "eastwestgateway"}
            found["gateway"] = istiod.sent("router", "ew", "istio-system", "10.0.0.12", labels, clusters)
            return found

        until(lambda: f"outbound|8080||{LEDGER}" in clusters_of(look()["stock"]), "its proxies hear of them", 30)
        before = look()
        (bare,) = granted().routes.table().values()
        istiod.write(bare.key.replace("/", "_"), bare.manifest)
        until(
            lambda: "trustfed-callers" in json.dumps(look()["stock"]["ListenersConfigDump"]), "the grant's policy", 30
        )
        between = look()
        for key, resource in federated().routes.table().items():
            istiod.write(key.replace("/", "_"), resource.manifest)
        until(lambda: f"outbound|5432||{DB}" in clusters_of(look()["stock"]), "its proxies hear of ours", 30)
        until(lambda: "trustfed-stock" in json.dumps(look()["stock"]["ListenersConfigDump"]), "policies too", 30)
        until(
            lambda: '"spiffe://corp.example/"' in json.dumps(look()["ledger"]["ListenersConfigDump"]), "all of them", 30
        )
        until(lambda: STOCK in json.dumps(look()["gateway"].get("ListenersConfigDump", {})), "the gateway too", 30)
        yield {"before": before, "granted": between, "after": look(), "configs": istiod.get("/debug/configz")}
    finally:
        istiod.close()


def granted() -> House:
    """OWN accepts EAST's identities, and nothing is exported or imported."""
    house = House()
    house.grant(OWN, EAST)
    return house


def federated() -> House:
    """OWN imports three hosts, one of which it has itself, and exports one to EAST's till."""
    house = House(MeshConfig(own_domains=("corp.example",)))
    house.usual()
    house.hear(EAST, gateway("east-2", "203.0.113.21", weight=1))
    house.put(Import("both", EAST, host=BOTH), Import("db", EAST, host=DB))
    house.hear(EAST, export(EAST, BOTH, subsets=("v1",)), export(EAST, DB, ports=(ServicePort(5432, "tcp", "TCP"),)))
    house.local("all", (MINE,), host=BOTH)
    house.local(host=DB)
    house.put(export(OWN, STOCK, (TILL, f"spiffe://{NORTH}")))
    return house


def clusters_of(sent: Any) -> dict[str, Any]:
    found = sent["ClustersConfigDump"].get("dynamicActiveClusters", ())
    return {one["cluster"]["name"]: one["cluster"] for one in found}


def endpoints_of(sent: Any) -> dict[str, list[tuple[int, str, int]]]:
    """By cluster: priority, address, weight."""
    found = {}
    for one in sent["EndpointsConfigDump"]["dynamicEndpointConfigs"]:
        config = one["endpointConfig"]
        found[config["clusterName"]] = sorted(
            (
                place.get("priority", 0),
                end["endpoint"]["address"]["socketAddress"]["address"],
                end.get("loadBalancingWeight", 1),
            )
            for place in config.get("endpoints", ())
            for end in place["lbEndpoints"]
        )
    return found


def listeners_of(sent: Any) -> dict[str, Any]:
    found = sent["ListenersConfigDump"]["dynamicListeners"]
    return {one["activeState"]["listener"]["name"]: one["activeState"]["listener"] for one in found}


def answering(cluster: Any) -> list[str]:
    found = re.search(r'"matchSubjectAltNames": (\[.*?\])', json.dumps(cluster))
    return [] if found is None else [one["exact"] for one in json.loads(found[1])]


def denied(sent: Any, caller: str | tuple[str, ...] | None, sni: str = f"outbound_.8080_._.{STOCK}") -> list[bool]:
    """For each chain of the inbound listener with RBAC: whether its DENY rules match this caller (None: plain text)."""
    verdicts = []
    for chain in listeners_of(sent)["virtualInbound"]["filterChains"]:
        rules = list(_rules(chain))
        if rules:
            verdicts.append(
                any(
                    any(_matches(one, caller) for one in policy["principals"])
                    and any(_permits(one, sni) for one in policy["permissions"])
                    for policy in rules
                )
            )
    assert verdicts
    return verdicts


def _rules(part: Any) -> Iterator[Any]:
    """Every DENY policy below."""
    if isinstance(part, dict):
        if part.get("action") == "DENY" and "policies" in part:
            yield from part["policies"].values()
        for one in part.values():
            yield from _rules(one)
    elif isinstance(part, list):
        for one in part:
            yield from _rules(one)


def _permits(permission: Any, sni: str) -> bool:
    ((kind, said),) = permission.items()
    if kind in ("andRules", "orRules"):
        return (all if kind == "andRules" else any)(_permits(one, sni) for one in said["rules"])
    if kind == "notRule":
        return not _permits(said, sni)
    assert kind in ("any", "requestedServerName"), kind
    return kind == "any" or said == {"exact": sni} or ("prefix" in said and sni.startswith(said["prefix"]))


def _matches(principal: Any, caller: str | tuple[str, ...] | None) -> bool:
    ((kind, said),) = principal.items()
    if kind == "andIds":
        return all(_matches(one, caller) for one in said["ids"])
    if kind == "orIds":
        return any(_matches(one, caller) for one in said["ids"])
    if kind == "notId":
        return not _matches(said, caller)
    assert kind == "authenticated", kind
    ((how, text),) = said["principalName"].items()
    if caller is None:
        return False
    if isinstance(caller, tuple):  # of several URI SANs any one counts
        return any(_matches(principal, one) for one in caller)
    return caller.startswith(text) if how == "prefix" else caller == text


def test_every_resource_of_ours_is_taken(seen: dict[str, Any]) -> None:
    ours = {f"{one['kind']}/{one['metadata']['namespace']}/{one['metadata']['name']}" for one in seen["configs"]}
    assert set(federated().routes.table()) <= ours


def test_clusters_and_endpoints_hold_our_routes_and_who_may_answer(seen: dict[str, Any]) -> None:
    sent = seen["after"]["ledger"]
    clusters, endpoints = clusters_of(sent), endpoints_of(sent)
    remote = [(0, "203.0.113.20", 3), (0, "203.0.113.21", 1)]
    assert endpoints[f"outbound|8080||{HOST}"] == endpoints[f"outbound|5432||{DB}"] == remote
    assert answering(clusters[f"outbound|8080||{HOST}"]) == [f"spiffe://{EAST}/ns/shop/sa/payments"]
    assert answering(clusters[f"outbound|8080||{BOTH}"]) == [f"spiffe://{EAST}/ns/shop/sa/both", MINE]
    assert clusters[f"outbound|8080||{BOTH}"]["commonLbConfig"]["healthyPanicThreshold"] == {"value": 1}
    assert f'"outbound_.8080_._.{HOST}"' in json.dumps(clusters[f"outbound|8080||{HOST}"])
    assert "3600s" in json.dumps(clusters[f"outbound|8080||{HOST}"]) and "3600s" in json.dumps(listeners_of(sent))


def test_a_host_that_is_here_too_stays_first_whatever_its_zone(seen: dict[str, Any]) -> None:
    endpoints = endpoints_of(seen["after"]["ledger"])
    assert [(rank, ip) for rank, ip, _ in endpoints[f"outbound|8080||{BOTH}"]] == [
        (0, "10.0.0.10"),
        (1, "203.0.113.20"),
        (1, "203.0.113.21"),
    ]
    assert "10.0.0.10" not in [ip for _, ip, _ in endpoints[f"outbound|8080|v1|{BOTH}"]]


def test_a_tcp_port_listens_at_the_hosts_own_address_alone(seen: dict[str, Any]) -> None:
    found = [one["address"]["socketAddress"] for one in listeners_of(seen["after"]["ledger"]).values()]
    (db,) = [one for one in found if one["portValue"] == 5432]
    assert 241 <= int(db["address"].split(".")[0]) <= 254


@pytest.mark.parametrize("workload", ["stock", "ledger"])
def test_inbound_admits_the_agreed_foreign_id_and_no_other_and_leaves_local_callers_alone(
    seen: dict[str, Any], workload: str
) -> None:
    sent = seen["after"][workload]
    own = (
        f"spiffe://{OWN}/ns/shop/sa/anyone",
        MINE,
        "spiffe://cluster.local/ns/shop/sa/old",
        "spiffe://corp.example/x",
    )
    for caller in (TILL, *own):
        assert not any(denied(sent, caller)), caller
    assert not any(denied(sent, None))  # in plain text, where PeerAuthentication is permissive
    assert not any(denied(sent, "client.example.com"))  # a certificate without a SPIFFE ID, as at an ingress gateway
    for caller in (THIEF, f"spiffe://{NORTH}/ns/shop/sa/till", "spiffe://evil.example/x", f"spiffe://{OWN}.evil/x"):
        assert all(denied(sent, caller)), caller
    for forged in (
        (THIEF, MINE),
        (TILL, MINE),
        (THIEF, TILL.replace(EAST, NORTH)),
        (THIEF, "spiffe://cluster.local/ns/a/sa/b"),
    ):
        assert all(denied(sent, forged)), forged


@pytest.mark.parametrize("workload", ["stock", "ledger"])
def test_a_grant_alone_has_peers_refused_everywhere_and_nobody_else(seen: dict[str, Any], workload: str) -> None:
    sent = seen["granted"][workload]
    for caller in (TILL, THIEF, (THIEF, MINE), (MINE, THIEF)):
        assert all(denied(sent, caller)), caller
    for own in (
        MINE,
        "spiffe://cluster.local/x",
        "spiffe://another.name/ns/shop/sa/own",
        "client.example.com",
        None,
    ):
        assert not any(denied(sent, own)), own


def test_a_port_that_is_not_exported_is_refused_behind_a_gateway_that_passes_it(seen: dict[str, Any]) -> None:
    listener = json.dumps(listeners_of(seen["after"]["gateway"])["0.0.0.0_15443"])
    other = f"outbound_.9090_._.{STOCK}"
    assert other in listener  # AUTO_PASSTHROUGH opens all ports of a Service
    sent = seen["after"]["stock"]
    assert all(denied(sent, TILL, other)) and not any(denied(sent, TILL))
    assert not any(denied(sent, TILL, "stock.example"))  # who came in another way than through our gateway
    for local in (f"spiffe://{OWN}/ns/shop/sa/anyone", None):
        assert not any(denied(sent, local, other))


def test_an_owners_own_policies_and_services_are_sent_as_before(seen: dict[str, Any]) -> None:
    before, after = seen["before"]["ledger"], seen["after"]["ledger"]
    for host in (STOCK, LEDGER):
        name = f"outbound|8080||{host}"
        assert clusters_of(before)[name] == clusters_of(after)[name]
        assert endpoints_of(before)[name] == endpoints_of(after)[name]
    owners = r'"ns\[shop\]-policy\[owners\]-rule\[0\]": .*?\}\]\}\}'
    listed = [re.findall(owners, json.dumps(listeners_of(sent)["virtualInbound"])) for sent in (before, after)]
    assert listed[0] and listed[0] == listed[1]


def test_the_gateway_passes_the_export_by_its_exact_name_and_nothing_else(seen: dict[str, Any]) -> None:
    listener = listeners_of(seen["after"]["gateway"])["0.0.0.0_15443"]
    names = [name for chain in listener["filterChains"] for name in chain["filterChainMatch"].get("serverNames", ())]
    assert names == [f"outbound_.{port}_._.{STOCK}" for port in (8080, 9090)]
    assert not seen["before"]["gateway"].get("ListenersConfigDump", {}).get("dynamicListeners")
