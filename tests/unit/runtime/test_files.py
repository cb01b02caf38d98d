"""Files: the old content or the new one, private whatever the umask, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trustfed.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from trustfed.runtime.files import DirectoryLock, private_directory, read_bounded, read_private, write_atomic


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_mode_is_exact_under_any_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "f", b"new", mode)
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o7777 == mode and (tmp_path / "f").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_symlink_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "f").symlink_to(victim)
    write_atomic(tmp_path / "f", b"new")
    assert victim.read_bytes() == b"mine" and not (tmp_path / "f").is_symlink()


@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_something_waits_at_the_temporary_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "known")
    victim, trap = tmp_path / "victim", tmp_path / ".f.known.tmp"
    victim.write_bytes(b"mine")
    if kind == "symlink":
        trap.symlink_to(victim)
    else:
        os.link(victim, trap)
    with pytest.raises(Unavailable, match="file exists"):
        write_atomic(tmp_path / "f", b"new")
    assert victim.read_bytes() == b"mine" and not (tmp_path / "f").exists()


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    """A file size limit stands for the full disk: the write fails in the middle."""
    path = tmp_path / "f"
    write_atomic(path, b"old")
    program = f"""
import resource, signal
from pathlib import Path
from trustfed.errors import Unavailable
from trustfed.runtime.files import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path({str(path)!r}), b"x" * 5000)
except Unavailable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "file too large" in done.stdout
    assert path.read_bytes() == b"old" and [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_writes_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="folder does not exist"):
        write_atomic(tmp_path / "none" / "f", b"")
    (tmp_path / "d").mkdir()
    with pytest.raises(Invalid):
        write_atomic(tmp_path / "d", b"")
    (tmp_path / "file").touch()
    with pytest.raises(Invalid):
        write_atomic(tmp_path / "file" / "f", b"")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["d", "file"]
    with pytest.raises((Denied, Unavailable, NotFound, Invalid)):
        write_atomic(Path("/proc/f"), b"")


def test_reads(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"12345")
    assert read_bounded(path, 5) == read_private(path, 5) == b"12345"
    with pytest.raises(Invalid, match="more than 4 bytes"):
        read_bounded(path, 4)
    with pytest.raises(NotFound):
        read_bounded(tmp_path / "none", 5)
    with pytest.raises(Invalid):
        read_bounded(tmp_path, 5)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Invalid, match="not a regular file"):
        read_bounded(tmp_path / "pipe", 5)
    with pytest.raises(Invalid, match="not a regular file"):
        read_bounded(Path("/dev/zero"), 5)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Denied):
        read_bounded(tmp_path / "loop", 5)
    path.chmod(0o640)
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(Invalid) as refusal:
        read_private(path, 5)
    assert "0640" in refusal.value.message and refusal.value.hint == f"chmod 600 {path}"


def test_private_directory(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = private_directory(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o700
    assert private_directory(made) == made
    made.chmod(0o750)
    with pytest.raises(Denied, match="open to others"):
        private_directory(made)
    made.chmod(0o700)
    (tmp_path / "link").symlink_to(made)
    (tmp_path / "file").touch()
    for path in (tmp_path / "link", tmp_path / "file"):
        with pytest.raises(Denied, match="not a folder"):
            private_directory(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_private_directory_of_another_user(tmp_path: Path) -> None:
    made = private_directory(tmp_path / "a")
    os.chown(made, 12345, 12345)
    with pytest.raises(Denied, match="belongs to user 12345"):
        private_directory(made)


def test_one_process_per_folder(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path) as lock:
        with pytest.raises(Conflict, match=f"in use by process {os.getpid()}"):
            DirectoryLock(tmp_path)
        lock.release()
        DirectoryLock(tmp_path).release()
    with pytest.raises(NotFound):
        DirectoryLock(tmp_path / "none")


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    program = f"""
import os, pathlib
from trustfed.runtime.files import DirectoryLock
lock = DirectoryLock(pathlib.Path({str(tmp_path)!r}))
print("held", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(Conflict, match=f"process {holder.pid}"):
            DirectoryLock(tmp_path)
        holder.kill()
    DirectoryLock(tmp_path).release()


def test_lock_through_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(Denied):
        DirectoryLock(tmp_path)
    assert (tmp_path / "victim").read_bytes() == b"mine"
