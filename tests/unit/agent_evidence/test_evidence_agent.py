"""A whole agent and what it tells its cluster, over the real door."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from agent.compose import serve
from agent.config import AgentConfig
from agent.evidence.config import ProbeConfig
from tests.fakes.cluster import FakeCluster
from tests.unit.agent.world import ME, Workload, admin, eventually, running, until
from tests.unit.agent_sds.client import Proxy
from trustfed.proto import evidence_pb2 as evidence_pb
from trustfed.runtime.tls import KeyPair, server_context
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.x509svid import parse_leaf


def _of(cluster: FakeCluster, kind: str) -> list[evidence_pb.AgentFact]:
    return [one for one in cluster.evidence.facts if one.kind == kind]


async def test_what_workloads_and_envoys_get_reaches_the_cluster_with_a_time_that_it_told(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.put("e1", "/web", [ME])
        async with running(cluster, tmp_path) as (agent, workload):
            answer = await workload.x509()
            serial = f"{parse_leaf(answer.svids[0].x509_svid).serial:032x}"
            await until(lambda: _of(cluster, "delivered"))
            (delivered,) = _of(cluster, "delivered")
            assert (delivered.entry_id, delivered.slot, delivered.serial) == ("e1", "x509", serial)
            assert delivered.door == "workload_api" and len(delivered.boot) == 8
            told = delivered.anchor_ms
            assert told > 0 and 0 <= delivered.elapsed_ms - delivered.anchor_elapsed_ms < 60_000
            proxy = Proxy(agent.config.socket, "sidecar~web-0")
            async with proxy.stream("default") as stream:
                await proxy.accept(stream, await proxy.next(stream), "default")
                await until(lambda: _of(cluster, "loaded"))
            (loaded,) = _of(cluster, "loaded")
            assert (loaded.serial, loaded.peer, loaded.slot) == (serial, "sidecar~web-0", "x509")
            assert len(_of(cluster, "delivered")) == 1, "the same serial, by another door"
            proxy.close()
            for _ in range(3):
                other = Workload(agent.config.socket)
                await other.x509()
                other.close()
            await until(lambda: _of(cluster, "held"))
            assert len(_of(cluster, "delivered")) == 1
            assert serial in _of(cluster, "held")[0].serials

            async def settled() -> bool:
                found = (await agent.status())["evidence"]
                return bool(found["waiting"] == 0 and found["sent"] == len(cluster.evidence.facts))

            await eventually(settled)
            status = (await agent.status())["evidence"]
            epochs = {report.epoch.hex() for report in cluster.evidence.reports}
            assert status == {
                "waiting": 0,
                "sent": len(cluster.evidence.facts),
                "lost": 0,
                "epoch": epochs.pop(),
                "oldest": None,
                "problem": None,
                "probes": [],
            }
            metrics = (await agent.admin("/metrics"))[1]
            assert 'trustfed_agent_evidence_noted_total{kind="delivered"} 1' in metrics
            assert "trustfed_agent_evidence_waiting 0" in metrics and "trustfed_agent_evidence_unsaved 0" in metrics


async def test_a_rotation_delivers_the_successor_and_an_envoy_by_its_own_door(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.svid_ttl = timedelta(seconds=2)
        cluster.put("e1", "/web", [ME])
        async with running(cluster, tmp_path) as (agent, _):
            proxy = Proxy(agent.config.socket)
            async with proxy.stream("default") as stream:
                await proxy.next(stream)
                await until(lambda: len(_of(cluster, "delivered")) >= 2)
            proxy.close()
        first, second, *_ = _of(cluster, "delivered")
        assert first.door == second.door == "sds" and first.serial != second.serial
        assert first.entry_id == second.entry_id == "e1"


async def test_facts_of_a_partition_survive_a_restart_in_it(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.put("e1", "/web", [ME])
        async with running(cluster, tmp_path) as (agent, workload):
            await until(lambda: _of(cluster, "held"))
            await cluster.stop()
            await workload.x509()

            async def spooled() -> bool:
                return bool((await agent.status())["evidence"]["waiting"])

            await eventually(spooled)
        assert not _of(cluster, "delivered")
        async with running(cluster, tmp_path, ready=False, join="unused") as (agent, _):
            await cluster.start((cluster.grpc_port, cluster.door_port))
            await until(lambda: _of(cluster, "delivered"), 25)
        assert len({report.epoch for report in cluster.evidence.reports}) >= 1 and not cluster.evidence.clones


async def test_an_older_cluster_changes_nothing_for_workloads(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.evidence.older = True
        cluster.put("e1", "/web", [ME])
        async with running(cluster, tmp_path) as (agent, workload):
            assert (await workload.x509()).svids

            async def said() -> bool:
                return bool((await agent.status())["evidence"]["problem"])

            await eventually(said)
            status = (await agent.status())["evidence"]
            assert status["problem"] == "the cluster takes no evidence yet" and status["waiting"] >= 1
            assert len(cluster.evidence.reports) == 1


async def test_a_probe_confirms_what_a_workload_serves_with_its_svid(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    probe = ProbeConfig(address, SpiffeId.parse("spiffe://east.test/web"), timedelta(seconds=1))
    config = AgentConfig(data_dir=tmp_path / "data", socket=tmp_path / "w.sock", probe=(probe,))
    async with FakeCluster() as cluster:
        cluster.put("e1", "/web", [ME])
        stop = asyncio.Event()
        agent = asyncio.create_task(serve(config, cluster.token(), stop))
        await until(lambda: agent.done() or config.admin_path.exists())
        workload = Workload(config.socket)
        answer = (await workload.x509()).svids[0]
        key = load_der_private_key(answer.x509_svid_key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        pair = KeyPair((answer.x509_svid,), key)
        server = await asyncio.start_server(
            lambda _, writer: writer.close(), sock=listener, ssl=server_context(pair, [answer.bundle])
        )
        await until(lambda: _of(cluster, "confirmed"))
        (confirmed,) = _of(cluster, "confirmed")
        assert (confirmed.entry_id, confirmed.peer, confirmed.slot) == ("e1", address, "x509")
        assert confirmed.serial == f"{parse_leaf(pair.chain[0]).serial:032x}"
        (found,) = (await admin(config.admin_path, "/status"))[1]["evidence"]["probes"]
        assert (found["outcome"], found["serial"], found["error"]) == ("confirmed", confirmed.serial, None)
        server.close()
        workload.close()
        stop.set()
        await asyncio.wait_for(agent, 30)
