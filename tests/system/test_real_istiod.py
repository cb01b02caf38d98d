"""A real istiod takes what we render, by both of its sources, and keeps it through everything that the feed does.

TRUSTFED_ISTIOD names a pilot-discovery of 1.29, which runs without Kubernetes; without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.system.feed_world import ADDRESS, CHECKOUT, EAST, HOSTS, WEST, answers, routes, wants
from tests.system.stack import Feed, Process, Stack, until
from trustfed.demo.ports import free_port
from trustfed.proto import envoy_pb2 as pb

ISTIOD = os.environ.get("TRUSTFED_ISTIOD", "")
pytestmark = [
    pytest.mark.skipif(not ISTIOD, reason="TRUSTFED_ISTIOD names no istiod (pilot-discovery 1.29)"),
    pytest.mark.timeout(180),
]
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
CDS, EDS, LDS = (
    f"type.googleapis.com/envoy.config.{name}"
    for name in ("cluster.v3.Cluster", "endpoint.v3.ClusterLoadAssignment", "listener.v3.Listener")
)
CLUSTER = f"outbound|8080||{HOSTS[0]}"


@dataclass(frozen=True)
class Node:
    """A proxy, as istiod knows it."""

    kind: str  # sidecar | router
    address: str
    namespace: str = "ns"
    labels: tuple[tuple[str, str], ...] = ()


class RealIstiod:
    """One istiod of a trust domain whose only configuration is `sources`."""

    def __init__(self, stack: Stack, name: str, *sources: str, domain: str = WEST, xds: str = "") -> None:
        folder = stack.folder / name
        folder.mkdir()
        self.http, self.grpc = f"127.0.0.1:{free_port()}", xds or f"127.0.0.1:{free_port()}"
        mesh = folder / "mesh.yaml"
        self.domain = domain
        mesh.write_text(json.dumps({"trustDomain": domain, "configSources": [{"address": one} for one in sources]}))
        argv = [
            ISTIOD,
            "discovery",
            "--registries=",
            f"--meshConfig={mesh}",
            f"--clusterID={domain}",
            f"--httpAddr={self.http}",
            f"--grpcAddr={self.grpc}",
            "--secureGRPCAddr=",
            "--httpsAddr=",
            f"--monitoringAddr=127.0.0.1:{free_port()}",
            f"--ctrlz_port={free_port()}",
        ]
        self.process: Process = stack.process(name, argv, self._open)
        self.process.environment = {
            "POD_NAME": "istiod-0",
            "ENABLE_CA_SERVER": "false",
            "PILOT_SKIP_VALIDATE_TRUST_DOMAIN": "true",
        }

    def _open(self) -> bool:
        """It opens the doors for proxies when every source has told it everything, and not before."""
        host, _, port = self.grpc.rpartition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def _get(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            return None

    def configs(self) -> dict[str, dict[str, Any]]:
        """What it holds of ours, by KIND/NAMESPACE/NAME."""
        found = json.loads(self._get("/debug/configz") or b"[]")
        return {f"{c['kind']}/{c['metadata']['namespace']}/{c['metadata']['name']}": c for c in found}

    def sends(self, type_url: str, *names: str, node: Node | None = None) -> list[bytes]:
        """What a proxy of this cluster is given, raw; without `node` a client's sidecar."""
        return asyncio.run(self._sends(type_url, names, node or Node("sidecar", "10.0.0.9")))

    async def _sends(self, type_url: str, names: tuple[str, ...], node: Node) -> list[bytes]:
        request = pb.DiscoveryRequest(type_url=type_url, resource_names=names)
        request.node.id = f"{node.kind}~{node.address}~p.{node.namespace}~{node.namespace}.svc.cluster.local"
        request.node.metadata.update(
            {
                "NAMESPACE": node.namespace,
                "CLUSTER_ID": self.domain,
                "NETWORK": self.domain,
                "LABELS": dict(node.labels),
                "SERVICE_ACCOUNT": "payments",
            }
        )
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            method = channel.stream_stream(ADS, pb.DiscoveryRequest.SerializeToString, pb.DiscoveryResponse.FromString)
            call = method(timeout=20)
            await call.write(request)
            answer = await call.read()
            call.cancel()
        return [one.value for one in answer.resources]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("istiod")) as made:
        yield made


@pytest.fixture(scope="module")
def feed(stack: Stack) -> Feed:
    west = routes(stack)
    made = west.feed(west.agent("node-1"))
    until(lambda: sum(key.startswith("ServiceEntry/") for key in made.resources()) == 1, "the first route")
    return made


def test_a_real_istiod_takes_our_routes_by_both_sources_and_never_loses_them(stack: Stack, feed: Feed) -> None:
    whole = feed.resources()
    by_file = RealIstiod(stack, "istiod-fs", f"fs://{feed.folder}", xds=feed.istiod)
    by_mcp = RealIstiod(stack, "istiod-xds", f"xds://{feed.mcp}")
    both = (by_file, by_mcp)
    for istiod in both:
        istiod.process.start(wait=False)
    for istiod in both:
        istiod.process.wait_ready()
        until(lambda i=istiod: set(i.configs()) == whole, f"the routes at {istiod.process.name}")
        _proxies_are_told(istiod)
    first, second = (istiod.configs() for istiod in both)
    for key in whole:
        assert first[key]["spec"] == second[key]["spec"] == _written(feed, key)["spec"]
        created = _written(feed, key)["metadata"]["creationTimestamp"]
        assert first[key]["metadata"]["creationTimestamp"] == second[key]["metadata"]["creationTimestamp"] == created

    # A change, and its end, reach both.
    wants(stack.clusters[WEST], HOSTS[1])
    until(lambda: sum(key.startswith("ServiceEntry/") for key in feed.resources()) == 2, "the second route")
    more = feed.resources()
    for istiod in both:
        until(lambda i=istiod: set(i.configs()) == more, f"the second route at {istiod.process.name}")
    stack.clusters[WEST].admin.ask("POST", "/mesh/imports/orders/remove", {})
    for istiod in both:
        until(lambda i=istiod: set(i.configs()) == whole, f"its end at {istiod.process.name}")

    # The feed is killed: nothing happens. Everything of ours is killed, feed and istiods start: the routes are there.
    feed.process.kill()
    for istiod in both:
        assert set(istiod.configs()) == whole
        _proxies_are_told(istiod)
    for process in (stack.hub, stack.clusters[WEST].process, stack.clusters[WEST].agents["node-1"].process):
        process.kill()
    for istiod in both:
        istiod.process.kill()
    feed.process.start()
    assert not feed.connected()
    for istiod in both:
        istiod.process.start(wait=False)
    for istiod in both:
        istiod.process.wait_ready()
        until(lambda i=istiod: set(i.configs()) == whole, f"the routes at {istiod.process.name}, with the cluster dead")
        _proxies_are_told(istiod)

    # A feed that comes back to an istiod which was there all the time takes nothing away from it.
    feed.process.kill()
    feed.process.start()
    until(lambda: feed.admin.get("/status")["output"]["readers"] == 1, "istiod's next connection")
    assert set(by_mcp.configs()) == whole


def test_the_exporters_istiod_admits_the_agreed_caller_and_leaves_local_traffic_as_it_was(
    stack: Stack, feed: Feed
) -> None:
    """One istiod has what the owners wrote, the other the same and what we render: the difference is ours to explain."""
    east = stack.clusters[EAST]
    ours = east.feed(east.agent("node-1"))
    until(lambda: any(key.startswith("AuthorizationPolicy/ns/") for key in ours.resources()), "the export's policy")
    owner = stack.folder / "owner"
    owner.mkdir()
    # With two directories istiod sometimes misses what one of them held when it started, so both are in ours.
    for folder in (owner, ours.folder):
        for name, document in _owners().items():
            (folder / f"{name}.yaml").write_text(json.dumps(document))
    before = RealIstiod(stack, "istiod-before", f"fs://{owner}", domain=EAST)
    after = RealIstiod(stack, "istiod-after", f"fs://{ours.folder}", domain=EAST, xds=ours.istiod)
    for istiod in (before, after):
        istiod.process.start()
        _serves_what_it_read(istiod)
    until(lambda: ours.resources() <= set(after.configs()), "our resources")
    client = Node("sidecar", "10.0.0.9")
    server = Node("sidecar", "10.0.0.5", labels=(("app", "payments"),))
    gateway = Node("router", "10.0.0.8", "istio-system", (("istio", "eastwestgateway"),))

    # Local callers: the same clusters and endpoints as before.
    local = CLUSTER.encode()
    until(lambda: b"10.0.0.5" in b"".join(before.sends(EDS, CLUSTER, node=client)), "the local endpoint")
    assert local in b"".join(before.sends(CDS, node=client))
    for kind, names in ((CDS, ()), (EDS, (CLUSTER,))):
        wanted = sorted(before.sends(kind, *names, node=client))
        until(lambda k=kind, n=names, w=wanted: sorted(after.sends(k, *n, node=client)) == w, f"the same {kind}")
    # The exported workload: whoever is agreed stands in its rules, nobody else of that domain does.
    caller = CHECKOUT.removeprefix("spiffe://").encode()
    until(lambda: caller in b"".join(after.sends(LDS, node=server)), "the rules of the exported workload")
    inbound_before, inbound = (b"".join(istiod.sends(LDS, node=server)) for istiod in (before, after))
    assert b"virtualInbound" in inbound and b"trustfed-payments" in inbound
    assert caller not in inbound_before and b"filters.http.rbac.v3.RBAC" not in inbound_before
    assert set(re.findall(WEST.encode() + rb"/ns/[a-z/-]+", inbound)) == {caller}
    # The gateway passes the exported host by its name, and no other.
    passed = b"".join(after.sends(LDS, node=gateway))
    assert f"outbound_.8080_._.{HOSTS[0]}".encode() in passed and b"private.ns" not in passed


def _owners() -> dict[str, dict[str, Any]]:
    """What the owners of the exporting mesh wrote: two services with sidecars, one of which nobody exports."""
    made: dict[str, dict[str, Any]] = {}
    for name, address in (("payments", "10.0.0.5"), ("private", "10.0.0.6")):
        labels = {"app": name, "security.istio.io/tlsMode": "istio"}
        made[name] = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {
                "hosts": [f"{name}.ns.svc.cluster.local"],
                "ports": [{"number": 8080, "name": "http", "protocol": "HTTP"}],
                "location": "MESH_INTERNAL",
                "resolution": "STATIC",
                "endpoints": [{"address": address, "network": EAST, "serviceAccount": name, "labels": labels}],
            },
        }
    return made


def test_an_istiod_that_is_not_reached_by_a_state_does_not_serve(stack: Stack, tmp_path: Path) -> None:
    """A feed that never heard of a route answers nothing: istiod keeps its doors shut instead of telling proxies of none."""
    mcp = f"127.0.0.1:{free_port()}"
    config = stack.write(
        "fresh-feed.toml",
        trust_domain=WEST,
        cluster=["127.0.0.1:1"],
        workload_socket=tmp_path / "none.sock",
        data_dir=stack.folder / "fresh-feed",
        admin_socket=stack.sockets / "fresh.adm",
        output={"mcp": mcp},
    )
    argv = [sys.executable, "-P", "-m", "trustfed.feed", "serve", "--config", str(config)]
    fresh = stack.process("fresh-feed", argv, (stack.sockets / "fresh.adm").exists).start()
    istiod = RealIstiod(stack, "istiod-fresh", f"xds://{mcp}")
    istiod.process.start(wait=False)
    with pytest.raises(AssertionError, match="was not ready"):
        istiod.process.wait_ready(3.0)
    istiod.process.kill()
    fresh.stop()


def _serves_what_it_read(istiod: RealIstiod) -> None:
    """What the owners wrote is not announced by a feed (trustfed.feed.announcing): an istiod that lost it starts again."""
    for _ in range(10):
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            if CLUSTER.encode() in b"".join(istiod.sends(CDS)) and b"10.0.0.5" in b"".join(istiod.sends(EDS, CLUSTER)):
                return
            time.sleep(0.05)
        istiod.process.kill()
        istiod.process.start()
    raise AssertionError(f"{istiod.process.name} never served what it read")


def _proxies_are_told(istiod: RealIstiod) -> None:
    """A sidecar of the importing cluster learns the route: its cluster with the exact SAN, its endpoint at the gateway."""

    def told() -> bool:  # istiod gathers changes for 100 ms before it builds what proxies get
        ours = [raw for raw in istiod.sends(CDS) if CLUSTER.encode() in raw]
        endpoints = b"".join(istiod.sends(EDS, CLUSTER))
        return len(ours) == 1 and answers(HOSTS[0]).encode() in ours[0] and ADDRESS.encode() in endpoints

    until(told, f"the route at a proxy of {istiod.process.name}")


def _written(feed: Feed, key: str) -> dict[str, Any]:
    kind, namespace, name = key.split("/")
    found: dict[str, Any] = json.loads((feed.folder / f"{name}.{namespace}.{kind.lower()}.yaml").read_bytes())
    return found


def test_the_version_is_one_that_these_tests_know() -> None:
    said = subprocess.run([ISTIOD, "version"], capture_output=True, text=True, timeout=20).stdout
    assert "1.29" in said or "unknown" in said, said
