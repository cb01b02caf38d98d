"""A cluster whose clock is wrong for a while: its agents come back by themselves, and no address is two sources."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.fakes.cluster import FakeCluster
from tests.unit.agent.world import ME, Agent, eventually, running

AHEAD = timedelta(minutes=50)


async def time_of(agent: Agent) -> Any:
    return (await agent.status())["time"]


async def is_ready(agent: Agent) -> bool:
    return (await agent.admin("/ready"))[0] == 200


async def test_fifty_minutes_for_a_moment_pass_while_the_stream_is_up(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.svid_ttl = timedelta(minutes=10)
        cluster.put("e1", "/app", [ME])
        cluster.clock_ahead = AHEAD
        async with running(cluster, tmp_path, ready=False) as (agent, _):

            async def refused() -> bool:
                svids = (await agent.admin("/svids"))[1]["svids"]
                return bool(svids) and "expired" in (svids[0]["error"] or "")

            await eventually(refused)
            cluster.clock_ahead = timedelta(0)
            cluster.beat()
            await eventually(lambda: is_ready(agent))
            assert (await time_of(agent))["ahead_seconds"] < 61


async def test_fifty_minutes_that_were_sealed_pass_with_the_next_hello(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.svid_ttl = timedelta(minutes=10)
        cluster.put("e1", "/app", [ME])
        cluster.clock_ahead = AHEAD
        async with running(cluster, tmp_path, ready=False) as (agent, _):

            async def ahead() -> bool:
                return bool((await time_of(agent))["ahead_seconds"] > 2900)

            await eventually(ahead)
        cluster.clock_ahead = timedelta(0)
        async with running(cluster, tmp_path) as (agent, workload):
            assert (await time_of(agent))["ahead_seconds"] < 61
            assert len((await workload.x509()).svids) == 1


async def test_the_same_server_twice_moves_time_by_nothing(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.put("e1", "/app", [ME])
        async with running(cluster, tmp_path) as (agent, _):
            cluster.clock_ahead = timedelta(hours=12)
            for hellos in (2, 3, 4):
                cluster.cut()

                async def again(count: int = hellos) -> bool:
                    return len(cluster.hellos) >= count and bool((await agent.status())["sync"]["connected"])

                await eventually(again)
            found = await time_of(agent)
            assert found["ahead_seconds"] < 1 and found["claimed"] is not None and await is_ready(agent)


async def test_an_entry_of_no_time_is_refused_and_the_others_are_shown(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.put("e1", "/app", [ME])
        cluster.put("e2", "/two", [ME])
        cluster.entries["e2"].created_at_ms = 2**62
        async with running(cluster, tmp_path) as (agent, _):
            status, shown = await agent.admin("/entries")
            assert status == 200 and [entry["id"] for entry in shown["entries"]] == ["e1"], json.dumps(shown)
            assert list((await agent.status())["sync"]["refused"]) == ["entry e2"]
