"""evidence.db follows a ledger, outlives crashes, is made anew when it must be, and tells what changed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.clocks import ManualClock
from tests.fakes.ledger_script import DAY, HOUR, LedgerScript, ms
from trustfed.errors import Invalid
from trustfed.evidence import store as stores
from trustfed.evidence import tables, timeline
from trustfed.evidence.definition import DEFINITION, Definition
from trustfed.evidence.engine import recount
from trustfed.evidence.figures import Figures, Window, figures
from trustfed.evidence.model import COUNTS, Outcome
from trustfed.evidence.store import ChangedRows, EvidenceStore
from trustfed.journal.events import Fact, RecordedFact
from trustfed.journal.memory import MemoryLedger
from trustfed.journal.sqlite import open_store
from trustfed.runtime.timestamps import to_ms

BEGIN = ms("2027-01-01 00:00")
WINDOW = Window(BEGIN, BEGIN + 3 * DAY)
DOMAIN = "prod.example"


def a_few_days() -> list[Fact]:
    """Two that renew, and one that stops after a day."""
    script = LedgerScript()
    for name in ("one", "two"):
        script.instance(name).renew_every(BEGIN, BEGIN + 3 * DAY, 12 * HOUR)
    script.instance("stopped").renew_every(BEGIN, BEGIN + DAY, 12 * HOUR)
    step = {"kind": "jwt", "step": "activated", "not_before": BEGIN // 1000, "not_after": BEGIN // 1000 + 86_400}
    script.record(BEGIN, "authority.step", "J1", {"authority": "J1", **step})
    script.record(BEGIN, "probe.up", "sign", {"probe": "sign", "at": BEGIN})
    return script.facts()


def clock_at(at: int) -> ManualClock:
    return ManualClock(datetime.fromtimestamp(at / 1000, UTC))


async def filled(facts: Iterable[Fact]) -> MemoryLedger:
    ledger = MemoryLedger()
    await ledger.append(list(facts))
    return ledger


async def opened(path: Path, ledger: MemoryLedger, at: int, definition: Definition = DEFINITION) -> EvidenceStore:
    return await EvidenceStore.open(path, ledger, DOMAIN, clock_at(at), definition)


def from_scratch(facts: list[Fact], at: int) -> Figures:
    counted = recount(DOMAIN, enumerate(facts, start=1), at)
    few = counted.obligations.values()
    return figures(counted.counters, few, counted.probes, WINDOW, at, trust_domain=DOMAIN)


async def everything(
    store: EvidenceStore, limit: int = 500
) -> tuple[dict[tuple[str, int], list[int]], list[ChangedRows]]:
    """What a follower holds that asks until there is nothing new."""
    held: dict[tuple[str, int], list[int]] = {}
    told, cursor = [], 0
    while (rows := await store.changed_since(cursor, limit)).cursor != cursor:
        if rows.whole:
            held.clear()
        held.update({(class_, bucket): counts for class_, bucket, counts in rows.counters})
        cursor = rows.cursor
        told.append(rows)
    return held, told


async def test_who_was_excused_and_came_back_is_counted_and_named(tmp_path: Path) -> None:
    """An entry that is deleted and made again within one life, so that what would fail is excused (rule 13)."""
    script = LedgerScript()
    for name in ("back", "gone"):
        script.instance(name).renew(BEGIN, "delivered")
        ended = {"entry": script.instance(name).entry, "why": "deleted", "journal": 1}
        script.record(BEGIN + HOUR, "entry.ended", ended["entry"], ended)
    script.instance("back").issue(BEGIN + 2 * HOUR)
    store = await opened(tmp_path, await filled(script.facts()), BEGIN + 3 * DAY)
    try:
        found = await store.figures(WINDOW)
        assert found.classes["leaf"].counts["excused"] == 2
        assert found.recreated == {"leaf": 1}
        listed = await store.read(lambda c: c.execute("SELECT body FROM obligations").fetchall())
        assert sum("issued there again" in body.decode() for (body,) in listed) == 1
    finally:
        await store.close()


async def test_it_says_what_the_facts_say(tmp_path: Path) -> None:
    facts, at = a_few_days(), BEGIN + 4 * DAY
    store = await opened(tmp_path, await filled(facts), at)
    try:
        assert await store.figures(WINDOW) == from_scratch(facts, at)
        assert (await store.figures(WINDOW)).classes["leaf"].headline == round(11 / 12, 6)
        with pytest.raises(Invalid, match="has no figures"):
            await store.figures(Window(BEGIN + 1, BEGIN + DAY))
    finally:
        await store.close()


async def test_it_follows_the_ledger_on_disk_beside_it(tmp_path: Path) -> None:
    facts, at = a_few_days(), BEGIN + 4 * DAY
    disk = open_store(tmp_path)
    try:
        await disk.ledger.append(facts)
        store = await EvidenceStore.open(tmp_path, disk.ledger, DOMAIN, clock_at(at))
        try:
            assert await store.figures(WINDOW) == from_scratch(facts, at)
        finally:
            await store.close()
    finally:
        await disk.close()


async def test_killed_at_any_moment_it_goes_on_from_what_it_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "BATCH", 4)
    monkeypatch.setattr(stores, "SAVE_FACTS", 7)
    facts, ledger = a_few_days(), MemoryLedger()
    for cut in range(0, len(facts), 5):
        await ledger.append(facts[cut : cut + 5])
        store = await opened(tmp_path, ledger, facts[min(cut + 4, len(facts) - 1)].at)
        await store._database.close()  # and nothing else: as a kill -9 leaves it
    store = await opened(tmp_path, ledger, BEGIN + 4 * DAY)
    try:
        assert await store.figures(WINDOW) == from_scratch(facts, BEGIN + 4 * DAY)
    finally:
        await store.close()


async def test_deleted_or_of_another_definition_it_is_made_anew(tmp_path: Path) -> None:
    facts, at = a_few_days(), BEGIN + 4 * DAY
    ledger = await filled(facts)
    store = await opened(tmp_path, ledger, at)
    first = store.store_id
    await store.close()
    (tmp_path / "evidence.db").unlink()
    store = await opened(tmp_path, ledger, at)
    second = store.store_id
    assert await store.figures(WINDOW) == from_scratch(facts, at)
    await store.close()
    stricter = Definition(on_time_permille=501)
    store = await opened(tmp_path, ledger, at, stricter)
    try:
        assert len({first, second, store.store_id}) == 3
        assert (await store.figures(WINDOW)).definition == stricter.hash
    finally:
        await store.close()


async def test_a_damaged_file_is_put_aside_and_a_foreign_one_refused(tmp_path: Path) -> None:
    facts, at = a_few_days(), BEGIN + 4 * DAY
    ledger = await filled(facts)
    (tmp_path / "evidence.db").write_bytes(b"\x00garbage" * 1000)
    (tmp_path / "evidence.db").chmod(0o600)
    (tmp_path / "evidence.state").write_bytes(b"\xff" * 100)
    store = await opened(tmp_path, ledger, at)
    assert await store.figures(WINDOW) == from_scratch(facts, at)
    await store.close()
    assert (tmp_path / "evidence.db.damaged").exists()


async def test_a_follower_learns_what_changed_and_resumes(tmp_path: Path) -> None:
    facts, ledger = a_few_days(), MemoryLedger()
    half = len(facts) // 2
    await ledger.append(facts[:half])
    clock = clock_at(facts[half].at)
    store = await EvidenceStore.open(tmp_path, ledger, DOMAIN, clock)
    news: list[int] = []
    store.on_change(lambda: news.append(1))
    try:
        held, told = await everything(store, limit=2)
        assert told[0].whole and not any(rows.whole for rows in told[1:])
        cursor = told[-1].cursor
        await ledger.append(facts[half:])
        await clock.advance((BEGIN + 4 * DAY) / 1000 - to_ms(clock.now()) / 1000)
        await store.follow()
        assert news
        rows = await store.changed_since(cursor, 500)
        held.update({(class_, bucket): counts for class_, bucket, counts in rows.counters})
        assert held == (await everything(store))[0]
        assert [(it.instance, it.outcome) for it in rows.failed if it.outcome in (Outcome.LATE, Outcome.EXPIRED)][:1]
        place = COUNTS.index("on_time")
        assert sum(counts[place] for (class_, _), counts in held.items() if class_ == "leaf") == 11
    finally:
        await store.close()


async def test_old_buckets_join_and_late_followers_are_told_everything_anew(tmp_path: Path) -> None:
    facts, ledger = a_few_days(), MemoryLedger()
    await ledger.append(facts)
    clock = clock_at(BEGIN + 3 * DAY)
    store = await EvidenceStore.open(tmp_path, ledger, DOMAIN, clock)
    try:
        early = (await store.changed_since(0, 1)).cursor
        before = await store.figures(WINDOW)
        for days in (5, 40):
            await clock.advance(days * DAY / 1000)
            await store.follow()
            after = await store.figures(Window(BEGIN, BEGIN + 60 * DAY))
            assert after.classes["leaf"].counts["due"] == 14
        assert before.classes["leaf"].counts["due"] == 12
        widths = await store.read(lambda it: [row[0] for row in it.execute("SELECT DISTINCT width FROM counters")])
        assert widths == [tables.DAY_MS]
        assert (await store.changed_since(early, 500)).whole
        assert not (await store.changed_since((await store.changed_since(early, 500)).cursor, 500)).whole
    finally:
        await store.close()


async def test_it_follows_by_itself(tmp_path: Path) -> None:
    facts, ledger = a_few_days(), MemoryLedger()
    clock = clock_at(BEGIN + 4 * DAY)
    store = await EvidenceStore.open(tmp_path, ledger, DOMAIN, clock)
    task = asyncio.create_task(store.run())
    try:
        await ledger.append(facts)
        async with asyncio.timeout(20):
            while store.position < len(facts):
                await clock.advance(1)
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def test_stopped_in_the_midst_it_saves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "BATCH", 3)
    facts, ledger = a_few_days(), MemoryLedger()
    store = await EvidenceStore.open(tmp_path, ledger, DOMAIN, clock_at(BEGIN + 4 * DAY))
    await ledger.append(facts)
    task = asyncio.create_task(store.follow())
    while store.position == 0:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 0 < store.position < len(facts)
    await store.close()
    assert (tmp_path / "evidence.state").exists()
    store = await opened(tmp_path, ledger, BEGIN + 4 * DAY)
    try:
        assert await store.figures(WINDOW) == from_scratch(facts, BEGIN + 4 * DAY)
    finally:
        await store.close()


async def test_stopped_while_it_reads_again_what_it_knew_it_does_not_wait(tmp_path: Path) -> None:
    facts, ledger = a_few_days(), MemoryLedger()
    await ledger.append(facts)
    store = await opened(tmp_path, ledger, BEGIN + 4 * DAY)
    store._engine = None  # as after a start: its saved state is behind
    reading, read = asyncio.Event(), ledger.read

    async def slow(after: int, limit: int) -> list[RecordedFact]:
        if not reading.is_set():
            reading.set()
            await asyncio.Event().wait()
        return await read(after, limit)

    ledger.read = slow  # type: ignore[method-assign]
    task = asyncio.create_task(store.follow())
    async with asyncio.timeout(20):
        await reading.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await store.follow() == len(facts)
    await store.close()


async def newest(store: EvidenceStore, instance: str) -> tuple[str, str]:
    """Its newest serial as it is answered, and as it stands in the table."""

    def rows(connection: sqlite3.Connection) -> list[tables.Identity]:
        return timeline.identities(connection, instance=instance)

    answered, stored = await store.identities(rows), await store.read(rows)
    assert len(answered) == len(stored) == 1
    return answered[0].serial, stored[0].serial


async def test_the_newest_serial_of_an_identity_is_known_though_it_is_written_once_a_day(tmp_path: Path) -> None:
    script = LedgerScript()
    it, other = script.instance("it", life=HOUR), script.instance("other", life=HOUR)
    ledger, clock, taken = MemoryLedger(), clock_at(BEGIN + 9 * DAY), 0

    async def follow() -> None:
        nonlocal taken
        facts = script.facts()
        await ledger.append(facts[taken:])
        taken = len(facts)
        await store.follow()

    store = await EvidenceStore.open(tmp_path, ledger, DOMAIN, clock)
    try:
        first = it.renew(BEGIN)
        for at in range(BEGIN + HOUR // 2, BEGIN + DAY, HOUR // 2):
            last = it.renew(at)
            await follow()
            assert await newest(store, it.instance) == (last, first)
        tomorrow = it.renew(BEGIN + DAY)
        await follow()
        assert await newest(store, it.instance) == (tomorrow, tomorrow)
        last = it.renew(BEGIN + DAY + HOUR // 2)
        await follow()
        # Killed, and started again: from the ledger alone, and from what was saved.
        for saved in (False, True):
            if saved:
                await store.close()
            else:
                await store._database.close()
            store = await EvidenceStore.open(tmp_path, ledger, DOMAIN, clock)
            assert await newest(store, it.instance) == (last, tomorrow)
        # Nobody follows it any more: what was told of last is what is on record.
        other.renew_every(BEGIN + 2 * DAY, BEGIN + 5 * DAY, HOUR // 2)
        await follow()
        assert await store.look(lambda engine: (it.instance, "x509") not in engine.slots)
        assert await newest(store, it.instance) == (last, last)
        # It is somebody else's now: that is written at once.
        it.spiffe_id = "spiffe://prod.example/else"
        anew = [it.renew(BEGIN + 6 * DAY), it.renew(BEGIN + 6 * DAY + HOUR // 2)]
        it.spiffe_id = "spiffe://prod.example/and-else"
        anew.append(it.renew(BEGIN + 6 * DAY + HOUR))
        await follow()
        assert await newest(store, it.instance) == (anew[2], anew[2])
        assert (await store.read(lambda c: timeline.identities(c, instance=it.instance)))[0].spiffe_id == it.spiffe_id
    finally:
        await store.close()


async def test_a_slot_that_is_left_and_taken_again_in_one_batch_has_its_newest_serial(tmp_path: Path) -> None:
    script = LedgerScript()
    it, other = script.instance("it", life=HOUR), script.instance("other", life=HOUR)
    it.renew_every(BEGIN, BEGIN + 3 * HOUR, HOUR // 2)
    other.renew_every(BEGIN, BEGIN + 9 * DAY, 12 * HOUR)
    newest_again = it.renew(BEGIN + 4 * DAY)  # it was left by then, and is left once more
    store = await opened(tmp_path, await filled(script.facts()), BEGIN + 9 * DAY)
    try:
        assert await store.look(lambda engine: (it.instance, "x509") not in engine.slots)
        assert await newest(store, it.instance) == (newest_again, newest_again)
    finally:
        await store.close()
