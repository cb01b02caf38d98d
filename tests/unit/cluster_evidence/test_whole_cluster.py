"""A whole cluster at its real doors: what a node does and says becomes facts, figures, checkpoints and a standing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from tests.fakes.hub import FakeHub
from tests.system.cluster_world import Cluster, Node, running, serial
from tests.unit.cluster.cluster_parts import spki
from tests.unit.cluster_evidence.evidence_house import BOOT
from trustfed.cluster.evidence import gaps
from trustfed.errors import Denied, Invalid
from trustfed.evidence import auditor
from trustfed.evidence.compliance.data import Report
from trustfed.evidence.compliance.render import render
from trustfed.evidence.model import BUCKET_MS
from trustfed.evidence.pack_verify import Outcome, verify
from trustfed.evidence.trust import read_trust
from trustfed.proto import evidence_pb2 as pb
from trustfed.proto import node_pb2
from trustfed.runtime.grpc_client import unary

REPORT = "/trustfed.evidence.v1.NodeEvidence/Report"


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[FakeHub]:
    made = await FakeHub.make()
    await made.start()
    yield made
    await made.stop()


async def report(node: Node, *facts: pb.AgentFact, first: int = 1, epoch: bytes = b"e" * 16) -> int:
    said = pb.NodeReport(epoch=epoch, first=first, facts=facts, boot=BOOT, elapsed_ms=5_000)
    async with node.channel() as channel:
        answer: pb.NodeReportAnswer = await unary(channel, REPORT, said, pb.NodeReportAnswer, 10)
    return answer.next


async def facts(cluster: Cluster, kind: str) -> list[Any]:
    found = (await cluster.ok("GET", "/issued?limit=1000"))["issued"]
    return [one for one in found if one["kind"] == kind]


async def some(cluster: Cluster, kind: str, count: int = 1) -> list[Any]:
    async with asyncio.timeout(20):
        while len(found := await facts(cluster, kind)) < count:
            await asyncio.sleep(0.05)
    return found


async def test_from_an_issue_to_a_standing(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps, "_GAP_MS", 0)  # this restart is a quick one
    async with running(tmp_path, hub) as cluster:
        node = await cluster.node()
        await cluster.entry("web")
        chain = (await node.issue("web", "none")).results[0].chain
        own = serial(chain[0])
        async with node.stream() as stream:
            hello = (await stream.next()).hello
            said: dict[str, Any] = {"entry_id": "web", "slot": "x509", "serial": own, "anchor_ms": hello.time_ms}
            said |= {"anchor_elapsed_ms": 4_000, "elapsed_ms": 4_001, "boot": BOOT}
            delivered = pb.AgentFact(kind="delivered", door="sds", **said)
            assert await report(node, delivered, pb.AgentFact(kind="loaded", peer="envoy", **said)) == 3
            (loaded,) = await facts(cluster, "agent.loaded")
            assert loaded["body"]["at"] == hello.time_ms + 1 and "late" not in loaded["body"]
            await some(cluster, "node.heard")
        hashes: dict[str, str] = {}
        async with asyncio.timeout(20):
            while own not in hashes:
                for one in await some(cluster, "x509.signed"):
                    hashes.update(one["body"]["certificates"])
        assert hashes[own] == hashlib.sha256(chain[0]).hexdigest()
        (issued,) = [one for one in await facts(cluster, "x509.issued") if one["key"] == own]
        assert issued["body"]["key_algorithm"] == "ec-p256"
        (refused,) = await some(cluster, "svid.refused")
        assert (refused["body"]["node"], refused["body"]["code"], refused["body"]["entry"]) == ("n1", "not_found", "")
        (confirmed,) = await some(cluster, "agent.confirmed")
        assert (confirmed["body"]["slot"], confirmed["key"]) == ("node", serial(node.keypair.chain[0]))
        assert {one["key"] for one in await some(cluster, "probe.up", 2)} == {"sign", "bundle"}
        assert not await facts(cluster, "probe.down") and await some(cluster, "evidence.policy")
        assert {one["body"]["step"] for one in await some(cluster, "authority.step", 6)} >= {"prepared", "activated"}
        cut = await cluster.ok("POST", "/evidence/checkpoint", {})
        assert cut["ledger_size"] and cut["note"].startswith("trustfed/td-a/journal\n")
        async with asyncio.timeout(20):
            while (await cluster.ok("GET", "/evidence/status"))["position"] < cut["ledger_size"]:
                await asyncio.sleep(0.05)
        status = await cluster.ok("GET", "/evidence/status")
        assert not status["alarms"] and not status["probes_down"] and status["hub"]["connected"] is False
        figures = await cluster.ok("GET", "/evidence/figures")
        assert figures["trust_domain"] == "td-a" and figures["definition"] == status["definition"]
        standing = await cluster.ok("GET", "/evidence/standing")
        assert (standing["nodes"], standing["entries"]) == (1, 1)
        assert {one["state"] for one in standing["authorities"]} == {"active"}
        assert [(one["code"], one["advice"]) for one in standing["lint"]] == [("no-witness", True)]
        assert [log["checkpoint_size"] for log in standing["logs"]] == [cut["size"], cut["ledger_size"]]
        metrics = (await cluster.admin("GET", "/metrics")).text
        assert 'trustfed_cluster_evidence_facts_total{kind="loaded"} 1' in metrics
        assert "trustfed_cluster_log_ledger_lag" in metrics
        assert (await cluster.admin("GET", "/evidence/figures?from=yesterday")).status_code == 400
        assert (await cluster.admin("POST", "/evidence/query", {"kind": "no-such"})).status_code in (400, 404)
        await _what_an_auditor_gets(cluster, status, tmp_path)
    # Another process: the time between is a gap, and nothing of the above is said again.
    async with running(tmp_path, hub) as cluster:
        node.address = (await cluster.status())["addresses"]["grpc"]
        assert await report(node, delivered) == 3
        gap = (await some(cluster, "cluster.gap"))[0]["body"]
        assert gap["from"] < gap["to"]
        await asyncio.sleep(0.3)
        for kind, count in (("agent.delivered", 2), ("agent.confirmed", 1), ("evidence.policy", 1)):
            assert len(await facts(cluster, kind)) == count
        steps = [(one["key"], one["body"]["step"]) for one in await facts(cluster, "authority.step")]
        assert len(steps) == len(set(steps))
        await _who_may_report(cluster, node)


async def _what_an_auditor_gets(cluster: Cluster, status: Any, folder: Path) -> None:
    """A report that can be rendered, and a pack that verifies against the key taken before."""
    end = (int(time.time() * 1000) // BUCKET_MS + 1) * BUCKET_MS
    window = f"from={end - 86_400_000}&to={end}"
    said = await cluster.ok("GET", f"/evidence/report?{window}")
    made = msgspec.convert(said, Report)
    assert made.scope == ("td-a",) and made.rows["facts"] and made.ran_by.startswith("uid:")
    assert {one.purpose for one in made.assets} >= {"x509-svid", "node-svid", "authority", "jwt", "log"}
    assert b"Keys and certificates" in render(made, "html")
    pack = folder / "day.pack"
    answer = await cluster.admin("GET", f"/evidence/pack?{window}")
    assert answer.status_code == 200 and int(answer.headers["x-facts"]) > 5
    pack.write_bytes(answer.content)
    verdict = verify(pack, read_trust([("keys", status["log_key"].encode())]))
    assert verdict.outcome is Outcome.VERIFIED, verdict.faults
    assert await asyncio.to_thread(auditor.run, str(pack), [status["log_key"].encode()]) == 0
    assert not list(folder.rglob(".packs-*"))
    for bad in ("from=1&to=1", "from=2026-01-01T00:00:00Z", "from=x&to=y"):
        assert (await cluster.admin("GET", f"/evidence/pack?{bad}")).status_code == 400


async def _who_may_report(cluster: Cluster, node: Node) -> None:
    with pytest.raises(Invalid, match="not one"):
        await report(node, epoch=b"short")
    key: Any = node.keypair.key
    slot = node_pb2.X509Slot(entry_id="web", slot="x509", public_key=spki(key))
    chain = (await node.call("IssueX509", node_pb2.IssueX509Request(slots=[slot]), node_pb2.IssueX509Response)).results
    workload = Node(cluster, type(node.keypair)(tuple(chain[0].chain), node.keypair.key), node.address)
    with pytest.raises(Denied, match="not a node"):
        await report(workload, pb.AgentFact(kind="offset"), epoch=os.urandom(16))
    await cluster.ok("POST", "/nodes/n1/ban", {"reason": "test"})
    with pytest.raises(Denied, match="banned"):
        await report(node, pb.AgentFact(kind="offset"), first=3)
    assert not await facts(cluster, "agent.offset")
