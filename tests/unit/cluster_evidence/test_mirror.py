"""Events of the journal in the ledger: each once, with its position, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ca.lifecycle import Kind, Status
from tests.unit.cluster.cluster_parts import ClusterParts
from trustfed.cluster import events as e
from trustfed.cluster.evidence.events import RotationOrdered
from trustfed.cluster.evidence.kept import open_kept
from trustfed.cluster.evidence.mirror import Mirror
from trustfed.cluster.evidence.mirrored import Mirrored
from trustfed.cluster.evidence.records import Records
from trustfed.errors import Unavailable
from trustfed.evidence import facts as kinds
from trustfed.evidence.mirrored import Decisions
from trustfed.journal.events import Fact
from trustfed.journal.memory import MemoryLedger
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms


class Flaky(MemoryLedger):
    """Forgets to answer as often as it is told to."""

    silent = 0

    async def append(self, facts: Any) -> None:
        await super().append(facts)
        if self.silent:
            self.silent -= 1
            raise Unavailable("the store is away")


class Mirroring:
    def __init__(self, parts: ClusterParts, ledger: MemoryLedger, path: Path) -> None:
        self.parts, self.ledger, self.path = parts, ledger, path

    async def start(self, *, saved: bool = True) -> Mirror:
        self.kept = await open_kept(self.path / f"kept{'' if saved else self.ledger.position}.db")
        self.records = Records(self.ledger, self.kept, self.parts.clock)
        await self.records.start()
        policy = self.parts.authorities.lifecycle_policy()
        mirrored = Mirrored("file", policy)
        return Mirror(self.parts.fold, self.parts.journal, self.records, mirrored, self.parts.clock, Registry())

    async def facts(self) -> list[Fact]:
        return [one.fact for one in await self.ledger.read(0, 1000)]


@pytest.fixture
async def parts() -> AsyncIterator[ClusterParts]:
    made = await ClusterParts.make()
    yield made
    await made.close()


async def test_each_event_once_over_restarts_and_lost_answers(parts: ClusterParts, tmp_path: Path) -> None:
    ledger = Flaky()
    world = Mirroring(parts, ledger, tmp_path)
    await parts.node()
    entry = await parts.entry()
    mirror = await world.start()
    ledger.silent = 1
    with pytest.raises(Unavailable):
        await mirror.catch_up()
    await mirror.catch_up()
    await world.records.save()
    await world.kept.close()
    for saved in (True, False):
        mirror = await world.start(saved=saved)
        await mirror.catch_up()
        await world.kept.close()
    mirror = await world.start()
    active = parts.one(Kind.X509, Status.ACTIVE)
    await parts.decide(lambda s: [e.EntryDeleted(entry.id)])
    await parts.decide(lambda s: [e.NodeBanned("n1", "stolen", parts.now)])
    await parts.decide(lambda s: [e.AuthorityTainted(active.id, False, parts.now)])
    for name in ("r1", "r2"):
        ends = parts.now + timedelta(seconds=60)
        await parts.record(RotationOrdered(name, (), (active.id,), parts.now, ends, 60, "because"))
    await mirror.catch_up()
    await world.kept.close()
    facts = await world.facts()
    decisions = Decisions()
    for record in await parts.journal.read(0, 1000):
        decisions.take(record.position, record.event)
    assert len(facts) == len({(f.kind, f.key, f.body["journal"], f.body.get("step")) for f in facts})
    assert decisions.omitted(0, to_ms(parts.now) + 1)
    assert [decisions.compare(fact) for fact in facts] == [""] * len(facts)
    assert not decisions.omitted(0, to_ms(parts.now) + 1)
    steps = [(f.body["kind"], f.body["step"]) for f in facts if f.kind == kinds.AUTHORITY_STEP]
    for kind in ("x509", "jwt"):
        own = [step for of, step in steps if of == kind and step != "tainted"]
        assert own[0] == "prepared" and {"published", "activated"} <= set(own) and len(own) == len(set(own))
    assert [f.kind for f in facts[-5:]] == [
        kinds.ENTRY_ENDED,
        kinds.NODE_ENDED,
        kinds.AUTHORITY_STEP,
        kinds.FORCED,
        kinds.FORCED,
    ]
    forced = facts[-1].body
    assert forced["authorities"] == [active.id] and forced["deadline"] == to_ms(parts.now) + 60_000
    (activated,) = [f.body for f in facts if f.body.get("step") == "activated" and f.body["kind"] == "x509"]
    assert activated["algorithm"] == "ec-p256" and activated["custodian"] == "file" and activated["safe_ms"]
    assert activated["not_after"] == int(active.not_after.timestamp())


async def test_what_comes_is_mirrored_as_it_comes(parts: ClusterParts, tmp_path: Path) -> None:
    world = Mirroring(parts, MemoryLedger(), tmp_path)
    mirror = await world.start()
    running = asyncio.create_task(mirror.run())
    entry = await parts.entry()
    await parts.decide(lambda s: [e.EntryDeleted(entry.id)])
    async with asyncio.timeout(20):
        while not any(fact.kind == kinds.ENTRY_ENDED for fact in await world.facts()):
            await asyncio.sleep(0.01)
    running.cancel()
    assert mirror.position == parts.fold.position
    await world.kept.close()
