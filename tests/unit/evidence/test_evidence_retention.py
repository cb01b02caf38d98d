"""Facts leave after 13 months in whole segments; what was open then still comes to the same end."""

from __future__ import annotations

import hashlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.clocks import ManualClock
from tests.fakes.ledger_script import DAY, HOUR, LedgerScript, ms
from trustfed.errors import Invalid
from trustfed.evidence import facts as kinds
from trustfed.evidence import retention, tables
from trustfed.evidence.carried import PART_BYTES, carried_state, packed, unpacked
from trustfed.evidence.definition import DEFINITION
from trustfed.evidence.engine import Engine, recount
from trustfed.evidence.model import COUNTS, Class
from trustfed.evidence.retention import ends, plan, retire
from trustfed.evidence.store import EvidenceStore
from trustfed.journal.events import Fact
from trustfed.journal.memory import MemoryLedger
from trustfed.journal.merkle.log import SEGMENT

BEGIN = ms("2025-11-01 00:00")
DOMAIN = "prod.example"


def test_only_whole_segments_that_are_old_enough_leave() -> None:
    assert SEGMENT == 65_536
    assert list(ends(1, 3 * SEGMENT)) == [SEGMENT + 1, 2 * SEGMENT + 1]
    assert list(ends(SEGMENT + 1, 2 * SEGMENT + 1)) == [2 * SEGMENT + 1]
    at = {SEGMENT + 1: 100, 2 * SEGMENT + 1: 200, 3 * SEGMENT + 1: 300}
    assert plan(1, 3 * SEGMENT + 1, at, 251, 50) == 2 * SEGMENT + 1
    assert plan(1, 3 * SEGMENT + 1, at, 150, 50) == 1
    assert plan(1, SEGMENT, {}, 10_000, 50) == 1


def test_state_survives_the_facts_that_carry_it() -> None:
    chunks = [hashlib.sha256(bytes([n])).digest() * 500 for n in range(20)] + [b"", b"x"]
    parts = packed(chunks)
    assert unpacked(parts) == chunks
    rows = [
        Fact(1, kinds.ROLLUP, "5", {"part": n, "parts": len(parts), "carried": part}) for n, part in enumerate(parts)
    ]
    assert carried_state([*rows[:-1], *rows]) == chunks  # a first attempt was cut off
    assert carried_state(rows[1:]) == []
    assert all(len(part) <= PART_BYTES * 4 // 3 + 4 for part in parts)
    with pytest.raises(Invalid, match="damaged"):
        unpacked(["!!!"])
    with pytest.raises(Invalid, match="damaged"):
        unpacked([parts[0][:40]])


class SmallSegments(MemoryLedger):
    """A ledger that trims at any position: segments of the test's size."""

    async def trim(self, before: int) -> int:
        self._stored = self._stored[before - 1 - self._trimmed :]
        self._trimmed = before - 1
        return before

    @property
    def position(self) -> int:
        return self._trimmed + len(self._stored)


async def test_what_was_open_is_carried_forward_and_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SEGMENT", 8)
    script = LedgerScript()
    for name in ("a", "b", "c"):
        script.instance(name).renew_every(BEGIN, BEGIN + 4 * DAY, 12 * HOUR)
    facts = script.facts()
    end = BEGIN + 5 * DAY
    whole = recount(DOMAIN, enumerate(facts, start=1), end)
    ledger = SmallSegments()
    await ledger.append(facts)

    async def root(size: int) -> bytes:
        return hashlib.sha256(str(size).encode()).digest()

    first = 1
    for days in (1, 2):  # twice: the second rollup stands on the first
        before, first = (
            first,
            await retire(ledger, root, ledger.trim, DOMAIN, BEGIN + 20 * DAY, keep_ms=(20 - days) * DAY),
        )
        assert first > before
    assert ledger.first == first
    rollups = await ledger.find(kinds.ROLLUP, str(first))
    said = rollups[0].body
    assert (said["end"], said["facts"]) == (first, first - before)
    assert said["root"] == (await root(first - 1)).hex()
    due = COUNTS.index("due")
    gone = 0
    for key in (before, first):
        (month,) = (await ledger.find(kinds.ROLLUP, str(key)))[0].body["counts"]["leaf"].values()
        gone += month[due]
    clock = ManualClock(datetime.fromtimestamp(end / 1000, UTC))
    store = await EvidenceStore.open(tmp_path, ledger, DOMAIN, clock)
    try:
        held = await store.look(lambda engine: engine.malformed)
        assert held == 0
        rows = [row for (class_, _), row in (await store.read(_all_counters)).items() if class_ is Class.LEAF]
        retained = sum(row[due] for row in rows)
        everything = sum(row[due] for row in whole.counters.values())
        assert said["carried_on"] > 0  # and is counted with what is retained, not with what left
        assert gone + retained == everything
        on_time = COUNTS.index("on_time")
        assert sum(row[on_time] for row in rows) > 0
        assert not any(count < 0 for row in rows for count in row)
    finally:
        await store.close()


def test_who_is_known_is_named_anew_where_the_tables_begin_anew() -> None:
    script, engine = LedgerScript(), Engine(DOMAIN)
    serials = {name: script.instance(name).renew(BEGIN) for name in ("a", "b", "c")}
    for position, fact in script.numbered():
        engine.take(position, fact)
    assert {one.serial for one in engine.changes().named} == set(serials.values())
    again = Engine.load(DOMAIN, DEFINITION, engine.save())
    assert again.changes().named == []
    again.count_anew()
    assert {one.serial for one in again.changes().named} == set(serials.values())


def _all_counters(connection: sqlite3.Connection) -> dict[tuple[Class, int], list[int]]:
    return tables.counters(connection, 0, 1 << 48)
