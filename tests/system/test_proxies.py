"""What a node says of its Envoys, at a cluster's real gRPC door: into the ledger, into the status, and no further."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.hub import FakeHub
from tests.system.cluster_world import Cluster, running, serial
from trustfed.errors import Invalid
from trustfed.proto import node_pb2 as pb


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    hub = await FakeHub.make()
    await hub.start()
    async with running(tmp_path, hub) as made:
        yield made
    await hub.stop()


async def test_a_nodes_reports_stand_in_the_ledger_beside_what_was_issued(cluster: Cluster) -> None:
    node = await cluster.node()
    await cluster.entry("web")
    chain = (await node.issue("web")).results[0].chain
    own: dict[str, Any] = {"entry_id": "web", "resource": "default", "serial": serial(chain[0]), "proxy": "sidecar~1"}

    async def facts(kind: str) -> list[Any]:
        found = (await cluster.ok("GET", "/issued?limit=1000"))["issued"]
        return [one for one in found if one["kind"] == kind]

    async with node.stream() as stream:
        await stream.until("snapshot_end")
        report = pb.ProxyReport(
            loaded=[pb.SecretLoaded(version="v1", **own), pb.SecretLoaded(entry_id="other", serial="0a", version="v1")],
            refused=[pb.SecretRefused(resource="ROOTCA", version="r1", proxy="sidecar~1", error="Envoy's own words")],
        )
        await stream.opened.send_message(pb.FromAgent(proxies=report))
        found = await cluster.until(lambda status: status["proxies"]["refused"] and not status["proxies"]["waiting"])
        assert (found["proxies"]["loaded"], found["proxies"]["refused"]) == (1, 1)
        (refusing,) = found["proxies"]["refusing"]
        assert (refusing["node"], refusing["error"]) == ("n1", "Envoy's own words")
        (refused,) = await facts("proxy.refused")
        assert not await facts("proxy.loaded")  # an agent reports that as agent.loaded, from its spool
        assert (refused["key"], refused["body"]["error"]) == ("n1/ROOTCA", "Envoy's own words")
    with pytest.raises(Invalid, match="501 reports in one message"):
        async with node.stream() as stream:
            many = pb.ProxyReport(loaded=[pb.SecretLoaded(version="v1", **own)] * 501)
            await stream.opened.send_message(pb.FromAgent(proxies=many))
            await stream.end()
