"""What nodes report of their Envoys: recorded once, of own entries only, within bounds, alarmed while it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from tests.fakes.clocks import START, ManualClock
from tests.unit.cluster.test_cluster_sessions import World as States
from tests.unit.cluster.test_cluster_sessions import entry
from trustfed.cluster import proxies as module
from trustfed.cluster.proxies import MAX_REPORTS, REFUSED, Proxies
from trustfed.errors import Invalid, Unavailable
from trustfed.journal.memory import MemoryLedger
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms

NOW = to_ms(START)


class Folded:
    """What the fold gives: its state."""

    def __init__(self) -> None:
        self.state = States(entry("e1"), entry("e2", "node/n2")).state


class World:
    def __init__(self) -> None:
        self.clock, self.ledger, self.registry = ManualClock(), FlakyLedger(), Registry()
        fold: Any = Folded()
        self.proxies = Proxies(fold, self.ledger, self.clock, self.registry)
        self._running = asyncio.create_task(self.proxies.run())

    async def facts(self, count: int) -> list[Any]:
        """The first `count` facts, once they are there."""
        async with asyncio.timeout(20):
            while len(found := await self.ledger.read(0, 1000)) < count:
                await asyncio.sleep(0)
        return [one.fact for one in found]

    def left_out(self, why: str) -> bool:
        return f'left_out_total{{why="{why}"}}' in self.registry.exposition().decode()

    async def close(self) -> None:
        self._running.cancel()


class FlakyLedger(MemoryLedger):
    """Fails as often as it is told to."""

    failing = 0

    async def append(self, facts: Any) -> None:
        if self.failing:
            self.failing -= 1
            raise Unavailable("the store is away")
        await super().append(facts)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()


def loaded(**changed: Any) -> pb.SecretLoaded:
    given = {"entry_id": "e1", "resource": "default", "serial": "0a1b", "version": "v1", "proxy": "sidecar~1"}
    return pb.SecretLoaded(**{**given, "at_ms": NOW, **changed})


def refused(**changed: Any) -> pb.SecretRefused:
    given = {"entry_id": "e1", "resource": "default", "serial": "0a1b", "version": "v1", "proxy": "sidecar~1"}
    return pb.SecretRefused(**{**given, "at_ms": NOW, "error": "bad key", **changed})


async def test_a_refusal_is_a_fact_of_the_ledger_and_what_was_loaded_is_counted(world: World) -> None:
    anchors = refused(entry_id="", serial="", resource="ROOTCA")
    world.proxies.heard("n1", pb.ProxyReport(loaded=[loaded()], refused=[refused(version="v2"), anchors]))
    refusal, context = await world.facts(2)
    expected = {
        "node": "n1",
        "entry": "e1",
        "resource": "default",
        "serial": "0a1b",
        "version": "v2",
        "proxy": "sidecar~1",
        "error": "bad key",
    }
    assert (refusal.kind, refusal.key, refusal.at, refusal.body) == (REFUSED, "0a1b", NOW, expected)
    assert (context.key, context.body["entry"]) == ("n1/ROOTCA", "")
    assert [one.body for one in await world.ledger.find(REFUSED, "0a1b")] == [refusal.body]
    assert (world.proxies.loaded_total, world.proxies.refused_total) == (1, 2)


async def test_what_comes_twice_counts_once(world: World) -> None:
    for later in range(3):
        world.proxies.heard("n1", pb.ProxyReport(loaded=[loaded(at_ms=NOW + later)]))
    world.proxies.heard("n1", pb.ProxyReport(loaded=[loaded(version="v2", serial="0c")]))
    assert world.proxies.loaded_total == 2
    for later in (0, 0, 1):
        world.proxies.heard("n1", pb.ProxyReport(refused=[refused(at_ms=NOW + later)]))
    assert len(await world.facts(2)) == 2


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (loaded(entry_id="e2"), "another node's entry"),
        (loaded(entry_id="unknown"), "another node's entry"),
        (loaded(serial=""), "malformed"),
        (loaded(serial="0A"), "malformed"),
        (loaded(entry_id="", serial="0a"), "malformed"),
        (loaded(entry_id="", serial="zz"), "malformed"),
        (loaded(resource=""), "malformed"),
        (loaded(resource="x" * 2049), "malformed"),
        (loaded(proxy="a\nb"), "malformed"),
        (loaded(proxy="x" * 129), "malformed"),
        (loaded(version=""), "malformed"),
        (loaded(version="x" * 65), "malformed"),
        (refused(error="x" * 501), "malformed"),
        (refused(error="red \x1b[31m"), "malformed"),
    ],
)
async def test_what_a_node_may_not_say_is_left_out_and_counted(world: World, said: Any, why: str) -> None:
    field = "refused" if isinstance(said, pb.SecretRefused) else "loaded"
    world.proxies.heard("n1", pb.ProxyReport(**{field: [said]}))
    world.proxies.heard("n1", pb.ProxyReport(refused=[refused(version="good")]))
    (fact,) = await world.facts(1)
    assert fact.body["version"] == "good" and world.left_out(why)
    assert (world.proxies.loaded_total, world.proxies.refused_total) == (0, 1)


async def test_a_refusal_is_shown_until_that_proxy_loads_it(world: World) -> None:
    world.proxies.heard("n1", pb.ProxyReport(refused=[refused(error="Failed to load private key")]))
    refusing: Any = world.proxies.status()["refusing"]
    (shown,) = refusing
    assert (shown["node"], shown["error"]) == ("n1", "Failed to load private key")
    assert "trustfed_cluster_proxy_refusing 1" in world.registry.exposition().decode()
    world.proxies.heard("n1", pb.ProxyReport(loaded=[loaded(proxy="another")]))
    assert world.proxies.status()["refusing"]
    world.proxies.heard("n1", pb.ProxyReport(loaded=[loaded(version="v2")]))
    assert not world.proxies.status()["refusing"]


async def test_what_comes_back_to_an_earlier_version_is_news_and_ends_its_alarm(world: World) -> None:
    """A version is a hash of the content: a grant that is given again has the one that it had before."""
    said: list[Any] = [loaded(), loaded(version="v2", at_ms=NOW + 1), loaded(at_ms=NOW + 2)]
    said += [refused(version="v3", at_ms=NOW + 3), loaded(at_ms=NOW + 4)]
    for one in [*said, *said[:3]]:  # and some of them again
        field = "refused" if isinstance(one, pb.SecretRefused) else "loaded"
        world.proxies.heard("n1", pb.ProxyReport(**{field: [one]}))
    assert [one.body["version"] for one in await world.facts(1)] == ["v3"] and world.proxies.loaded_total == 4
    assert not world.proxies.status()["refusing"] and len(await world.ledger.read(0, 10)) == 1


async def test_what_was_loaded_after_a_refusal_ends_its_alarm_in_the_same_message_too(world: World) -> None:
    world.proxies.heard("n1", pb.ProxyReport(loaded=[loaded(version="v2", at_ms=NOW + 1)], refused=[refused()]))
    assert [one.kind for one in await world.facts(1)] == [REFUSED]
    assert not world.proxies.status()["refusing"]


async def test_too_many_at_once_and_too_often(world: World) -> None:
    with pytest.raises(Invalid, match=f"{MAX_REPORTS + 1} reports in one message"):
        world.proxies.heard("n1", pb.ProxyReport(loaded=[loaded()] * (MAX_REPORTS + 1)))
    for number in range(0, module.BURST + MAX_REPORTS, MAX_REPORTS):
        reports = [loaded(version=f"v{number + at}") for at in range(MAX_REPORTS)]
        world.proxies.heard("n1", pb.ProxyReport(loaded=reports))
    assert world.proxies.loaded_total == module.BURST and world.left_out("too many")
    world.proxies.heard("unknown", pb.ProxyReport(loaded=[loaded()]))  # a node that is gone meanwhile


async def test_a_ledger_that_is_away_loses_nothing_within_the_bound(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    world.ledger.failing = 2
    for number in range(5):
        world.proxies.heard("n1", pb.ProxyReport(refused=[refused(version=f"v{number}")]))
    await world.clock.advance(10)
    assert [one.body["version"] for one in await world.facts(3)] == ["v2", "v3", "v4"]
    assert world.left_out("the ledger is away")


async def test_a_time_that_cannot_be_is_replaced_by_now(world: World) -> None:
    for at in (0, NOW + 3_600_000, 2**62):
        world.proxies.heard("n1", pb.ProxyReport(refused=[refused(version=f"v{at}", at_ms=at)]))
    world.proxies.heard("n1", pb.ProxyReport(refused=[refused(version="old", at_ms=NOW - 60_000)]))
    assert [one.at for one in await world.facts(4)] == [NOW, NOW, NOW, NOW - 60_000]


async def test_an_alarm_is_of_one_entry_and_ends_with_it(world: World) -> None:
    world.proxies.heard("n1", pb.ProxyReport(refused=[refused(), refused(entry_id="", serial="", resource="ROOTCA")]))
    world.proxies.heard(
        "n1", pb.ProxyReport(loaded=[loaded(entry_id="", serial="", version="v3")])
    )  # another "default"
    refusing: Any = world.proxies.status()["refusing"]
    assert [one["entry"] for one in refusing] == [None, "e1"]
    fold: Any = world.proxies._fold
    fold.state = replace(fold.state, entries=fold.state.entries.drop("e1"))
    refusing = world.proxies.status()["refusing"]
    assert [one["resource"] for one in refusing] == ["ROOTCA"]


async def test_one_nodes_alarms_do_not_push_out_anothers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SHOWN", 3)
    world.proxies.heard("n2", pb.ProxyReport(refused=[refused(entry_id="e2")]))
    for number in range(5):
        world.proxies.heard("n1", pb.ProxyReport(refused=[refused(proxy=f"p{number}")]))
    refusing: Any = world.proxies.status()["refusing"]
    assert [(one["node"], one["proxy"]) for one in refusing] == [("n1", "p4"), ("n1", "p3"), ("n2", "sidecar~1")]
