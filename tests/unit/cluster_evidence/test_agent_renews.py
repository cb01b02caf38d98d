"""An ordered rotation at the agent: what began before it is replaced, whoever signed it, and served until then."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tests.fakes.cluster import FakeCluster
from tests.unit.agent.test_agent_enrolment import enrol
from tests.unit.agent.test_agent_own_svid import own_of
from tests.unit.agent.test_agent_reserves import a_world
from tests.unit.agent.test_agent_store import an_entry

NOW = timedelta(0)


async def test_what_is_named_and_older_is_replaced_once() -> None:
    async with a_world() as world:
        world.store.put_entries([an_entry(), an_entry("e2")])
        await world.clock.advance(0.1, turns=20)
        first = dict(world.store.svids)
        assert set(first) == {"e1", "e2"}
        await world.clock.advance(60, turns=20)
        ordered = world.clock.now()
        world.renewal.renew(["e1"], [], ordered, NOW)
        assert world.store.svids == first  # still served
        await world.clock.advance(0.1, turns=20)
        assert world.store.svids["e1"] != first["e1"] and world.store.svids["e2"] == first["e2"]
        second = dict(world.store.svids)
        await world.clock.advance(5, turns=20)
        world.renewal.renew(["e1"], [], ordered, NOW)  # said again
        world.renewal.renew([], ["another"], world.clock.now(), NOW)
        await world.clock.advance(0.1, turns=20)
        assert world.store.svids == second
        world.renewal.renew([], [], world.clock.now(), NOW)
        await world.clock.advance(0.1, turns=20)
        assert all(world.store.svids[id_] != svid for id_, svid in second.items())


async def test_the_node_s_own_svid_too_if_it_is_meant(tmp_path: Path) -> None:
    async with FakeCluster() as cluster:
        identity = await enrol(cluster, tmp_path / "data")
        own, _, _ = own_of(identity, tmp_path / "data")
        now = own._clock.now() + timedelta(seconds=5)
        due = now + timedelta(hours=1)
        own.slot = replace(own.slot, due=due)
        own.ordered(["another"], now, NOW)
        own.ordered([], identity.issued_at, NOW)
        assert own.slot.due == due
        own.ordered([], now, NOW)
        assert own.slot.due < due
