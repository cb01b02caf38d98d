"""Two people at one real admin socket: `admin_group` lets a second uid in, and the kernel says who is who."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from tests.unit.hub.hub_parts import HubParts
from trustfed.cluster.admin_parts import acting
from trustfed.cluster.config import ClusterConfig
from trustfed.errors import Conflict, Invalid
from trustfed.hub.config import HubConfig
from trustfed.hub.public import admin_app
from trustfed.runtime import sockets, web
from trustfed.runtime.config import load
from trustfed.runtime.sockets import listen_admin

# What another person runs: the interpreter is started as we are, for its files may be ours alone, and becomes them.
CLIENT = """
import http.client, json, os, socket, sys
uid, gid, path, method, target, body = sys.argv[1:]
os.setgroups([])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
connection = http.client.HTTPConnection("localhost", timeout=20)
connection.sock = socket.socket(socket.AF_UNIX)
try:
    connection.sock.connect(path)
except OSError as error:
    print(json.dumps([0, type(error).__name__]))
    sys.exit()
connection.request(method, target, body, {"Content-Type": "application/json"})
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read())]))
"""
root = pytest.mark.skipif(os.geteuid() != 0, reason="another uid takes root")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other uids can reach, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="tf-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


async def ask(uid: int, gid: int, path: Path, method: str, target: str, body: object = None) -> tuple[int, Any]:
    """What the socket answers another process of this uid and group; status 0 when it may not connect."""
    argv = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        CLIENT,
        str(uid),
        str(gid),
        str(path),
        method,
        target,
        json.dumps(body or {}),
    ]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    status, answer = json.loads(done.stdout)
    return status, answer


@root
async def test_two_uids_of_the_admin_group_are_two_people(open_folder: Path) -> None:
    group = next(one for one in grp.getgrall() if one.gr_gid not in (0, os.getegid()))
    first, second = [one.pw_uid for one in pwd.getpwall() if one.pw_uid not in (0, os.geteuid())][:2]
    hub, path = await HubParts.make(), open_folder / "hub.sock"
    door = await web.serve(admin_app(hub.parts(), lambda: True), listen_admin(path, group.gr_name))
    try:
        facts = path.stat()
        assert (stat.S_IMODE(facts.st_mode), facts.st_gid) == (0o660, group.gr_gid)
        status, told = await ask(first, group.gr_gid, path, "POST", "/roots/prepare", {"reason": "yearly"})
        assert (status, told["needs"]) == (202, "another person")
        approve = f"/approvals/{told['proposal']}/approve"
        status, refused = await ask(first, group.gr_gid, path, "POST", approve)
        assert status == 403
        assert f"both are uid:{first}" in refused["detail"]
        # A uid that no account has, as a member's own user namespace gives thousands of (subuid(5)), is nobody.
        status, refused = await ask(100_001, group.gr_gid, path, "POST", approve)
        assert status == 403 and "subuid:100001 cannot approve" in refused["detail"]
        status, refused = await ask(100_001, group.gr_gid, path, "POST", "/roots/prepare", {"reason": "me too"})
        assert status in (403, 409) and len(hub.operations.approvals.listed()) == 1
        status, approved = await ask(second, group.gr_gid, path, "POST", approve)
        assert (status, approved["status"]) == (200, "approved")
        assert (approved["proposed_by"], approved["decided_by"]) == (f"uid:{first}", f"uid:{second}")
        assert await ask(54_323, 54_323, path, "GET", "/approvals") == (0, "PermissionError")
    finally:
        await door.close()
        await hub.close()


@root
async def test_accounts_that_do_not_answer_hold_up_nobody_else(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def slow(uid: int) -> bool:
        answers.wait(30)
        return sockets.has_account(uid)

    monkeypatch.setattr(web, "has_account", slow)
    monkeypatch.setattr(web, "ACCOUNT_SECONDS", 0.2)
    group = next(one for one in grp.getgrall() if one.gr_gid not in (0, os.getegid()))
    person = next(one.pw_uid for one in pwd.getpwall() if one.pw_uid not in (0, os.geteuid()))
    hub, path = await HubParts.make(), open_folder / "hub.sock"
    door = await web.serve(admin_app(hub.parts(), lambda: True), listen_admin(path, group.gr_name))
    try:
        status, refused = await ask(person, group.gr_gid, path, "GET", "/approvals")
        assert (status, refused["title"]) == (503, "unavailable") and "who you are is not known" in refused["detail"]
        assert (await ask(0, 0, path, "GET", "/approvals"))[0] == 200
        answers.set()
        assert (await ask(person, group.gr_gid, path, "GET", "/approvals"))[0] == 200
    finally:
        answers.set()
        await door.close()
        await hub.close()


@pytest.mark.parametrize(("client", "person"), [(("uid:1000", 7), "uid:1000"), (("subuid:100001", 7), ""), (None, "")])
def test_at_a_cluster_too_only_a_uid_with_an_account_is_a_person(client: Any, person: str) -> None:
    assert acting(Request({"type": "http", "client": client, "headers": []})).person == person


def test_without_a_group_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    with listen_admin(tmp_path / "s"):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        with pytest.raises(Conflict, match="another process serves"):
            listen_admin(tmp_path / "s", grp.getgrgid(os.getegid()).gr_name)


@pytest.mark.parametrize("kind", [HubConfig, ClusterConfig])
def test_a_group_that_could_not_use_the_socket_is_refused_before_anything_starts(
    tmp_path: Path, kind: type[Any]
) -> None:
    here = {HubConfig: 'trust_domain = "hub.example"', ClusterConfig: ""}[kind]
    doors = {HubConfig: "", ClusterConfig: '[grpc]\nlisten = "127.0.0.1:0"\n[bundle_spiffe]\nlisten = "127.0.0.1:0"'}[
        kind
    ]
    group = grp.getgrgid(os.getegid()).gr_name
    for admin, said in (
        (f'admin_group = "{group}"', "is its owner's alone"),
        ('admin_group = "no-such-group"\nadmin_socket = "elsewhere/s.sock"', "no group 'no-such-group'"),
        ('admin_socket = "elsewhere/s.sock"\n[approvals]\nexpiry = "25h"', "out of range"),
        ('admin_socket = "elsewhere/s.sock"\n[approvals]\nenabled = false', "is not known"),
    ):
        (tmp_path / "c.toml").write_text(f'{here}\ndata_dir = "data"\n{admin}\n{doors}\n')
        with pytest.raises(Invalid) as told:
            load(tmp_path / "c.toml", kind)
        assert said in told.value.message
    (tmp_path / "c.toml").write_text(
        f'{here}\ndata_dir = "data"\nadmin_group = "{group}"\nadmin_socket = "elsewhere/s.sock"\n{doors}\n'
        '[approvals]\nexpiry = "30m"\n'
    )
    assert load(tmp_path / "c.toml", kind).approvals.expiry.total_seconds() == 1800
