"""The Unix attestor and the caller's identity, against real child processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.attestors.unix import UnixAttestor
from agent.peer import Caller
from trustfed.errors import Denied

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
