"""The SQLite store on a healthy disk: durability settings, one process, file modes, versions, group commit."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trustfed.errors import Conflict, Denied, Invalid, Unavailable
from trustfed.journal import database as database_module
from trustfed.journal.events import Event, Fact
from trustfed.journal.ports import Snapshot
from trustfed.journal.sqlite import open_store

ROOT = Path(__file__).parents[3]


def event(number: int) -> Event:
    return Event(f"id-{number}", f"command-{number}", 1, "actor", "", "", "x.y", 1, {"number": number})


def fact(number: int) -> Fact:
    return Fact(1, "x509.issued", f"{number:040x}", {"number": number})


async def fill(directory: Path, events: int = 5, facts: int = 5) -> None:
    store = open_store(directory)
    await store.journal.append(0, [event(number) for number in range(1, events + 1)])
    await store.ledger.append([fact(number) for number in range(1, facts + 1)])
    await store.close()


async def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    await store.journal.append(0, [event(1), event(2)])
    await store.snapshots.save(Snapshot(2, 1, b"state"))
    await store.ledger.append([fact(1)])
    await store.close()
    store = open_store(tmp_path)
    assert [record.event for record in await store.journal.read(0, 10)] == [event(1), event(2)]
    assert [record.event for record in await store.journal.find("command-2")] == [event(2)]
    assert await store.journal.wait(1) == 2
    assert await store.snapshots.load() == Snapshot(2, 1, b"state")
    assert await store.ledger.find("x509.issued", f"{1:040x}") == [fact(1)]
    assert await store.journal.append(2, [event(3)]) == 3
    assert await store.verify() == (3, 1)
    await store.close()
    await store.close()


async def test_a_commit_is_synced_before_it_is_acknowledged(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for opened in (store._journal_database, store._ledger_database):
        settings = [opened._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]
        assert settings == [2, b"wal"]  # FULL: https://sqlite.org/pragma.html#pragma_synchronous
    await store.close()


async def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = open_store(tmp_path / "a" / "b")
        await store.journal.append(0, [event(1)])
        await store.ledger.append([fact(1)])
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a" / "b").iterdir()}
        await store.close()
    finally:
        os.umask(before)
    assert {"journal.db", "journal.db-wal", "journal.db-shm", "ledger.db", "lock"} <= set(modes)
    assert set(modes.values()) == {0o600}
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "a" / "b")] == [0o700] * 2


async def test_an_open_directory_and_open_files_are_closed_to_others(tmp_path: Path) -> None:
    await fill(tmp_path / "store")
    (tmp_path / "store").chmod(0o777)
    (tmp_path / "store" / "journal.db").chmod(0o666)
    await open_store(tmp_path / "store").close()
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "store" / "journal.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_someone_else_that_everyone_may_write_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    directory.mkdir()
    os.chown(directory, 12345, 12345)
    directory.chmod(0o777)
    with pytest.raises(Denied, match="may be written by everyone"):
        open_store(directory)


@pytest.mark.parametrize("name", ["journal.db", "lock"])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises((Unavailable, Denied)):
        open_store(tmp_path / "store")
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be used"):
        open_store(tmp_path / "file")


async def test_a_second_opening_is_refused_by_pid_and_possible_after_closing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(Conflict, match=f"in use by process {os.getpid()}$"):
        open_store(tmp_path)
    await store.journal.append(0, [event(1)])
    await store.close()
    await open_store(tmp_path).close()


async def test_what_comes_once_it_is_closing_is_refused_and_never_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gate = open_store(tmp_path), threading.Event()
    database = store._ledger_database
    closed = database.close_now
    monkeypatch.setattr(database, "close_now", lambda: (gate.wait(), closed()))
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable, match="is closed"):
                await store.ledger.append([fact(1)])
    finally:
        gate.set()
    await closing
    await store.close()


def test_the_lock_dies_with_its_process_though_a_forked_child_lives_on(tmp_path: Path) -> None:
    holder = f"""
import os, time
from pathlib import Path
from trustfed.journal.sqlite import open_store
store = open_store(Path({str(tmp_path)!r}))
if os.fork() == 0:  # the child says itself that it runs: only then has it let go of the lock
    print(os.getpid(), flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(Conflict, match=f"in use by process {process.pid}$"):
            open_store(tmp_path)
        process.kill()
        process.wait()
        os.kill(child, 0)
        asyncio.run(open_store(tmp_path).close())
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


async def test_a_forked_child_does_not_let_go_of_its_parents_lock(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    child = multiprocessing.get_context("fork").Process(target=int)
    child.start()
    child.join()
    with pytest.raises(Conflict):
        open_store(tmp_path)
    await store.close()


@pytest.mark.parametrize("name", ["journal.db", "ledger.db"])
async def test_a_newer_schema_is_refused_by_its_version(tmp_path: Path, name: str) -> None:
    await fill(tmp_path)
    with sqlite3.connect(tmp_path / name) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    before = (tmp_path / name).read_bytes()
    with pytest.raises(Invalid, match="has schema version 7; this program knows version 2"):
        open_store(tmp_path)
    assert (tmp_path / name).read_bytes() == before


async def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    await fill(tmp_path)
    (tmp_path / "journal.db").write_bytes(b"These are my holiday photos. " * 400)
    with pytest.raises(Invalid, match=r"journal\.db is not a trustfed file"):
        open_store(tmp_path)
    (tmp_path / "journal.db").unlink()
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute("CREATE TABLE photos (name)")
    connection.close()
    before = (tmp_path / "journal.db").read_bytes()
    with pytest.raises(Invalid, match="belongs to another program"):
        open_store(tmp_path)
    assert (tmp_path / "journal.db").read_bytes() == before
    (tmp_path / "journal.db").write_bytes((tmp_path / "ledger.db").read_bytes())
    with pytest.raises(Invalid, match="belongs to another program"):
        open_store(tmp_path)


async def test_an_empty_file_left_by_a_crash_is_a_new_store(tmp_path: Path) -> None:
    (tmp_path / "journal.db").touch()
    store = open_store(tmp_path)
    assert await store.journal.append(0, [event(1)]) == 1
    await store.close()


async def test_callers_who_wait_together_share_one_commit(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commits = []
    store._ledger_database._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    await asyncio.gather(*(store.ledger.append([fact(100 * caller + n) for n in range(10)]) for caller in range(100)))
    assert len(commits) < 50
    assert len(await store.ledger.read(0, 1000)) == 1000
    await store.close()


async def test_the_loop_runs_while_the_disk_is_slow(tmp_path: Path) -> None:
    store = open_store(tmp_path)

    def slow(sql: str) -> None:
        if sql == "COMMIT":
            time.sleep(0.3)

    store._ledger_database._writer.set_trace_callback(slow)
    appending = asyncio.create_task(store.ledger.append([fact(1)]))
    turns = 0
    while not appending.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns > 10
    await store.close()


async def test_a_writer_that_is_behind_refuses_instead_of_growing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "WAITING_WRITES", 5)
    store = open_store(tmp_path)
    outcomes = await asyncio.gather(*(store.ledger.append([fact(n)]) for n in range(9)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(Unavailable) == 4
    assert "is behind: 5 writes wait" in str(outcomes[-1])
    assert len(await store.ledger.read(0, 100)) == 5
    await store.ledger.append([fact(10)])
    await store.close()


async def test_what_was_accepted_is_finished_before_closing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    appends = [asyncio.create_task(store.ledger.append([fact(n)])) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*appends)
    store = open_store(tmp_path)
    assert len(await store.ledger.read(0, 100)) == 20
    await store.close()


async def test_facts_are_found_in_every_era_of_the_index(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for start in range(0, 67_000, 1_000):
        await store.ledger.append([Fact(1, "a.b", f"{number % 66_000}", {}) for number in range(start, start + 1_000)])
    assert await store.ledger.find("a.b", "7") == [Fact(1, "a.b", "7", {})] * 2
    assert await store.ledger.find("a.b", "65999") == [Fact(1, "a.b", "65999", {})]
    await store.close()


async def test_a_snapshot_of_a_position_beyond_the_journal_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(Invalid, match="position 3, which the journal lacks"):
        await store.snapshots.save(Snapshot(3, 1, b""))
    await store.close()
