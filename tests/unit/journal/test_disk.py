"""A disk that is full or read-only: a clear alarm, no damage, and it goes on when there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from trustfed.errors import Unavailable
from trustfed.journal.events import Event, Fact
from trustfed.journal.ports import Snapshot
from trustfed.journal.sqlite import Store, open_store


def event(number: int) -> Event:
    return Event(f"id-{number}", f"command-{number}", 1, "actor", "", "", "x.y", 1, {"text": "t" * 5_000})


def fact(number: int) -> Fact:
    return Fact(1, "x509.issued", f"{number:040x}", {"text": "t" * 5_000})


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    directory.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes fail with EFBIG: the full disk of those who may not mount one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


async def fill_up(store: Store) -> tuple[int, int]:
    """Append until both refuse; give what was acknowledged."""
    head = facts = 0
    with pytest.raises(Unavailable, match=r"journal\.db: the disk (is full|failed); nothing was acknowledged"):
        while True:
            head = await store.journal.append(head, [event(head + 1)])
    with pytest.raises(Unavailable, match=r"ledger\.db: the disk (is full|failed); nothing was acknowledged"):
        while True:
            await asyncio.gather(*(store.ledger.append([fact(facts + n)]) for n in (1, 2, 3, 4)))
            facts += 4
    with pytest.raises(Unavailable):
        await store.snapshots.save(Snapshot(head, 1, b"s" * 2_000_000))
    return head, facts


async def check(store: Store, head: int, facts: int) -> None:
    """What was acknowledged is there; what failed is there whole (its answer was lost) or not at all."""
    events, recorded = await store.verify()
    assert events == head
    assert facts <= recorded <= facts + 4
    assert len(await store.journal.read(0, 1000)) == head


async def test_a_full_disk_fails_appends_and_the_next_one_works_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(b"b" * 600_000)
        store = open_store(disk / "store")
        head, facts = await fill_up(store)
        assert head > 10
        await check(store, head, facts)
        ballast.unlink()
        assert await store.journal.append(head, [event(head + 1)]) == head + 1
        await store.ledger.append([fact(0)])
        await store.close()
        store = open_store(disk / "store")
        await check(store, head + 1, facts + 1)
        await store.close()


async def test_a_disk_without_room_for_a_new_store_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        with pytest.raises(Unavailable, match="disk"):
            open_store(disk / "store")
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        await open_store(disk / "store").close()


async def test_a_file_that_may_not_grow_fails_like_a_full_disk(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with files_no_larger_than(300_000):
        head, facts = await fill_up(store)
    assert head > 10
    await check(store, head, facts)
    assert await store.journal.append(head, [event(head + 1)]) == head + 1
    await store.close()
    store = open_store(tmp_path)
    await check(store, head + 1, facts)
    await store.close()


async def test_a_read_only_disk_is_named_and_the_store_is_unharmed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        store = open_store(disk / "store")
        await store.journal.append(0, [event(1)])
        await store.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(Unavailable, match="lock: read-only file system"):
            open_store(disk / "store")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        store = open_store(disk / "store")
        assert len(await store.journal.read(0, 10)) == 1
        await store.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(Unavailable, match="Permission denied"):
        open_store(tmp_path / "store")
