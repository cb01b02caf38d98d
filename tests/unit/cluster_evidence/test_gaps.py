"""Silence is recorded when it begins and ends; own SVIDs, bundles and probes when they change."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from ca.lifecycle import Level
from tests.unit.cluster.cluster_parts import HOUR, ClusterParts
from tests.unit.cluster_evidence.evidence_house import House, serial
from trustfed.cluster.evidence.availability import REPEAT_MS, Availability, sign_probe
from trustfed.cluster.evidence.gaps import Gaps
from trustfed.cluster.evidence.shown import Shown
from trustfed.cluster.evidence.signed import MAX_WAITING, Signatures
from trustfed.cluster.presence import Presence
from trustfed.errors import Unavailable
from trustfed.evidence import facts as kinds
from trustfed.runtime.metrics import Registry


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = await House.open(tmp_path)
    yield made
    await made.die()


class World:
    def __init__(self, house: House) -> None:
        self.house, self.presence = house, Presence()
        self.importers: dict[str, Level] = {}
        state = lambda: house.state  # noqa: E731
        self.gaps = Gaps(state, self.presence, house.records, house.kept, lambda: self.importers, 60, house.clock)

    def heard(self, name: str = "n1", streams: int = 1) -> None:
        self.presence.alive(name, self.house.clock.now() + HOUR)
        held = self.presence.get(name)
        assert held is not None
        held.streams, held.heard = streams, self.house.clock.now()

    async def said(self) -> list[tuple[str, str]]:
        return [(fact.kind, fact.key) for fact in await self.house.facts("")]


async def test_a_node_is_silent_after_a_while_and_heard_again(house: House) -> None:
    world = World(house)
    await world.gaps.begin()
    house.clock.move(1)
    world.heard()
    await world.gaps.round()
    began = house.now
    world.heard(streams=0)
    house.clock.move(59)
    await world.gaps.round()
    house.clock.move(2)
    for _ in range(3):
        await world.gaps.round()
    assert world.gaps.silent() == [("n1", began)]
    house.clock.move(600)
    world.gaps.called("n1")
    await world.gaps.round()
    heard, silent, again = await house.facts("node.")
    assert (heard.kind, heard.body["from"]) == (kinds.NODE_HEARD, 0)
    assert (silent.kind, silent.body) == (kinds.NODE_SILENT, {"node": "n1", "since": began})
    assert (again.kind, again.body) == (kinds.NODE_HEARD, {"node": "n1", "from": began, "to": house.now})
    assert not world.gaps.silent()


async def test_a_node_is_heard_until_its_stream_closes_however_quiet_it_was(house: House) -> None:
    world = World(house)
    await world.gaps.begin()
    house.clock.move(1)
    world.heard()
    await world.gaps.round()
    house.clock.move(600)  # connected, with nothing to say
    held = world.presence.get("n1")
    assert held is not None
    held.closed(house.clock.now())
    closed = house.now
    await world.gaps.round()
    assert [kind for kind, _ in await world.said()] == [kinds.NODE_HEARD]
    house.clock.move(61)
    await world.gaps.round()
    assert world.gaps.silent() == [("n1", closed)]


async def test_the_time_without_a_process_is_a_gap_and_silence_goes_on_over_it(house: House, tmp_path: Path) -> None:
    world = World(house)
    await world.gaps.begin()
    assert not await house.facts("cluster.")  # the first process
    house.clock.move(1)
    world.heard()
    await world.gaps.round()
    last = house.now
    await house.die()
    house.clock.move(3_600)
    again = await House.open(tmp_path, house.clock)
    world = World(again)
    await world.gaps.begin()
    (gap,) = await again.facts("cluster.")
    assert gap.body == {"from": last, "to": again.now}
    await world.gaps.round()  # nobody had a chance yet
    again.clock.move(61)
    await world.gaps.round()
    silent = (await again.facts("node."))[-1]
    assert (silent.kind, silent.body) == (kinds.NODE_SILENT, {"node": "n1", "since": last})
    await again.close()


async def test_acknowledgements_are_recorded_when_they_rise(house: House) -> None:
    house.state = replace(house.state, level=Level(1, 3))
    world, own = World(house), house.state.trust_domain
    await world.gaps.begin()
    world.heard()
    world.presence.says("n1", [(own, Level(1, 2)), ("other.example", Level(1, 9))])
    world.importers["td-b"] = Level(1, 1)
    for _ in range(2):
        await world.gaps.round()
    world.presence.acknowledges("n1", own, Level(1, 3))
    await world.gaps.round()
    facts = await house.facts(kinds.BUNDLE_ACKNOWLEDGED)
    said = [(f.key, f.body.get("node") or f.body["importer"], f.body["sequence"]) for f in facts]
    assert said == [(own, "n1", 2), (own, "td-b", 1), (own, "n1", 3)]


async def test_the_first_handshake_with_an_svid_delivers_and_confirms_it(house: House) -> None:
    shown = Shown(house.records, house.serials, house.clock)

    def svid(number: int) -> Any:
        return SimpleNamespace(serial=number, not_before=house.clock.now(), id="spiffe://td-a/trustfed/node/n1")

    older = svid(1)
    await house.issue(1, entry="", slot="node")
    for _ in range(3):
        shown.saw("n1", older)
        await shown.flush()
    house.clock.move(60)
    await house.issue(2, entry="", slot="node")
    shown.saw("n1", svid(2))
    shown.saw("n1", older)  # its older stream is still open
    await shown.flush()
    another = Shown(house.records, house.serials, house.clock)
    another.saw("n1", older)
    another.saw("n1", svid(2))
    await another.flush()
    facts = await house.facts()
    assert [(f.kind, f.key) for f in facts] == [
        (kind, serial(number)) for number in (1, 2) for kind in (kinds.DELIVERED, kinds.CONFIRMED)
    ]
    assert facts[0].body["instance"] == "node/n1" and facts[1].body["peer"] == "cluster"


async def test_probes_are_recorded_when_they_change_and_once_an_hour(house: House) -> None:
    answers: dict[str, Any] = {"sign": True, "feed": None}

    async def ask(name: str) -> bool | None:
        if isinstance(answers[name], Exception):
            raise answers[name]
        found: bool | None = answers[name]
        return found

    probes = {name: (lambda name=name: ask(name)) for name in answers}
    availability = Availability(probes, 30, house.records, house.clock, house.registry)
    for _ in range(3):
        await availability.round()
    answers["sign"] = Unavailable("the key store is away")
    down = house.now
    for _ in range(2):
        await availability.round()
    assert availability.why == {"sign": "the key store is away"}
    house.clock.move(90)
    answers["sign"] = True
    await availability.round()
    house.clock.move(REPEAT_MS / 1000)
    await availability.round()
    facts = await house.facts("probe.")
    assert [(f.kind, f.key) for f in facts] == [
        (kind, "sign") for kind in (kinds.PROBE_UP, kinds.PROBE_DOWN, kinds.PROBE_UP, kinds.PROBE_UP)
    ]
    assert [f.body.get("from") for f in facts] == [0, None, down, 0]


async def test_the_signer_is_asked_without_a_serial() -> None:
    parts = await ClusterParts.make()
    probe = sign_probe(lambda: parts.state, parts.keys, parts.clock)
    assert await probe() is True
    for authority in parts.all():
        await parts.keys.destroy(authority.key_name)
    with pytest.raises(Exception, match="does not exist"):
        await probe()
    assert not await parts.ledger.find(kinds.ISSUED, "0")
    await parts.close()


async def test_signatures_and_refused_tries_come_behind(house: House) -> None:
    signatures = Signatures(house.store.ledger, house.clock, Registry())
    running = asyncio.create_task(signatures.run())
    ders = [(serial(number), os.urandom(8)) for number in range(700)]
    signatures.signed("a1", ders)
    for _ in range(3):
        signatures.refused("n1", "e1", "x509", "unavailable")
    signatures.refused("n1", "", "", "not_found")
    async with asyncio.timeout(20):
        while len(await house.facts("svid.")) < 2 or len(await house.facts("x509.signed")) < 2:
            await house.clock.advance(0.3)
            await asyncio.sleep(0.005)
    first, second = await house.facts("x509.signed")
    assert len(first.body["certificates"]) == 500 and len(second.body["certificates"]) == 200
    refused, other = await house.facts("svid.")
    assert (refused.key, refused.body["count"], refused.body["code"]) == ("n1/e1", 3, "unavailable")
    assert (other.key, other.body["entry"]) == ("node/n1", "")
    signatures.signed("a1", ders[:1])
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(await house.facts("x509.signed")) == 3
    for _ in range(MAX_WAITING // 500 + 1):
        signatures.signed("a1", ders[:500])
    assert len(signatures._waiting) == MAX_WAITING
