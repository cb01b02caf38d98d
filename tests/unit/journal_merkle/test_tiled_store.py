"""The Merkle log in SQLite: over restarts, crashes, upgrades, damage, retention, and at a hundred million entries."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trustfed.errors import Unavailable
from trustfed.journal.events import Event, Fact, canonical_fact
from trustfed.journal.merkle import sequencer, tile_table
from trustfed.journal.merkle.hashing import leaf_hash, node_hash, root_of
from trustfed.journal.merkle.log import SEGMENT
from trustfed.journal.merkle.proofs import verify_consistency, verify_inclusion
from trustfed.journal.merkle.ranges import CompactRange
from trustfed.journal.merkle.tiles import WIDTH, Tile
from trustfed.journal.merkle.tree import Tree
from trustfed.journal.ports import Corrupt, Trimmed
from trustfed.journal.sqlite import Store, open_store


def fact(number: int) -> Fact:
    return Fact(1, "x.y", f"{number}", {})


def leaves_of(begin: int, end: int) -> list[bytes]:
    return [leaf_hash(canonical_fact(fact(number))) for number in range(begin, end)]


async def fill(store: Store, begin: int, end: int) -> None:
    for start in range(begin, end, 1000):
        await store.ledger.append([fact(number) for number in range(start, min(start + 1000, end))])
    await store.facts_log.integrated(end)


def change(path: Path, *statements: str, values: tuple[Any, ...] = ()) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("end", [1, 255, 256, 257, 1023, 1500, 3000])
async def test_after_a_restart_the_log_is_where_it_was(tmp_path: Path, end: int) -> None:
    store = open_store(tmp_path)
    await fill(store, 0, end)
    await store.close()
    store = open_store(tmp_path)
    assert await store.facts_log.root(end) == root_of(leaves_of(0, end))
    assert store.facts_log.size == end
    await fill(store, end, end + 300)
    assert await store.facts_log.root(end + 300) == root_of(leaves_of(0, end + 300))
    assert (await store.verify()).facts == end + 300
    await store.close()


def as_version_1(path: Path) -> None:
    change(path, "DROP TABLE tile", "DROP TABLE anchor", "PRAGMA user_version = 1")


async def test_a_store_of_the_release_before_is_upgraded_and_integrated(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    await fill(store, 0, 3000)
    events = [Event(f"{n}", f"{n}", 1, "a", "", "", "x.y", 1, {}) for n in range(7)]
    await store.journal.append(0, events)
    await store.close()
    for name in ("journal.db", "ledger.db"):
        as_version_1(tmp_path / name)
    store = open_store(tmp_path)
    assert store.facts_log.lag == 3000 - store.facts_log.size > 0
    async with asyncio.timeout(30):
        await store.facts_log.integrated(3000)
        await store.events_log.integrated(7)
    assert (store.facts_log.lag, store.events_log.lag) == (0, 0)
    assert await store.facts_log.root(3000) == root_of(leaves_of(0, 3000))
    assert await store.verify() == (7, 3000)
    await store.close()
    await open_store(tmp_path).close()


async def test_a_file_of_version_1_with_other_tables_is_left_as_it_is(tmp_path: Path) -> None:
    await open_store(tmp_path).close()
    as_version_1(tmp_path / "ledger.db")
    change(tmp_path / "ledger.db", "CREATE TABLE photos (name)")
    with pytest.raises(Corrupt, match="its tables are not those of schema version 1"):
        open_store(tmp_path)
    connection = sqlite3.connect(tmp_path / "ledger.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


async def test_what_the_memory_did_not_hold_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "HANDED_OVER_BYTES", 30_000)
    store = open_store(tmp_path)
    await asyncio.gather(*(store.ledger.append([fact(n)] * 100) for n in range(40)))
    async with asyncio.timeout(30):
        await store.facts_log.integrated(4000)
    records = [record for after in range(0, 4000, 1000) for record in await store.ledger.read(after, 1000)]
    assert await store.facts_log.root(4000) == root_of([record.leaf_hash for record in records])
    await store.close()


async def test_a_disk_that_fails_delays_the_log_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequencer, "_PAUSE", 0.01)
    store = open_store(tmp_path)
    write, failures = store._ledger_database.write, 3

    async def failing(work: Callable[[sqlite3.Connection], Any], durable: Callable[[Any], None], size: int) -> Any:
        nonlocal failures
        if failures and "append" not in work.__qualname__:
            failures -= 1
            raise Unavailable("the disk is full")
        return await write(work, durable, size)

    monkeypatch.setattr(store._ledger_database, "write", failing)
    for start in range(0, 8000, 500):
        await store.ledger.append([fact(number) for number in range(start, start + 500)])
    async with asyncio.timeout(30):
        await store.facts_log.integrated(8000)
    assert failures == 0
    assert await store.facts_log.root(8000) == root_of(leaves_of(0, 8000))
    assert (await store.verify()).facts == 8000
    await store.close()


FLIPPED = "UPDATE tile SET hashes = CAST(x'00' || substr(hashes, 2) AS BLOB) WHERE place = 1"


async def test_a_damaged_tile_is_named_and_proves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    await fill(store, 0, 1100)
    await store.facts_log.tiled(1024)
    await store.close()
    change(tmp_path / "ledger.db", FLIPPED)
    store = open_store(tmp_path)
    await store.facts_log.integrated(1100)
    with pytest.raises(Corrupt, match="tile/0/001 of the Merkle log is not what was written") as damage:
        await store.facts_log.inclusion(300, 1100)
    assert damage.value.position == 257
    verify_inclusion(
        leaves_of(0, 1)[0], 0, 1100, await store.facts_log.inclusion(0, 1100), await store.facts_log.root(1100)
    )
    with pytest.raises(Corrupt, match="tile/0/001 of the Merkle log is not what was written"):
        await store.verify()
    await store.close()


@pytest.mark.parametrize(
    ("place", "path"), [(1, "tile/0/001"), ((1 << 56), r"tile/1/000\.p/4")], ids=["leaves", "above"]
)
async def test_a_tile_that_somebody_made_anew_does_not_fit_the_records(tmp_path: Path, place: int, path: str) -> None:
    store = open_store(tmp_path)
    await fill(store, 0, 1100)
    await store.facts_log.tiled(1024)
    await store.close()
    connection = sqlite3.connect(tmp_path / "ledger.db")
    (hashes,) = connection.execute("SELECT hashes FROM tile WHERE place = ?", (place,)).fetchone()
    hashes = bytes(32) + hashes[32:]
    connection.execute("REPLACE INTO tile VALUES (?, ?, ?)", (place, tile_table._checksum(place, hashes), hashes))
    connection.commit()
    connection.close()
    store = open_store(tmp_path)
    with pytest.raises(Corrupt, match=f"{path} of the Merkle log is not that of the records"):
        await store.verify()
    await store.close()


async def test_records_cut_off_below_a_full_tile_are_missed_at_once(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    await fill(store, 0, 1100)
    await store.facts_log.tiled(1024)
    await store.close()
    change(tmp_path / "ledger.db", "DELETE FROM facts WHERE position > 1000")
    with pytest.raises(Corrupt, match="record 1001 of facts is missing"):
        open_store(tmp_path)


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with one whole segment, and 900 facts more."""
    directory = tmp_path_factory.mktemp("segment")

    async def make() -> None:
        store = open_store(directory)
        await fill(store, 0, SEGMENT + 900)
        await store.close()

    asyncio.run(make())
    return directory


async def test_a_kill_at_any_moment_of_a_trim_leaves_a_whole_log(segment: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(segment, tmp_path / "store")
    store = open_store(directory)
    end = SEGMENT + 900
    await store.facts_log.integrated(end)
    await store.facts_log.tiled(SEGMENT)  # else the first thing that a trim writes may be tiles, before the anchor
    root = await store.facts_log.root(end)
    write, steps = store._ledger_database.write, 0
    images: list[Path] = []

    def copied(image: Path) -> None:
        """Both files of one moment, as a process that is killed leaves them: in the writer's thread nobody else writes."""
        image.mkdir()
        for name in ("ledger.db", "ledger.db-wal"):
            shutil.copy(directory / name, image / name)

    async def copying(work: Callable[[sqlite3.Connection], Any], durable: Callable[[Any], None], size: int) -> Any:
        nonlocal steps
        result = await write(work, durable, size)
        if steps in (0, 1, 16, 34):  # after the anchor, the first rows, in the middle, among the tiles
            images.append(tmp_path / f"image{steps}")
            await write(lambda _: copied(images[-1]), lambda _: None, 0)
        steps += 1
        return result

    store._ledger_database.write = copying  # type: ignore[method-assign]
    assert await store.trim_facts(end) == SEGMENT + 1
    await store.close()
    assert len(images) == 4
    for image in [*images, directory]:
        store = open_store(image)
        assert store.ledger.first == SEGMENT + 1
        await store.facts_log.integrated(end)
        assert await store.facts_log.root(end) == root
        assert (await store.verify()).facts == end
        with pytest.raises(Trimmed):
            await store.ledger.read(0, 1)
        assert await store.ledger.find("x.y", "7") == []
        assert await store.trim_facts(end) == SEGMENT + 1, "the rest goes now"
        assert (await store.verify()).facts == end
        await fill(store, end, end + 200)
        await store.close()
        connection = sqlite3.connect(image / "ledger.db")
        assert connection.execute("SELECT count(*), min(position) FROM facts").fetchone() == (1100, SEGMENT + 1)
        assert connection.execute("SELECT count(*) FROM tile WHERE place < ?", (256,)).fetchone() == (0,)
        connection.close()


async def test_writers_go_on_while_a_segment_leaves(segment: Path, tmp_path: Path) -> None:
    store = open_store(shutil.copytree(segment, tmp_path / "store"))
    trimming = asyncio.create_task(store.trim_facts(SEGMENT + 1))
    appended = 0
    while not trimming.done():
        await store.ledger.append([fact(appended)])
        appended += 1
    assert await trimming == SEGMENT + 1
    assert appended > 5
    await store.facts_log.integrated(SEGMENT + 900 + appended)
    assert (await store.verify()).facts == SEGMENT + 900 + appended
    await store.close()


async def test_a_segment_that_left_cannot_be_put_in_the_place_of_another_anchor(segment: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(segment, tmp_path / "store")
    store = open_store(directory)
    await store.trim_facts(SEGMENT + 1)
    await store.close()
    change(directory / "ledger.db", "UPDATE anchor SET hash = zeroblob(32)")
    with pytest.raises(Corrupt, match=f"record {SEGMENT + 1} of facts does not follow"):
        open_store(directory)


SEGMENTS = 1526
FAR = SEGMENTS * SEGMENT
"""A hundred million: all of them have left, and what stays of them are the tiles from level 2 on."""


def hundred_million(directory: Path) -> CompactRange:
    """Make a ledger that stands at FAR; gives the compact range that its tiles are of."""
    asyncio.run(open_store(directory).close())
    roots = [leaf_hash(b"segment %d" % number) for number in range(SEGMENTS)]
    full = [roots[start : start + WIDTH] for start in range(0, SEGMENTS // WIDTH * WIDTH, WIDTH)]
    tiles = [(Tile(2, number), b"".join(part)) for number, part in enumerate(full)]
    tiles.append((Tile(2, len(full), SEGMENTS % WIDTH), b"".join(roots[len(full) * WIDTH :])))
    tiles.append((Tile(3, 0, len(full)), b"".join(root_of(part) for part in full)))
    connection = sqlite3.connect(directory / "ledger.db")
    tile_table.write(connection, tiles)
    connection.execute("INSERT INTO anchor VALUES (1, ?, ?)", (FAR, leaf_hash(b"anchor")))
    connection.commit()
    connection.close()
    above = CompactRange()
    above.extend(roots)
    return CompactRange(FAR, [(level + 16, root) for level, root in above.subtrees])


async def test_at_a_hundred_million_entries_all_is_as_at_the_first(tmp_path: Path) -> None:
    held = await asyncio.to_thread(hundred_million, tmp_path)
    far = held.root()
    store = open_store(tmp_path)
    log = store.facts_log
    assert (log.size, store.ledger.first) == (FAR, FAR + 1)
    assert await log.root(FAR) == far
    statements: list[str] = []
    store._ledger_database._writer.set_trace_callback(statements.append)
    for start in range(0, 6000, 500):
        await store.ledger.append([fact(number) for number in range(start, start + 500)])
    await log.integrated(FAR + 6000)
    store._ledger_database._writer.set_trace_callback(None)
    held.extend(leaves_of(0, 6000))
    assert await log.root(FAR + 6000) == held.root()
    verify_consistency(FAR, far, FAR + 6000, held.root(), await log.consistency(FAR, FAR + 6000))
    proof = await log.inclusion(FAR + 5000, FAR + 6000)
    verify_inclusion(leaves_of(5000, 5001)[0], FAR + 5000, FAR + 6000, proof, held.root())
    assert sum("INTO tile" in each for each in statements) <= 6000 // WIDTH + 6, "a tile is written when it is full"
    assert (await store.verify()).facts == FAR + 6000
    await store.close()
    store = open_store(tmp_path)
    await store.facts_log.integrated(FAR + 6000)
    assert await store.facts_log.root(FAR + 6000) == held.root()
    await store.close()


def test_the_work_of_a_tree_does_not_grow_with_it() -> None:
    def work(base: int) -> tuple[int, int]:
        edges = [(bytes(32),) * ((base >> 8 * level) % WIDTH) for level in range(1, 5)]
        tree = Tree(base, tuple(edges), leaves_of(0, 4 * WIDTH))
        grown, tiles = tree.filled()
        assert grown.size == base + 4 * WIDTH
        return len(tiles), sum(len(hashes) for _, hashes in tiles)

    small, large = work(1000 * WIDTH), work((10**8 // SEGMENT * 256 + 232) * WIDTH)
    assert small == large


def test_a_node_over_the_edge_is_put_together_from_both_sides() -> None:
    leaves = leaves_of(0, 600)
    tree, tiles = Tree(0, (), leaves[:300]).filled()
    tree.tail.extend(leaves[300:])
    kept = {(tile.level, tile.number): hashes for tile, hashes in tiles}
    assert tree.base == 256
    assert tree.node(9, 0, lambda *place: kept[place]) == root_of(leaves[:512])
    assert tree.node(8, 0, lambda *place: kept[place]) == root_of(leaves[:256])
    assert tree.node(1, 0, lambda *place: kept[place]) == node_hash(*leaves[:2])


async def test_a_log_that_grows_is_verified_meanwhile(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    await fill(store, 0, 1000)
    for start in range(1000, 6_000, 1000):
        appending = asyncio.create_task(store.ledger.append([fact(number) for number in range(start, start + 1000)]))
        assert (await store.verify()).facts >= start
        await appending
    await store.close()


async def test_a_damaged_record_stops_the_log_and_is_named_to_who_waits(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    await fill(store, 0, 3000)
    await store.close()
    as_version_1(tmp_path / "ledger.db")
    change(tmp_path / "ledger.db", "UPDATE facts SET canonical = CAST(x'7b7d' AS BLOB) WHERE position = 600")
    store = open_store(tmp_path)
    for _ in range(2):
        with pytest.raises(Corrupt, match="record 600 of facts does not follow") as damage:
            async with asyncio.timeout(20):
                await store.facts_log.integrated(3000)
        assert damage.value.position == 600
    await store.ledger.append([fact(1)])
    assert store.facts_log.lag > 2000
    await store.close()
    with pytest.raises(Unavailable, match="closed"):
        await store.facts_log.root(0)
