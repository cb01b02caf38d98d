"""The first start after an upgrade: the doors open, the ledger is read behind them, and nothing is decided before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cluster_evidence.evidence_house import Agent, House
from tests.unit.hub_evidence.evidence_house import until
from trustfed.cluster.evidence import records
from trustfed.cluster.evidence.kept import open_kept
from trustfed.cluster.evidence.records import Records
from trustfed.errors import Unavailable
from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact, RecordedFact

COUNT = 60


class Slow:
    """The ledger, of which a page is given only when the test lets it."""

    def __init__(self, ledger: Any) -> None:
        self._ledger, self.pages = ledger, asyncio.Semaphore(0)
        self.paced = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def read(self, after: int, limit: int) -> list[RecordedFact]:
        if self.paced:
            await self.pages.acquire()
        found: list[RecordedFact] = await self._ledger.read(after, limit)
        return found


def said(house: House, sequence: int) -> Fact:
    body = {"node": "n1", "epoch": "e", "sequence": sequence, "at": house.now, "serial": f"{sequence:032x}"}
    return Fact(house.now, kinds.DELIVERED, f"{sequence:032x}", body)


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(records, "BEFORE_DOORS", COUNT // 2)
    monkeypatch.setattr(records, "_READ", 20)
    monkeypatch.setattr(records, "_SAVED_EVERY", 20)
    made = await House.open(tmp_path)
    await made.store.ledger.append([said(made, number) for number in range(1, COUNT + 1)])
    yield made
    await made.die()


async def started(house: House, path: Path) -> tuple[Records, Slow]:
    """Another process, whose memory of the ledger is gone."""
    slow = Slow(house.store.ledger)
    made = Records(slow, await open_kept(path / "other.db"), house.clock)
    await made.start()
    slow.paced = True
    return made, slow


async def ended(task: asyncio.Task[None], made: Records) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await made._kept.close()


async def test_nothing_is_decided_by_what_is_not_known_yet(house: House, tmp_path: Path) -> None:
    made, slow = await started(house, tmp_path)
    assert not made.ready.is_set() and made.left == COUNT and made.began_ms == house.now
    with pytest.raises(Unavailable, match=f"catching up with its ledger: {COUNT} facts"):
        await made.sure()
    catching = asyncio.create_task(made.run())
    slow.pages.release()
    await until(lambda: made.left == COUNT - 20)
    # The gap before this process depends on nothing: it is on record at once, and folded when its turn comes.
    await made.append([Fact(house.now, kinds.CLUSTER_GAP, "td-a", {"from": 1, "to": 2})])
    assert made.folded.mark("n1", "e") == 20 and not made.ready.is_set()
    slow.paced = False
    slow.pages.release()
    await made.ready.wait()
    await made.sure()
    assert (made.left, made.folded.mark("n1", "e")) == (0, COUNT)
    await made.append([said(house, COUNT + 1)])
    assert made.folded.mark("n1", "e") == COUNT + 1
    await ended(catching, made)


async def test_a_process_that_ends_meanwhile_goes_on_where_it_was(house: House, tmp_path: Path) -> None:
    made, slow = await started(house, tmp_path)
    catching = asyncio.create_task(made.run())
    slow.pages.release()
    slow.pages.release()
    await until(lambda: made.left == COUNT - 40)
    await until(lambda: slow.pages.locked() and made._saved_at == 40)
    await ended(catching, made)
    again = Records(house.store.ledger, await open_kept(tmp_path / "other.db"), house.clock)
    await again.start()  # 20 are left, which is few
    assert again.ready.is_set() and again.folded.mark("n1", "e") == COUNT
    await again._kept.close()


async def test_an_agents_report_waits_and_is_taken_once(house: House, tmp_path: Path) -> None:
    agent = Agent(house)
    agent.told()
    await house.issue(1)
    house.records.ready.clear()
    house.records._doubt = 0
    with pytest.raises(Unavailable, match="catching up"):
        await agent.say(agent.fact("delivered"))
    await house.records._catch_up()
    await agent.say(agent.fact("delivered"))
    assert len([one for one in await house.facts("agent.delivered") if one.body["epoch"] == agent.epoch.hex()]) == 1
