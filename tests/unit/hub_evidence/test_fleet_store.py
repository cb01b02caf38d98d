"""What clusters said survives the process: cursors move with their rows, kill -9 loses nothing that was acknowledged."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.fakes.clocks import ManualClock
from tests.unit.hub_evidence.evidence_house import row
from trustfed.errors import Unavailable
from trustfed.evidence.model import BUCKET_MS
from trustfed.evidence.standing import Standing
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.keeper import Keeper
from trustfed.hub.evidence.series import bucket_of
from trustfed.hub.evidence.store import FleetStore
from trustfed.hub.evidence.views import Failure

FAILED = Failure("f" * 32, "leaf", "spiffe://a/w", "n/e", "x509", "0" * 32, "late", "slow", 1, 2, 3)


def opened(folder: Path, clock: ManualClock, enrolled: list[str]) -> tuple[Fleet, Keeper, FleetStore]:
    fleet, store = Fleet(clock), FleetStore.open(folder / "fleet.db")
    keeper = Keeper(fleet, store, clock)
    keeper.load(store.load(), enrolled)
    return fleet, keeper, store


async def test_a_restart_shows_what_was_known_with_its_age(tmp_path: Path, clock: ManualClock) -> None:
    fleet, keeper, store = opened(tmp_path, clock, [])
    now = fleet.now_ms
    await keeper.take("a", "s", 7, [row(at_ms=now, due=4, on_time=3, late=1)], [FAILED], whole=True)
    standing = Standing("a", now, identities=9)
    keeper.stand("a", standing, msgspec.json.encode(standing))
    await keeper.flush()
    await store.close()
    clock.move(3600)
    fleet, keeper, store = opened(tmp_path, clock, ["a"])
    assert keeper.cursor("a", "s") == 7 and keeper.cursor("a", "another store") == 0
    assert fleet.cell("a", "leaf").headline == 0.75
    assert fleet.failed("a").rows[0].what == FAILED
    assert (fleet.age("a").state, fleet.age("a").age_ms) == ("away", 3_600_000)
    assert fleet.domain("a").identities == 9
    await store.close()


async def test_a_delta_taken_twice_counts_once_and_whole_begins_anew(tmp_path: Path, clock: ManualClock) -> None:
    fleet, keeper, store = opened(tmp_path, clock, [])
    now = fleet.now_ms
    for _ in range(2):
        await keeper.take("a", "s", 1, [row(at_ms=now, due=4, on_time=4)], [FAILED], whole=False)
    assert fleet.cell("a", "leaf").counts["due"] == 4
    await keeper.take("a", "t", 1, [row("agent", at_ms=now, due=1, on_time=1)], [], whole=True)
    assert fleet.cell("a", "leaf").counts["due"] == 0 and fleet.failed("a").total == 0
    await store.close()
    fleet, keeper, store = opened(tmp_path, clock, ["a"])
    assert fleet.cell("a", "leaf").counts["due"] == 0 and fleet.cell("a", "agent").counts["due"] == 1
    assert fleet.failed("a").total == 0 and keeper.cursor("a", "t") == 1
    await store.close()


async def test_old_counters_are_hours_then_days_and_no_sum_changes(tmp_path: Path, clock: ManualClock) -> None:
    fleet, keeper, store = opened(tmp_path, clock, [])
    rows = [row(ago=ago, at_ms=fleet.now_ms, due=1, on_time=1) for ago in range(1, 289)]
    await keeper.take("a", "s", 1, rows, [], whole=True)
    clock.move(10 * 86_400)
    await keeper.compact()
    await store.close()
    fleet, keeper, store = opened(tmp_path, clock, ["a"])
    assert fleet.cell("a", "leaf").counts["due"] == 288
    assert await store.days("a", "leaf") == []
    clock.move(30 * 86_400)
    await keeper.compact()
    assert sum(counts[0] for _, counts in await store.days("a", "leaf")) == 288
    # A cluster that tells everything anew: what is older than the series goes to the days, each bucket once.
    again = [(class_, at, counts) for class_, at, counts in rows]
    for cursor in (1, 2):
        await keeper.take("a", "s2", cursor, again, [], whole=cursor == 1)
    assert sum(counts[0] for _, counts in await store.days("a", "leaf")) == 288
    await store.close()


async def test_what_could_not_be_kept_is_asked_for_anew(tmp_path: Path, clock: ManualClock) -> None:
    _, keeper, store = opened(tmp_path, clock, [])
    await keeper.take("a", "s", 1, [], [], whole=True)
    await store.close()
    with pytest.raises(Unavailable):
        await keeper.take("a", "s", 2, [], [], whole=False)
    assert keeper.cursor("a", "s") == 0
    with pytest.raises(Unavailable, match="could not be kept") as refused:
        await keeper.take("a", "s", 3, [], [], whole=False)
    assert "anew" in refused.value.hint


async def test_a_damaged_file_is_put_aside(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "fleet.db").write_bytes(b"not a database" * 100)
    (tmp_path / "fleet.db").chmod(0o600)
    _, keeper, store = opened(tmp_path, clock, ["a"])
    assert keeper.cursor("a", "s") == 0 and (tmp_path / "fleet.db.damaged").exists()
    await store.close()


async def test_a_removed_domain_is_not_loaded(tmp_path: Path, clock: ManualClock) -> None:
    _, keeper, store = opened(tmp_path, clock, [])
    await keeper.take("a", "s", 1, [], [FAILED], whole=True)
    await store.close()
    fleet, store = Fleet(clock), FleetStore.open(tmp_path / "fleet.db")
    keeper = Keeper(fleet, store, clock)
    assert keeper.load(store.load(), []) == ["a"] and fleet.names == []
    await keeper.forget("a")
    assert store.load() == []
    await store.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from tests.fakes.clocks import ManualClock
from trustfed.evidence.model import BUCKET_MS
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.keeper import Keeper
from trustfed.hub.evidence.store import FleetStore

async def main():
    clock = ManualClock()
    fleet, store = Fleet(clock), FleetStore.open(Path(sys.argv[1]) / "fleet.db")
    keeper = Keeper(fleet, store, clock)
    for cursor in range(1, 100_000):
        rows = [("leaf", (fleet.now_ms // BUCKET_MS - cursor % 200 - 1) * BUCKET_MS, [cursor, cursor])]
        await keeper.take("a", "s", cursor, rows, [], whole=cursor == 1)
        print(cursor, flush=True)

asyncio.run(main())
"""


async def test_kill_9_keeps_what_was_acknowledged(tmp_path: Path, clock: ManualClock) -> None:
    process = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    assert process.stdout is not None
    acknowledged = 0
    while acknowledged < 50:
        acknowledged = int(await asyncio.to_thread(process.stdout.readline))
    process.send_signal(signal.SIGKILL)
    rest = await asyncio.to_thread(process.stdout.read)
    process.wait(10)
    process.stdout.close()
    if rest.endswith(b"\n"):
        acknowledged = int(rest.split()[-1])
    fleet, keeper, store = opened(tmp_path, clock, ["a"])
    cursor = keeper.cursor("a", "s")
    assert cursor >= acknowledged
    now = bucket_of(fleet.now_ms)
    for number in range(max(1, cursor - 100), cursor + 1):
        bucket = now - number % 200 - 1
        newest = max(range(number, cursor + 1, 200))
        assert fleet.held("a").series["leaf"].sum(bucket, bucket + 1)[0] == newest, (number, BUCKET_MS)
    await store.close()
