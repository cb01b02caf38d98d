"""A tainted authority: what it signed is replaced, over restarts too, and what arrives late is not taken."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.fakes.cluster import FakeCluster
from tests.unit.agent.test_agent_enrolment import enrol
from tests.unit.agent.test_agent_own_svid import own_of
from tests.unit.agent.test_agent_reserves import a_world
from tests.unit.agent.test_agent_store import an_entry
from tests.unit.agent.world import ME, eventually, running, until
from trustfed.proto import node_pb2 as pb


async def test_a_taint_is_carried_out_after_a_restart(tmp_path: Path) -> None:
    """On resume the cluster does not repeat its order, and the agent ended before its turn within the spread came."""
    async with FakeCluster() as cluster:
        cluster.put("e1", "/app", [ME])
        async with running(cluster, tmp_path) as (agent, _):
            await until(lambda: "e1" in cluster.issued)
            cluster.home.authorities.append(cluster.new_authority("a2"))
            cluster.publish()
            order = pb.Reissue(authorities=["a1"], spread_seconds=86_400, drop_jwts=True, reason="tainted")
            cluster.tell(pb.FromCluster(reissue=order))

            async def applied() -> bool:
                return bool((await agent.status())["sync"]["position"] == cluster.position)

            await eventually(applied)
            assert (await agent.admin("/svids"))[1]["svids"][0]["authority"] == "a1"
        await cluster.restart()  # so that its TLS knows the new authority too
        async with running(cluster, tmp_path) as (agent, _):

            async def replaced() -> bool:
                return bool((await agent.admin("/svids"))[1]["svids"][0]["authority"] == "a2")

            await eventually(replaced)
            assert cluster.hellos[-1].position == cluster.position


async def test_an_svid_that_was_on_its_way_is_not_taken() -> None:
    async with a_world() as world:
        gate, call = asyncio.Event(), world.issuer.call

        async def late(method: str, request: Any, answer: Any) -> pb.IssueX509Response:
            got = await call(method, request, answer)
            await gate.wait()
            return got

        world.issuer.call = late  # type: ignore[method-assign]
        world.store.put_entries([an_entry()])
        await world.clock.advance(0.1, turns=20)
        world.renewal.reissue(["a1"], timedelta(0))
        gate.set()
        await world.clock.advance(0.1, turns=20)
        assert not world.store.svids
        assert "authority" in world.renewal.slots["e1"].error and world.renewal.slots["e1"].tries


async def test_the_node_s_own_svid_that_was_on_its_way_is_replaced_again(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        identity = await enrol(cluster, tmp_path / "data")
        own, _, _ = own_of(identity, tmp_path / "data")
        cluster.faults.nonce_renew.append(lambda _: own.reissue(["a1"], timedelta(0)))
        await own.once()
        assert own.slot.tries == 0 and own.slot.due - own._clock.now() <= timedelta(seconds=30)
