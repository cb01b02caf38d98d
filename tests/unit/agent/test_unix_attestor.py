"""The Unix attestor and the caller's identity, against real child processes."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import mmap
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from agent.attestors.unix import UnixAttestor
from agent.identification import Identification
from agent.matching import Entry
from agent.peer import Caller
from agent.store import Store
from trustfed.errors import Denied
from trustfed.spiffe.ids import SpiffeId, TrustDomain

ALL = frozenset(
    f"unix:{name}"
    for name in ("uid", "gid", "supplementary_gid", "user", "group", "supplementary_group", "path", "sha256")
)
# It becomes who it shall be only once the interpreter runs: other users need not be able to read this one.
CHILD = """
import json, os, socket, sys
path, user, group, extra = sys.argv[1], *json.loads(sys.argv[2])
if extra is not None: os.setgroups(extra)
if group is not None: os.setgid(group)
if user is not None: os.setuid(user)
s = socket.socket(socket.AF_UNIX)
s.connect("\\0" + path)
if sys.argv[3] == "stay": sys.stdin.read()
"""
root = pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root")


@contextmanager
def connected(
    folder: Path, *, user: int | None = None, group: int | None = None, extra: list[int] | None = None
) -> Iterator[tuple[Caller, subprocess.Popen[bytes]]]:
    """A child that has connected, as the agent sees it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{folder}")
        listener.listen()
        child = subprocess.Popen(command(folder, user, group, extra), stdin=subprocess.PIPE, cwd="/")
        try:
            connection, _ = listener.accept()
            with connection:
                caller = Caller.of(connection)
                yield caller, child
                caller.close()
        finally:
            child.kill()
            child.communicate()


def command(
    folder: Path, user: int | None = None, group: int | None = None, extra: list[int] | None = None, how: str = "stay"
) -> list[str]:
    return [sys.executable, "-S", "-c", CHILD, str(folder), json.dumps([user, group, extra]), how]


async def selectors(
    caller: Caller, attestor: UnixAttestor | None = None, kinds: frozenset[str] = ALL
) -> frozenset[str]:
    attestor = attestor or UnixAttestor(lambda: 0.0, 1 << 28)
    await attestor.look_up(caller, kinds)
    found = attestor.ready(caller, kinds)
    assert found is not None
    return found


@root
async def test_uid_gid_and_groups_are_the_process_own(tmp_path: Path) -> None:
    with connected(tmp_path, user=12345, group=23456, extra=[34567, 1]) as (caller, child):
        found = await selectors(caller, kinds=ALL - {"unix:path", "unix:sha256"})
        assert caller.pid == child.pid
    assert {"unix:uid:12345", "unix:gid:23456", "unix:supplementary_gid:34567", "unix:supplementary_gid:1"} <= found
    assert "unix:supplementary_group:daemon" in found
    assert not any(one.startswith(("unix:user:", "unix:group:")) for one in found)  # 12345 has no name here


@root
async def test_two_users_are_told_apart(tmp_path: Path) -> None:
    with (
        connected(tmp_path / "a", user=12345, group=1) as (one, _),
        connected(tmp_path / "b", user=1, group=1) as (two, _),
    ):
        kinds = frozenset({"unix:uid", "unix:user", "unix:group"})
        assert await selectors(one, kinds=kinds) == {"unix:uid:12345", "unix:group:daemon"}
        assert await selectors(two, kinds=kinds) == {"unix:uid:1", "unix:user:daemon", "unix:group:daemon"}


async def test_path_and_hash_of_the_executable(tmp_path: Path) -> None:
    with connected(tmp_path) as (caller, child):
        found = await selectors(caller)
        path = str(Path(f"/proc/{child.pid}/exe").readlink())
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert {f"unix:path:{path}", f"unix:sha256:{digest}", f"unix:uid:{os.getuid()}"} <= found


async def test_executable_above_the_bound_gets_no_hash(tmp_path: Path) -> None:
    with connected(tmp_path) as (caller, _):
        found = await selectors(caller, UnixAttestor(lambda: 0.0, 100))
    assert not any(one.startswith("unix:sha256:") for one in found)


async def test_only_what_entries_ask_for_is_found_out(tmp_path: Path) -> None:
    attestor = UnixAttestor(lambda: 0.0, 1 << 28)
    with connected(tmp_path) as (caller, _):
        assert attestor.ready(caller, frozenset({"unix:uid"})) == {f"unix:uid:{os.getuid()}"}
        assert attestor.ready(caller, frozenset({"unix:sha256"})) is None
        assert attestor.ready(caller, frozenset({"unix:user"})) is None
        assert attestor.ready(caller, frozenset({"docker:label"})) == frozenset()


async def test_dead_process_is_nobody_also_when_its_pid_is_another_s(tmp_path: Path) -> None:
    attestor = UnixAttestor(lambda: 0.0, 1 << 28)
    with connected(tmp_path) as (caller, child):
        assert caller.alive()
        child.kill()
        child.wait()
        assert not caller.alive()
        # Whoever has the pid by now: the pidfd is of the process that connected.
        caller.pid = os.getpid()
        with pytest.raises(Denied):
            attestor.ready(caller, frozenset({"unix:path"}))


async def test_who_connected_and_died_before_accept_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{tmp_path}")
        listener.listen()
        subprocess.run(command(tmp_path, how="leave"), check=True)
        connection, _ = listener.accept()
        with connection, pytest.raises(Denied):
            Caller.of(connection)


async def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with connected(tmp_path) as (caller, _):
        await asyncio.sleep(0)
        assert caller.pidfd >= 0
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before and not caller.alive()


async def test_only_a_caller_that_has_all_else_of_an_entry_is_hashed(tmp_path: Path) -> None:
    store = Store(TrustDomain("east.test"), lambda call: call())
    identification = Identification(store, [UnixAttestor(lambda: 0.0, 1 << 28)])
    with connected(tmp_path) as (caller, child):
        executable = selector_of(Path(f"/proc/{child.pid}/exe"))

        def entry(id_: str, *selectors: str) -> Entry:
            return Entry(id_, SpiffeId.parse(f"spiffe://east.test/{id_}"), frozenset(selectors))

        me, other = f"unix:uid:{os.getuid()}", f"unix:uid:{os.getuid() + 1}"
        store.put_entries([entry("plain", me), entry("other", other, executable)])
        assert identification.now(caller) == ("plain",) and not caller.facts
        store.put_entries([entry("hashed", me, "unix:user:" + pwd.getpwuid(os.getuid()).pw_name, executable)])
        assert identification.now(caller) is None
        assert await identification.wait(caller) == ("hashed", "plain")
        assert caller.facts["unix:sha256"] == {executable}


WANTED, OTHER = Path("/bin/cat"), Path("/bin/tee")  # both wait for their input


async def hash_of(program: Path, attestor: UnixAttestor) -> str:
    """What the attestor says of a process that runs this file."""
    with subprocess.Popen([program], stdin=subprocess.PIPE) as child:
        try:
            caller = Caller(child.pid, os.getuid(), os.getgid(), (), os.pidfd_open(child.pid))
            while Path(f"/proc/{child.pid}/exe").readlink() != program:
                await asyncio.sleep(0.001)
            found = await selectors(caller, attestor, frozenset({"unix:sha256"}))
            caller.close()
        finally:
            child.kill()
    return next(iter(found))


def selector_of(program: Path) -> str:
    return f"unix:sha256:{hashlib.sha256(program.read_bytes()).hexdigest()}"


def two_programs(folder: Path) -> tuple[Path, bytes]:
    """A copy of the wanted program, and another one, both of one size."""
    size = max(WANTED.stat().st_size, OTHER.stat().st_size)
    wanted = folder / "wanted"
    shutil.copy(WANTED, wanted)
    with wanted.open("r+b") as file:
        file.truncate(size)
    return wanted, OTHER.read_bytes().ljust(size, b"\0")


def later() -> int:
    """A clock by which every file here was changed long ago."""
    return time.time_ns() + 10_000_000_000


@pytest.mark.parametrize("wall", [later, time.time_ns], ids=["settled", "same-tick"])
async def test_executable_rewritten_under_its_old_time_is_hashed_anew(tmp_path: Path, wall: Any) -> None:
    attestor = UnixAttestor(lambda: 0.0, 1 << 28, wall)
    program, other = two_programs(tmp_path)
    assert await hash_of(program, attestor) == selector_of(program)
    before, wanted = program.stat(), selector_of(program)
    with program.open("r+b") as file:
        file.write(other)
    os.utime(program, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (program.stat().st_mtime_ns, program.stat().st_size) == (before.st_mtime_ns, before.st_size)
    assert await hash_of(program, attestor) == selector_of(program) != wanted


@root
@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a tmpfs")
async def test_executable_rewritten_through_a_mapping_that_changes_no_time_is_hashed_anew(tmp_path: Path) -> None:
    attestor = UnixAttestor(lambda: 0.0, 1 << 28, later)
    folder = Path("/dev/shm") / tmp_path.parent.name / tmp_path.name
    folder.mkdir(parents=True)
    try:
        program, other = two_programs(folder)
        os.chown(program, 12345, 12345)
        wanted = await hash_of(program, attestor)
        with program.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            # Read first: the pages are there, and are then written without a fault.
            assert len(mapping[:]) == len(other)
            mapping[:] = other
        assert await hash_of(program, attestor) == selector_of(program) != wanted
    finally:
        shutil.rmtree(folder.parent)


@root
async def test_hash_of_what_only_root_can_change_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attestor = UnixAttestor(lambda: 0.0, 1 << 28, later)
    program, _ = two_programs(tmp_path)
    first = await hash_of(program, attestor)

    def unread(*_: object) -> bytes:
        raise AssertionError("read again")

    with subprocess.Popen([program], stdin=subprocess.PIPE) as child:
        monkeypatch.setattr("agent.attestors.unix.os.read", unread)
        caller = Caller(child.pid, os.getuid(), os.getgid(), (), os.pidfd_open(child.pid))
        try:
            await attestor.look_up(caller, frozenset({"unix:sha256"}))
            assert caller.facts["unix:sha256"] == {first}
        finally:
            caller.close()
            child.kill()


class FailingOption:
    """A connected socket whose kernel refuses one option."""

    def __init__(self, inner: socket.socket, option: int, error: int) -> None:
        self._inner, self._option, self._error = inner, option, error

    def getsockopt(self, level: int, option: int, size: int = 0) -> object:
        if option == self._option:
            raise OSError(self._error, os.strerror(self._error))
        return self._inner.getsockopt(level, option, size) if size else self._inner.getsockopt(level, option)


async def test_a_socket_that_cannot_name_its_process_is_refused_though_the_pid_lives() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(Denied, match="ended"):
        Caller.of(cast(socket.socket, FailingOption(ours, 77, errno.ESRCH)))


async def test_descriptor_is_given_back_when_the_groups_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> str:
        raise Denied("the calling process has ended")

    monkeypatch.setattr("agent.peer._status", gone)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = sum(1 for _ in Path("/proc/self/fd").iterdir())
        with pytest.raises(Denied):
            Caller.of(cast(socket.socket, FailingOption(ours, 59, errno.ERANGE)))
        assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
