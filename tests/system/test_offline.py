"""Agents as real processes whose cluster is away: started again, expired, banned meanwhile, and back in a crowd."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from tests.fakes.cluster import FakeCluster
from tests.system.stack import Stack, until
from tests.system.test_agent import Process, a_process
from tests.unit.agent.world import ME, Workload, admin, eventually
from trustfed.errors import Denied
from trustfed.proto import workload_pb2 as pb


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster() as made:
        made.put("e1", "/web", [ME])
        yield made


async def first_svid(socket: Path) -> pb.X509SVIDResponse:
    """What a workload gets that tries until the socket is there."""
    while True:
        workload = Workload(socket)
        try:
            return await workload.x509()
        except OSError:
            await asyncio.sleep(0.005)
        finally:
            workload.close()


def cpu_seconds(pid: int) -> float:
    """What a process has used of a processor by now (proc(5))."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def status(process: Process) -> dict[str, Any]:
    """/status, {} while nobody answers."""
    with suppress(OSError):
        found: dict[str, Any] = (await admin(process.admin, "/status"))[1]
        return found
    return {}


def test_restart_with_everything_unreachable_serves_within_a_second(tmp_path: Path) -> None:
    with Stack(tmp_path / "stack") as stack:
        west = stack.cluster("prod-us-west", reserve_ttl_max="12h")
        west.admin.post("/reserves/default", {"ttl": "6h", "reason": "ships at sea"})
        agent = west.agent("node-1")
        entry = west.entry("/web", parent="node/node-1", selectors=[ME])
        agent.wait_for(entry["id"])
        until(lambda: agent.admin.get("/status")["reserves"]["held"] == 1, "the reserve")
        time.sleep(0.6)  # what came last is written within 0.3 s
        stack.hub.kill()
        west.process.kill()
        took, cpu = [], []
        for _ in range(3):
            agent.process.kill()
            began = time.monotonic()
            agent.process.start(wait=False)
            (svid,) = asyncio.run(first_svid(agent.socket)).svids
            took.append(time.monotonic() - began)
            cpu.append(cpu_seconds(agent.process.pid))
            assert svid.spiffe_id == "spiffe://prod-us-west/web"
        times = ", ".join(f"{wall:.2f} s ({used:.2f} s of a processor)" for wall, used in zip(took, cpu, strict=True))
        print(f"first SVID after an offline start: {times}")
        found = agent.admin.get("/status")
        assert found["cache"]["loaded"] and not found["sync"]["connected"] and found["sync"]["offline_since"]
        # A machine that does ten things at once takes longer by the clock, not by what the agent does.
        assert found["reserves"]["held"] == 1 and found["time"]["authenticated_at"]
        assert min(took) < 1 or min(cpu) < 0.9, times


async def test_own_svid_ended_in_the_partition_heals_and_callers_are_served_meanwhile(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    cluster.node_ttl = timedelta(seconds=2)
    async with a_process(tmp_path) as process:
        await process.start(token=cluster.token())
        await process.ready()
        await first_svid(process.socket)
        ports = (cluster.grpc_port, cluster.door_port)
        await cluster.stop()
        await process.kill(signal.SIGTERM)
        await asyncio.sleep(1.5)
        await process.start()
        first = (await first_svid(process.socket)).svids[0]

        async def ended() -> bool:
            found = await status(process)
            return bool(found) and "ended" in (found["sync"]["error"] or "")

        await eventually(ended, 20)
        assert (await first_svid(process.socket)).svids[0] == first
        cluster.node_ttl = timedelta(hours=1)
        await cluster.start(ports)

        async def healed() -> bool:
            return bool((await status(process))["sync"]["connected"])

        await eventually(healed, 15)
        assert "POST /v1/node/renew" in cluster.log
        assert (await first_svid(process.socket)).svids[0] == first


async def test_a_ban_is_learned_at_the_first_word_and_survives_a_restart(cluster: FakeCluster, tmp_path: Path) -> None:
    async with a_process(tmp_path) as process:
        await process.start(token=cluster.token())
        await process.ready()
        await first_svid(process.socket)
        ports = (cluster.grpc_port, cluster.door_port)
        await cluster.stop()
        await process.kill(signal.SIGTERM)
        cluster.put("e2", "/never", [ME])
        cluster.banned = "stolen"
        await cluster.start(ports)
        await process.start()
        # The bans are waited for: not even the first caller gets what the cache still had.
        with pytest.raises(GRPCError) as refused:
            await first_svid(process.socket)
        assert refused.value.status is Status.PERMISSION_DENIED
        assert (await status(process))["banned"] and cluster.issued == ["e1"]

        async def sealed() -> bool:
            cache = (await status(process))["cache"]
            return bool(cache["written_at"]) and not cache["behind"]

        await eventually(sealed)
        await process.kill()
        await cluster.stop()
        await process.start()
        with pytest.raises(GRPCError) as refused:
            await first_svid(process.socket)
        assert refused.value.status is Status.PERMISSION_DENIED
        found = await status(process)
        assert found["counts"]["entries"] == found["counts"]["svids"] == 0


async def test_beyond_the_window_the_agent_says_what_a_person_must_do(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.node_ttl = timedelta(seconds=1)

    def too_late(_: object) -> None:
        raise Denied("the SVID ended, beyond the window of 30 days")

    async with a_process(tmp_path) as process:
        await process.start(token=cluster.token())
        await process.ready()
        await first_svid(process.socket)
        await process.kill(signal.SIGTERM)
        await asyncio.sleep(1.1)
        cluster.faults.nonce_renew += [too_late, too_late]
        await process.start()
        assert (await first_svid(process.socket)).svids

        async def said() -> bool:
            return bool((await status(process)).get("own_svid", {}).get("verdict"))

        await eventually(said, 20)
        code, answer = await admin(process.admin, "/ready")
        assert code == 503 and "beyond the window" in answer["reason"] and "trustfed node token" in answer["reason"]
        # A new token is that person's word.
        await process.kill()
        cluster.node_ttl = timedelta(hours=1)
        cluster.faults.nonce_renew[:] = [too_late]
        await process.start(token=cluster.token())

        async def back() -> bool:
            return bool((await status(process)).get("sync", {}).get("connected"))

        await eventually(back, 20)
