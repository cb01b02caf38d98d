"""Several addresses of one cluster, the way back after an absence, and a crowd that comes back together."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent import addresses, enrolment
from agent.identity import IdentityFile, Node, NodeIdentity
from agent.link import Link
from agent.sync import Sync
from agent.trusted_time import TrustedTime
from tests.fakes.clocks import ManualClock
from tests.fakes.cluster import FakeCluster
from tests.unit.agent.test_agent_enrolment import enrol
from tests.unit.agent.world import ME, eventually, running, until
from trustfed.errors import Unavailable
from trustfed.runtime.metrics import Registry

NOBODY = "127.0.0.1:1"


def test_addresses_that_are_none_are_passed_over() -> None:
    told = ["a:1", "nonsense", 7, "a:1", "[::1]:2", *(f"h{n}:1" for n in range(50))]
    found = addresses.usable(told)
    assert found[:3] == ("a:1", "[::1]:2", "h0:1") and len(found) == addresses.MAX_ADDRESSES
    assert addresses.of("::1", 2) == "[::1]:2"


def test_each_is_tried_once_and_then_it_is_time_to_wait() -> None:
    turn, order = addresses.Turn(), addresses.in_turn("b:1", ("a:1", "b:1", "c:1"))
    assert order == ("b:1", "a:1", "c:1")
    tried = []
    for _ in range(6):
        tried.append(turn.next(order))
        turn.failed(tried[-1], order)
    assert tried == ["b:1", "a:1", "c:1"] * 2
    turn.failed("b:1", order)
    turn.worked()
    assert turn.next(order) == "b:1"


async def test_an_identity_of_before_there_were_lists_is_read(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.grpc_addresses = ["c.example:1", "not an address"]
        identity = await enrol(cluster, tmp_path / "data")
        assert identity.grpc_addresses == ("c.example:1",)
        document = json.loads(identity.marshal())
        assert NodeIdentity.parse(identity.marshal()).grpc_addresses == ("c.example:1",)
        del document["grpc_addresses"], document["https_addresses"]
        old = NodeIdentity.parse(json.dumps(document).encode())
        assert (old.grpc_addresses, old.https_addresses, old.grpc) == ((), (), identity.grpc)


async def test_the_next_address_is_tried_and_remembered(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.put("e1", "/web", [ME])
        async with running(cluster, tmp_path):
            pass
        identity = IdentityFile(tmp_path / "data").load()
        assert identity is not None
        there = identity.grpc
        object.__setattr__(identity, "grpc", NOBODY)
        object.__setattr__(identity, "grpc_addresses", ("127.0.0.1:2", there))
        IdentityFile(tmp_path / "data").save(identity)
        cluster.grpc_addresses = [NOBODY, there]
        cluster.https_addresses = [f"127.0.0.1:{cluster.door_port}", NOBODY]
        async with running(cluster, tmp_path) as (agent, _):

            async def connected() -> bool:
                return bool((await agent.status())["sync"]["connected"])

            await eventually(connected)
            status = await agent.status()
            assert status["sync"]["address"] == status["server"]["grpc"] == there
            assert status["server"]["grpc_addresses"] == [NOBODY, there]
        identity = IdentityFile(tmp_path / "data").load()
        assert identity is not None and identity.grpc == there and identity.https_addresses[1] == NOBODY


async def test_renewal_finds_the_door_that_is_the_cluster_s(tmp_path: Path) -> None:
    async with FakeCluster() as cluster, FakeCluster() as stranger:
        identity = await enrol(cluster, tmp_path / "data")
        door = identity.door
        object.__setattr__(identity, "door", ("127.0.0.1", 1))
        told = (f"127.0.0.1:{stranger.door_port}", f"127.0.0.1:{door[1]}")
        object.__setattr__(identity, "https_addresses", told)
        renewed = await asyncio.to_thread(enrolment.renew, identity, datetime.now(UTC))
        assert renewed.door == door and renewed.https_addresses == told
        assert all(line.startswith("GET /envelope") for line in stranger.log)
        assert (await asyncio.to_thread(enrolment.refresh, identity)).home.level == identity.home.level


class Returning(Sync):
    """Finds its cluster away until `up`, in seconds of its clock; `back` is when it was found again."""

    up, back = 0.0, -1.0

    async def _session(self) -> None:
        self._dialled, self._link.address = True, self._node.identity.grpc
        if self._clock.monotonic() < self.up:
            raise Unavailable("away")
        self.back = self._clock.monotonic()
        await asyncio.Event().wait()


async def test_two_hundred_agents_are_back_within_ten_seconds_and_not_at_once(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        identity = await enrol(cluster, tmp_path / "data")
    clock, luck, agents = ManualClock(), random.Random(4), list[Returning]()
    for _ in range(200):
        node, time = Node(identity, IdentityFile(tmp_path), Registry()), TrustedTime(clock, clock.monotonic, "b")
        part: Any = None
        one = Returning(part, node, Link(node, time), part, part, time, luck.random, Registry())
        one.up = 60.0
        agents.append(one)
    tasks = [asyncio.create_task(one.run()) for one in agents]
    await clock.advance(71, turns=8)
    back = sorted(one.back - 60 for one in agents)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert back[0] >= 0 and back[-1] < 8
    # The busiest second has not many more than its share.
    assert max(sum(second <= moment < second + 1 for moment in back) for second in range(8)) < 80


async def test_time_comes_from_the_cluster_and_may_be_reset(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.put("e1", "/web", [ME])
        cluster.clock_ahead = timedelta(minutes=20)
        async with running(cluster, tmp_path) as (agent, _):

            async def ahead() -> bool:
                return bool((await agent.status())["time"]["ahead_seconds"] > 1190)

            await eventually(ahead)
            assert (await agent.status())["time"]["source"] == "authenticated"
            assert "trustfed_agent_time_ahead_seconds 1" in (await agent.admin("/metrics"))[1]
            cluster.clock_ahead = timedelta(hours=9)
            cluster.beat()

            async def claimed() -> bool:
                return bool((await agent.status())["time"]["claimed"])

            await eventually(claimed)
            assert (await agent.status())["time"]["ahead_seconds"] < 1300
            cluster.clock_ahead = timedelta(0)
            await _post(agent.config.admin_path, "/time/reset", {"to": "wall"})
            found = (await agent.status())["time"]
            assert abs(found["ahead_seconds"]) < 1 and found["claimed"] is None
            assert (await _post(agent.config.admin_path, "/time/reset", {"to": "noon"})) == 400


async def _post(socket: Path, path: str, body: object) -> int:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    raw = await reader.read()
    writer.close()
    return int(raw.split()[1])


async def test_reserves_are_ordered_by_the_cluster_and_shown(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        cluster.put("e1", "/web", [ME])
        cluster.reserve_ttl = timedelta(days=7)
        async with running(cluster, tmp_path) as (agent, _):
            await until(lambda: cluster.reserves == ["e1"])

            async def shown() -> bool:
                return bool((await agent.status())["reserves"]["held"])

            await eventually(shown)
            (svid,) = (await agent.admin("/svids"))[1]["svids"]
            assert svid["reserve"]["in_use"] is False and svid["reserve"]["not_after"] > svid["not_after"]
            cluster.reserve_ttl = timedelta(0)
            cluster.cut()

            async def gone() -> bool:
                return not (await agent.status())["reserves"]["held"]

            await eventually(gone)
