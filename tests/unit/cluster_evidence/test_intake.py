"""What agents report: on record once, and nothing of it believed that is not so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.waiting import until
from tests.unit.cluster_evidence.evidence_house import Agent, House, serial
from trustfed.cluster.evidence import intake as module
from trustfed.errors import Invalid, Unavailable
from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact
from trustfed.runtime.budget import Budget


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = await House.open(tmp_path)
    yield made
    await made.die()


async def test_facts_carry_who_said_them_and_the_time_of_the_evidence(house: House) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    house.clock.move(10)
    delivered = agent.fact("delivered")
    house.clock.move(3)
    lost = agent.fact("lost", lost=[{"kind": "seen", "count": 2, "first": 7, "last": 9}])
    held = agent.fact("held", serials=[serial(1)], part=1, parts=1)
    assert await agent.say(delivered, agent.fact("loaded"), held, lost) == 5
    first, loaded, held_fact, lost_fact = await house.facts()
    assert first.body == {
        "node": "n1",
        "epoch": agent.epoch.hex(),
        "sequence": 1,
        "entry": "e1",
        "instance": "n1/e1",
        "slot": "x509",
        "serial": serial(1),
        "at": house.now - 3_000,
        "door": "sds",
    }
    assert (first.kind, first.key, first.at) == (kinds.DELIVERED, serial(1), house.now)
    assert (loaded.body["sequence"], loaded.body["peer"], loaded.body["at"]) == (2, "envoy~1", house.now)
    assert (held_fact.key, held_fact.body["serials"], held_fact.body["instance"]) == ("n1", [serial(1)], "node/n1")
    assert lost_fact.body["lost"] == [{"kind": "seen", "count": 2, "first": 7, "last": 9}]


async def test_a_report_that_comes_twice_is_on_record_once(house: House) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    report = agent.report(agent.fact("delivered"), agent.fact("loaded"))
    for _ in range(3):
        assert (await house.intake.report(house.node(), report)).next == 3
    more = agent.report(*report.facts, agent.fact("released"))
    assert (await house.intake.report(house.node(), more)).next == 4
    assert [fact.body["sequence"] for fact in await house.facts()] == [1, 2, 3]
    assert not house.alarms.standing()


async def test_the_same_key_with_other_bytes_is_a_clone_and_counts_for_nothing(house: House) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    await agent.say(agent.fact("delivered"), agent.fact("loaded"))
    clone = Agent(house, epoch=agent.epoch)
    clone.told()
    assert await clone.say(clone.fact("loaded"), clone.fact("released"), clone.fact("expired"), first=1) == 3
    assert [fact.kind for fact in await house.facts()] == [kinds.DELIVERED, kinds.LOADED, kinds.FLAGGED]
    assert (await house.facts(kinds.FLAGGED))[0].body["why"] == "clone"
    (alarm,) = house.alarms.standing()
    assert (alarm.code, alarm.severity, alarm.subject) == ("node_flagged", "page", "n1: clone")
    assert await agent.say(agent.fact("released")) == 4  # the first one goes on


async def test_an_older_spool_that_speaks_again_is_flagged(house: House) -> None:
    old, new = Agent(house), Agent(house)
    await house.issue(1)
    for agent in (old, new):
        agent.told()
        await agent.say(agent.fact("delivered"))
    assert await old.say(old.fact("loaded")) == 3
    assert [fact.body.get("why") for fact in await house.facts(kinds.FLAGGED)] == ["old spool"]
    assert await old.say(old.fact("loaded"), first=2) == 3
    assert await new.say(new.fact("loaded")) == 3


@pytest.mark.parametrize(
    ("kind", "changed", "why"),
    [
        ("delivered", {"serial": serial(99)}, "unknown serial"),
        ("loaded", {"serial": serial(2)}, "another's serial"),
        ("delivered", {"entry_id": "e2"}, "another node's entry"),
        ("delivered", {"slot": "reserve"}, "wrong slot"),
        ("confirmed", {"slot": "node", "serial": serial(3), "entry_id": ""}, "wrong slot"),
        ("delivered", {"slot": "other"}, "malformed"),
        ("delivered", {"door": "window"}, "malformed"),
        ("delivered", {"serial": "0A" * 16}, "malformed"),
        ("delivered", {"serial": "1"}, "malformed"),
        ("loaded", {"peer": "a\r\nb"}, "malformed"),
        ("loaded", {"peer": "x" * 2049}, "malformed"),
        ("loaded", {"peer": "\u202eevil"}, "malformed"),
        ("minted", {}, "malformed"),
        ("held", {"serials": ["x"]}, "malformed"),
        ("held", {"part": 2, "parts": 1}, "malformed"),
        ("held", {"slot": "a\r\nb"}, "malformed"),
        ("lost", {"lost": [{"kind": "A<b>", "count": 1}]}, "malformed"),
        ("offset", {"serial": serial(1)}, "malformed"),
        ("offset", {"offset_ms": 2**60}, "malformed"),
    ],
)
async def test_what_a_node_may_not_say_is_flagged_and_counts_for_nothing(
    house: House, kind: str, changed: dict[str, Any], why: str
) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    await house.issue(2, node="n2", entry="e2")
    await house.issue(3, entry="", slot="node")
    assert await agent.say(agent.fact(kind, **changed), agent.fact("delivered")) == 3
    good, flagged = await house.facts()
    assert (good.kind, good.body["sequence"]) == (kinds.DELIVERED, 2)
    assert (flagged.kind, flagged.body["why"], flagged.body["sequence"]) == (kinds.FLAGGED, why, 1)
    assert house.counted(f'flagged_total{{why="{why}"}} 1')


async def test_a_serial_that_a_handshake_showed_need_not_be_known(house: House) -> None:
    agent = Agent(house)
    agent.told()
    await agent.say(agent.fact("seen", serial=serial(77), slot="", entry_id="", peer="10.0.0.1:443"))
    (seen,) = await house.facts()
    assert (seen.kind, seen.key) == (kinds.SEEN, serial(77))


async def test_an_entry_that_ended_may_be_spoken_of_for_a_day(house: House) -> None:
    agent = Agent(house)
    await house.issue(1, entry="gone")
    body = {"entry": "gone", "why": "deleted", "at": house.now, "journal": 9}
    await house.store.ledger.append([Fact(house.now, kinds.ENTRY_ENDED, "gone", body)])
    house.clock.move(23 * 3600)
    agent.told()
    await agent.say(agent.fact("released", entry_id="gone"))
    house.clock.move(2 * 3600)
    agent.told()
    await agent.say(agent.fact("expired", entry_id="gone"))
    released, flagged = await house.facts()
    assert (released.kind, flagged.body["why"]) == (kinds.RELEASED, "entry ended")


async def test_who_dates_back_is_heard_now_and_flagged(house: House) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    then = agent.fact("delivered")
    house.clock.move(600)
    agent.told()
    await agent.say(agent.fact("offset", offset_ms=3))  # nothing waits, it says
    house.clock.move(5)
    await agent.say(then)
    _, delivered, flagged = await house.facts()
    assert (delivered.body["at"], delivered.body["late"], delivered.body["sequence"]) == (house.now, True, 2)
    assert flagged.body["why"] == "backdated"


async def test_a_new_spool_does_not_let_a_node_date_back(house: House) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    then = agent.fact("delivered")
    house.clock.move(600)
    agent.told()
    await agent.say(agent.fact("offset", offset_ms=3))
    for first in (then, agent.fact("offset", offset_ms=4)):  # behind another fact of the new spool neither
        house.clock.move(5)
        anew = Agent(house)
        anew.anchor = agent.anchor
        await anew.say(first, waiting=1)
        await anew.say(then)
    said = [fact.body for fact in await house.facts("agent.delivered")]
    assert len(said) == 3
    assert all(body["late"] and body["at"] >= house.now - 5_000 for body in said)


async def test_what_waited_in_a_spool_keeps_its_time(house: House) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    facts = [agent.fact("delivered"), agent.fact("loaded")]
    house.clock.move(7200)  # a partition
    agent.told()
    await agent.say(facts[0], waiting=1)
    house.clock.move(120)
    await agent.say(facts[1])
    assert [fact.body["at"] for fact in await house.facts()] == [house.now - 7_320_000] * 2
    assert not any(fact.body.get("late") for fact in await house.facts())


async def test_another_boot_or_no_anchor_counts_when_it_is_heard(house: House) -> None:
    agent = Agent(house)
    await house.issue(1)
    never_told = agent.fact("delivered")
    agent.told()
    before = agent.fact("loaded", boot=b"earlier!")
    house.clock.move(30)
    await agent.say(never_told, before)
    assert [(f.body["at"], f.body["late"]) for f in await house.facts()] == [(house.now, True)] * 2
    assert not await house.facts(kinds.FLAGGED)


async def test_a_spool_that_leaves_something_out_is_a_loss(house: House) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    await agent.say(agent.fact("delivered"))
    assert await agent.say(agent.fact("loaded"), first=5) == 6
    lost = (await house.facts(kinds.LOST))[0]
    assert lost.body["lost"] == [{"kind": "gap", "count": 3, "first": 2, "last": 4}]
    assert house.records.folded.mark("n1", agent.epoch.hex()) == 5


async def test_bounds_and_one_report_at_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(house)
    for broken in (
        agent.report(*[agent.fact("offset")] * 501),
        agent.report(agent.fact("seen", peer="x" * 300_000)),
        agent.report(first=1 << 60),
    ):
        with pytest.raises(Invalid):
            await house.intake.report(house.node(), broken)
    report = agent.report(agent.fact("offset"))
    first = asyncio.create_task(house.intake.report(house.node(), report))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="already"):
        await house.intake.report(house.node(), report)
    assert (await first).next == 2
    assert house.counted('refused_total{why="invalid"} 3')


async def test_a_flood_of_one_node_is_paced_and_hurts_no_other(house: House) -> None:
    house.intake._budget = Budget(2_000, module.PER_SECOND)
    flood, other = Agent(house), Agent(house, "n2")
    for agent in (flood, other):
        agent.told()
    await house.issue(2, node="n2", entry="e2")
    facts = [flood.fact("offset", offset_ms=1)] * 500
    with pytest.raises(Unavailable, match="too much"):
        for _ in range(5):
            await flood.say(*facts)
    assert await other.say(other.fact("delivered", 2, entry_id="e2")) == 2
    house.clock.move(2_000 / module.PER_SECOND)
    assert await flood.say(flood.fact("offset")) == 2_002


async def test_two_nodes_do_not_share_a_spool(house: House) -> None:
    one, two = Agent(house), Agent(house, "n2", epoch=b"e" * 16)
    one.epoch = two.epoch
    for agent in (one, two):
        agent.told()
        assert await agent.say(agent.fact("offset", offset_ms=1)) == 2
    assert len(await house.facts()) == 2


async def test_another_process_knows_what_is_on_record(house: House, tmp_path: Path) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    report = agent.report(agent.fact("delivered"))
    await house.intake.report(house.node(), report)
    await house.die()
    again = await House.open(tmp_path, house.clock)
    try:
        assert (await again.intake.report(again.node(), report)).next == 2
        assert len(await again.facts()) == 1
        agent.house = again
        agent.sequence = 1
        house.clock.move(1)
        await agent.say(agent.fact("loaded"))  # by an anchor that the earlier process told
        assert not (await again.facts())[1].body.get("late")
    finally:
        await again.close()


async def test_an_append_whose_end_is_not_known_is_looked_up_first(house: House) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    append, report = house.store.ledger.append, agent.report(agent.fact("delivered"))

    async def lost_answer(facts: Any) -> None:
        await append(facts)
        raise Unavailable("the disk failed; nothing was acknowledged")

    house.store.ledger.append = lost_answer  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await house.intake.report(house.node(), report)
    house.store.ledger.append = append  # type: ignore[method-assign]
    assert (await house.intake.report(house.node(), report)).next == 2
    assert len(await house.facts()) == 1


async def test_what_is_said_again_while_the_disk_still_writes_it_is_on_record_once(house: House) -> None:
    agent, writing = Agent(house), threading.Event()
    agent.told()
    await house.issue(1)
    report = agent.report(agent.fact("delivered"))
    stalled = asyncio.create_task(house.store._ledger_database.write(lambda _: writing.wait(), lambda _: None, 0))
    first = asyncio.create_task(house.intake.report(house.node(), report))
    try:
        await until(lambda: house.records._under_way)
        first.cancel()  # its connection broke, or the agent waited long enough
        with pytest.raises(asyncio.CancelledError):
            await first
        again = asyncio.create_task(house.intake.report(house.node(), report))
        await asyncio.sleep(0.05)
        assert not again.done()
    finally:
        writing.set()
    await stalled
    assert (await again).next == 2
    assert len(await house.facts()) == 1
