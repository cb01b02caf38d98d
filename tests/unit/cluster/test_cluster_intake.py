"""Peers' envelopes are recorded at a pace, whoever brings them; the newest is late at most, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from tests.fakes.journals import FaultyJournal
from tests.unit.cluster.cluster_parts import TD, ClusterParts, settle
from tests.unit.cluster.test_cluster_freshness import World
from tests.unit.cluster.test_cluster_peer_endpoints import URL, Apart
from tests.unit.hub.newcomer import Newcomer
from trustfed.cluster import events as e
from trustfed.cluster.hub_news import ENDPOINTS_BURST, ENDPOINTS_SECONDS
from trustfed.cluster.intake import BURST, SECONDS, Intake
from trustfed.errors import Denied, Unavailable
from trustfed.runtime.metrics import Registry


@pytest_asyncio.fixture
async def world(parts: ClusterParts) -> AsyncIterator[World]:
    made = World(parts, await Newcomer.make("td-b"))
    await made.granted()
    yield made


async def flood(world: World, intake: Intake, count: int) -> int:
    """How many of so many new envelopes at once were recorded."""
    before = world.parts.fold.position
    for _ in range(count):
        await intake.take("td-b", await world.peer.envelope(), actor="hub", reason="relayed by the hub")
    return world.parts.fold.position - before


async def test_a_taint_behind_a_flood_is_recorded_when_its_turn_comes(world: World) -> None:
    registry, clock = Registry(), world.parts.clock
    intake = Intake(world.parts.fold, clock, registry)
    assert await flood(world, intake, BURST + 15) == BURST
    assert intake.waiting() == ["td-b"] and "envelopes_waiting 1" in registry.exposition().decode()
    running = asyncio.create_task(intake.run())
    await clock.advance(SECONDS - 1, turns=50)
    assert world.parts.state.peers["td-b"].sequence == BURST
    await clock.advance(1, turns=50)
    await settle()
    assert world.parts.state.peers["td-b"].sequence == world.peer.sequence == BURST + 15
    assert intake.waiting() == []
    assert await flood(world, intake, 1) == 0
    running.cancel()


async def test_who_pins_another_key_waits_for_nobodys_flood(world: World) -> None:
    intake = Intake(world.parts.fold, world.parts.clock)
    await flood(world, intake, BURST + 1)
    new = await Newcomer.make("td-b")
    await world.parts.record(e.GrantRepinned("g", new.key.spki))
    assert await intake.take("td-b", await new.envelope(), actor="hub", reason="relayed by the hub")
    world.parts.clock.move(SECONDS)
    assert await intake.look() is None  # what waited under the key before is wanted no more
    assert world.parts.state.peers["td-b"].key == new.key.spki


async def test_what_is_refused_or_held_takes_no_turn(world: World) -> None:
    intake, thief = Intake(world.parts.fold, world.parts.clock), await Newcomer.make("td-b")
    for _ in range(BURST * 2):
        with pytest.raises(Denied):
            await intake.take("td-b", await thief.envelope(), actor="hub", reason="")
    good = await world.peer.envelope()
    assert [await intake.take("td-b", good, actor="hub", reason="") for _ in range(BURST * 2)].count(True) == 1
    assert await flood(world, intake, BURST) == BURST - 1


async def test_a_peers_own_endpoint_is_held_to_the_same_pace(world: World) -> None:
    await world.brings(endpoints=(URL,))
    apart, before = Apart(world), world.parts.fold.position
    apart.connected = True
    for _ in range(360):  # one hour of a peer that makes itself urgent, and has a new envelope each time
        apart.endpoint.envelope = await world.peer.envelope(hint=1)
        apart.endpoint.confirmation = await world.confirmed(sequence=world.peer.sequence + 1)
        await apart.passes(timedelta(seconds=10), timedelta(seconds=10))
    assert world.parts.fold.position - before <= BURST + 3600 / SECONDS


async def test_endpoints_that_the_hub_changes_without_end_are_paced(world: World) -> None:
    envelope = await world.peer.envelope()
    await world.brings(envelope)
    before = world.parts.fold.position
    for number in range(50):
        await world.brings(envelope, endpoints=(f"https://td-b.example:{2000 + number}",))
    assert world.parts.fold.position - before == ENDPOINTS_BURST
    assert "too often" in world.news.refused["bundle endpoints of td-b"]
    world.passes(timedelta(seconds=ENDPOINTS_SECONDS))
    await world.brings(envelope, endpoints=(URL,))
    assert world.parts.state.endpoints.get("td-b") == (URL,)
    assert not world.news.refused


async def test_a_journal_that_fails_uses_up_no_turn() -> None:
    journal = FaultyJournal()
    parts = await ClusterParts.make(journal=journal)
    world = World(parts, await Newcomer.make("td-b"))
    await world.granted()
    intake, envelope = Intake(parts.fold, parts.clock), await world.peer.envelope()
    for _ in range(BURST * 2):
        journal.fail(Unavailable("the disk is full"))
        with pytest.raises(Unavailable):
            await intake.take("td-b", envelope, actor="hub", reason="")
    assert await intake.take("td-b", envelope, actor="hub", reason="")
    assert parts.state.trust_domain == TD
    await parts.close()
