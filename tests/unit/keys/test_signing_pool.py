"""Signing workers: they die with us, are replaced, forget, and hold a bounded queue."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

from ca.keys import pool as pool_module
from ca.keys.file import FileKeys
from ca.keys.pool import MAX_WAITING, SigningPool
from ca.keys.wrapping import MachineKeyFile, PassphraseFile
from trustfed.errors import Invalid, NotFound, Unavailable

MESSAGES = [b"%d" % number for number in range(60)]


def _file_keys(root: Path) -> FileKeys:
    return FileKeys(root / "keys", MachineKeyFile(root / "machine" / "key"))


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[SigningPool]:
    pool = SigningPool(_file_keys(tmp_path), workers=2)
    yield pool
    pool.close()


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def _wait_until_gone(pids: list[int]) -> None:
    end = time.monotonic() + 10
    while any(map(_alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(_alive, pids))


async def test_a_worker_killed_while_idle_is_replaced(pool: SigningPool) -> None:
    key = await pool.create("a")
    await pool.sign("a", MESSAGES * 3)
    before = pool.pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for message, signature in zip(MESSAGES, await pool.sign("a", MESSAGES), strict=True):
        key.verify(signature, message, ECDSA(hashes.SHA256()))
    assert len(await pool.sign("a", MESSAGES * 3)) == 180
    assert not set(before) & set(pool.pids)


async def test_a_worker_killed_in_the_middle_of_a_batch_costs_the_caller_nothing(pool: SigningPool) -> None:
    key = await pool.create("a")
    await pool.sign("a", MESSAGES * 3)
    pids = pool.pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    signing = asyncio.create_task(pool.sign("a", MESSAGES * 10))
    await asyncio.sleep(0.05)
    assert not signing.done()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    signatures = await signing
    assert len(signatures) == 600
    key.verify(signatures[-1], MESSAGES[-1], ECDSA(hashes.SHA256()))


async def test_workers_that_keep_dying_are_unavailable_and_healing_is_noticed(
    pool: SigningPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.create("a")
    with monkeypatch.context() as broken:
        broken.setattr(pool_module, "_program", lambda: "import os; os._exit(3)")
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="the signing workers keep ending"):
            for _ in range(2):
                await pool.sign("a", MESSAGES)
    assert len(await pool.sign("a", MESSAGES * 3)) == 180


async def test_a_worker_that_hangs_is_replaced(pool: SigningPool, monkeypatch: pytest.MonkeyPatch) -> None:
    await pool.create("a")
    await pool.sign("a", MESSAGES * 3)
    monkeypatch.setattr(pool_module, "DEADLINE", 1.5)
    stopped = pool.pids
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    assert len(await pool.sign("a", MESSAGES)) == 60
    assert set(stopped) != set(pool.pids)


async def test_a_caller_who_gives_up_does_not_shift_the_answers_of_others(pool: SigningPool) -> None:
    key = await pool.create("a")
    for number in range(5):
        quitter = asyncio.create_task(pool.sign("a", [b"of the quitter"] * 300))
        await asyncio.sleep(0.0005 * number)
        quitter.cancel()
        for message, signature in zip(MESSAGES, await pool.sign("a", MESSAGES), strict=True):
            key.verify(signature, message, ECDSA(hashes.SHA256()))


async def test_the_queue_is_bounded(pool: SigningPool) -> None:
    await pool.create("a")
    calls = [pool.sign("a", [b"x"] * 1000) for _ in range(MAX_WAITING // 1000 + 5)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(refused) == 5
    assert all(isinstance(each, Unavailable) and "too many signatures are waiting" in str(each) for each in refused)
    assert len(await pool.sign("a", MESSAGES)) == 60


async def test_the_refusals_of_a_worker_arrive_as_they_are(pool: SigningPool, tmp_path: Path) -> None:
    await pool.create("a")
    with pytest.raises(NotFound, match="key b does not exist") as missing:
        await pool.sign("b", MESSAGES)
    assert missing.value.hint.endswith("b.key")
    path = tmp_path / "keys" / "a.key"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Invalid, match="the file of key a is damaged") as damaged:
        await pool.sign("a", MESSAGES)
    assert "restore it from a backup" in damaged.value.hint


async def test_nothing_secret_is_in_the_arguments_or_the_environment_of_a_worker(tmp_path: Path) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("correct horse battery")
    pool = SigningPool(FileKeys(tmp_path / "keys", PassphraseFile(passphrase, 19 * 1024, 2, 1)), workers=1)
    try:
        key = await pool.create("a")
        signatures = await pool.sign("a", MESSAGES)
        key.verify(signatures[0], MESSAGES[0], ECDSA(hashes.SHA256()))
        for name in ("cmdline", "environ"):
            shown = Path(f"/proc/{pool.pids[0]}/{name}").read_bytes()
            assert b"horse" not in shown
            assert str(passphrase).encode() not in shown
    finally:
        pool.close()


def test_workers_end_with_their_parent_even_when_it_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib, sys
from tests.unit.keys.test_signing_pool import MESSAGES, SigningPool, _file_keys
async def main():
    pool = SigningPool(_file_keys(pathlib.Path({str(tmp_path)!r})), workers=2)
    await pool.create("a")
    await pool.sign("a", MESSAGES * 3)
    print(*pool.pids, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(_alive, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _wait_until_gone(pids)


async def test_close_ends_the_workers_and_later_batches(tmp_path: Path) -> None:
    pool = SigningPool(_file_keys(tmp_path), workers=2)
    await pool.create("a")
    pids = pool.pids
    pool.close()
    pool.close()
    _wait_until_gone(pids)
    with pytest.raises(Unavailable):
        await pool.sign("a", MESSAGES)


async def test_interrupt_from_the_keyboard_does_not_end_a_worker(pool: SigningPool) -> None:
    await pool.create("a")
    await pool.sign("a", MESSAGES * 3)
    before = pool.pids
    for pid in before:
        os.kill(pid, signal.SIGINT)
    await pool.sign("a", MESSAGES * 3)
    assert pool.pids == before


def test_a_worker_imports_little() -> None:
    """Its start is on the way to the first signature: no asyncio, no subprocess, no HTTP, no site-packages but one."""
    program = "import sys; import ca.keys.worker; print(*sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = set(found.stdout.split())
    unwanted = {"asyncio", "subprocess", "ssl", "hvac", "requests", "http", "logging", "email", "ctypes", "grpc"}
    assert not modules & unwanted
    ours = {name for name in modules if name.split(".")[0] in ("ca", "trustfed")}
    assert ours == {
        *("ca", "ca.keys", "trustfed", "trustfed.errors"),
        *(f"ca.keys.{name}" for name in ("digests", "folder", "port", "private_files", "sealed", "worker", "wrapping")),
    }


def test_a_worker_does_not_import_from_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('planted')")
    program = pool_module._program().replace("main()", "print('started')")
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.stdout == "started\n", found.stderr
