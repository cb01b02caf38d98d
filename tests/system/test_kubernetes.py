"""A whole cluster beside an API server: exports by annotation at its real doors, and a start while the server is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ca.keys.open import KeysConfig
from tests.fakes.hub import FakeHub
from tests.fakes.kubernetes_api import KubernetesApi, pod, service
from tests.system.cluster_world import TD, Cluster, _up, enrolled
from trustfed.cluster import compose
from trustfed.cluster.config import ClusterConfig, Door, Policy
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.cluster.mesh.kubernetes.config import KubernetesConfig

HOST = "payments.shop.svc.cluster.local"
SA = f"spiffe://{TD}/ns/shop/sa/payments"
EXPORTED = {
    "trustfed.io/export": "true",
    "trustfed.io/callers": "spiffe://td-b/ns/shop/sa/checkout",
    "trustfed.io/reason": "ticket 12",
}


async def until(look: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := await look()):
            await asyncio.sleep(0.05)
        return found


async def test_a_cluster_exports_what_its_kubernetes_annotates(tmp_path: Path) -> None:
    hub = await FakeHub.make()
    await hub.start()
    api = KubernetesApi(tmp_path / "api")
    api.start()
    api.put("services", service("payments", "shop", EXPORTED))
    api.put("pods", pod("payments-1", "shop", "payments", account="payments"))
    config = ClusterConfig(
        tmp_path / "data",
        Door("127.0.0.1:0"),
        Door("127.0.0.1:0"),
        admin_socket=tmp_path / "admin.sock",
        keys=KeysConfig(workers=0),
        policy=Policy(polled_readers=False),
        mesh=MeshConfig(kubernetes=KubernetesConfig(api.kubeconfig)),
    )
    await enrolled(config, hub)
    api.stop()  # the cluster starts all the same
    stop = asyncio.Event()
    serving = asyncio.create_task(compose.serve(config, stop))
    cluster = Cluster(config.admin_path, hub)
    try:
        await _up(cluster, serving)

        async def summary(member: str) -> Any:
            return (await cluster.ok("GET", "/mesh/kubernetes"))[member]

        async def failing() -> bool:
            return all(one["error"] for one in await summary("collections"))

        async def exports() -> Any:
            return (await cluster.ok("GET", "/mesh/exports"))["exports"]

        await until(failing)
        assert await exports() == []
        api.start()
        (export,) = await until(exports)
        assert (export["host"], export["answers"], export["source"]) == (HOST, [SA], "kubernetes")
        refused = await cluster.admin("POST", f"/mesh/exports/{HOST}/remove", {"reason": "not by command"})
        assert refused.status_code == 409
        assert "was put by Kubernetes" in refused.text
        api.put("services", service("payments", "shop"))

        async def gone() -> bool:
            return await exports() == []

        await until(gone)
    finally:
        stop.set()
        await asyncio.wait({serving}, timeout=30)
        api.stop()
        await hub.stop()
    assert serving.done()
    assert serving.exception() is None
