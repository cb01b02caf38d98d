"""Sessions: what a browser holds is a random number, what the server keeps is its hash, and each ends in time."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.clocks import ManualClock
from tests.fakes.journals import FaultyJournal
from tests.unit.hub_dashboard_door.dashboard_house import DashboardHouse
from trustfed.errors import Invalid, Unavailable
from trustfed.hub.access import Caller
from trustfed.hub.dashboard import sessions as module
from trustfed.hub.dashboard.sessions import IDLE_MS, LIFE_MS, MAX_OF_ONE, Sessions, csrf_of, id_of
from trustfed.journal.database import Database

ALICE = Caller("uid:1000/alice", "operator", "uid:1000")


async def test_only_the_hash_is_kept_and_a_restart_logs_nobody_out(tmp_path: Path) -> None:
    clock = ManualClock()
    sessions = Sessions.open(tmp_path / "sessions.db", clock, os.urandom)
    secret = sessions.fresh()
    session, _ = await sessions.begin(secret, ALICE, "link")
    assert session.id == id_of(secret) and session.id in session.digest
    await sessions.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in kept and csrf_of(secret).encode() not in kept
    assert (tmp_path / "sessions.db").stat().st_mode & 0o777 == 0o600
    again = Sessions.open(tmp_path / "sessions.db", clock, os.urandom)
    found = again.of(secret)
    assert found is not None and found.caller == ALICE and found.csrf == csrf_of(secret)
    assert again.of(secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None
    await again.close()


@pytest.mark.parametrize("cookie", [None, "", "x", "A" * 43, "A" * 10_000, "ä" * 43, "A" * 42 + "\n"])
async def test_what_is_no_session_is_none(tmp_path: Path, cookie: str | None) -> None:
    sessions = Sessions.open(tmp_path / "sessions.db", ManualClock(), os.urandom)
    assert sessions.of(cookie) is None
    await sessions.close()


async def test_idle_and_absolute_ends(tmp_path: Path) -> None:
    clock = ManualClock()
    sessions = Sessions.open(tmp_path / "sessions.db", clock, os.urandom)
    secret = sessions.fresh()
    session, _ = await sessions.begin(secret, ALICE, "link")
    clock.move(IDLE_MS / 1000 - 1)
    assert sessions.of(secret)
    await sessions.used(session)
    for _ in range(11):  # used every fifty-nine minutes, it ends after twelve hours all the same
        clock.move(IDLE_MS / 1000 - 60)
        assert sessions.of(secret)
        await sessions.used(session)
    clock.move(LIFE_MS / 1000 - 12 * (IDLE_MS / 1000 - 60) + 60)
    assert sessions.of(secret) is None
    other = sessions.fresh()
    await sessions.begin(other, ALICE, "link")
    clock.move(IDLE_MS / 1000)
    assert sessions.of(other) is None and not sessions.alive()
    await sessions.close()
    # Neither comes back with the file.
    again = Sessions.open(tmp_path / "sessions.db", clock, os.urandom)
    assert not again.alive()
    await again.close()


async def test_use_is_remembered_over_a_restart_to_the_minute(tmp_path: Path) -> None:
    clock = ManualClock()
    sessions = Sessions.open(tmp_path / "sessions.db", clock, os.urandom)
    secret = sessions.fresh()
    session, _ = await sessions.begin(secret, ALICE, "link")
    clock.move(3_000)
    await sessions.used(session)
    await sessions.close()
    clock.move(3_000)
    again = Sessions.open(tmp_path / "sessions.db", clock, os.urandom)
    assert again.of(secret)
    await again.close()


async def test_another_role_ends_the_others_and_so_do_too_many(tmp_path: Path) -> None:
    clock = ManualClock()
    sessions = Sessions.open(tmp_path / "sessions.db", clock, os.urandom)
    ended: list[int] = []
    sessions.on_end(lambda: ended.append(1))
    secrets = [sessions.fresh() for _ in range(MAX_OF_ONE + 1)]
    for secret in secrets:
        clock.move(1)
        await sessions.begin(secret, ALICE, "link")
    assert sessions.of(secrets[0]) is None and all(sessions.of(secret) for secret in secrets[1:])
    viewer = sessions.fresh()
    _, gone = await sessions.begin(viewer, Caller(ALICE.actor, "viewer", ALICE.person), "link")
    assert len(gone) == MAX_OF_ONE and len(sessions.alive()) == 1 and len(ended) == 2
    await sessions.close()


async def test_logins_at_once_are_counted_too(tmp_path: Path) -> None:
    sessions = Sessions.open(tmp_path / "sessions.db", ManualClock(), os.urandom)
    await asyncio.gather(*(sessions.begin(sessions.fresh(), ALICE, "oidc") for _ in range(MAX_OF_ONE * 3)))
    assert len(sessions.alive()) == MAX_OF_ONE
    less = Caller(ALICE.actor, "viewer", ALICE.person)
    await asyncio.gather(*(sessions.begin(sessions.fresh(), one, "oidc") for one in (ALICE, less)))
    assert len({one.role for one in sessions.alive()}) == 1
    await sessions.close()


async def test_a_flood_of_logins_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 3)
    sessions = Sessions.open(tmp_path / "sessions.db", ManualClock(), os.urandom)
    for number in range(3):
        await sessions.begin(sessions.fresh(), Caller(f"uid:{number}", "viewer"), "link")
    with pytest.raises(Exception, match="3 sessions are open"):
        sessions.fresh()
    await sessions.close()


async def test_sessions_that_are_over_take_no_place_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 3)
    clock = ManualClock()
    sessions = Sessions.open(tmp_path / "sessions.db", clock, os.urandom)
    for number in range(9):
        await sessions.begin(sessions.fresh(), Caller(f"uid:{number}", "viewer"), "link")
        clock.move(IDLE_MS / 1000)
    secrets = [sessions.fresh() for _ in range(3)]
    for number, secret in enumerate(secrets):
        await sessions.begin(secret, Caller(f"uid:{number}", "viewer"), "link")
    await sessions.close()
    again = Sessions.open(tmp_path / "sessions.db", clock, os.urandom)
    assert all(again.of(secret) for secret in secrets)
    await again.close()


class Disk(Database):
    """A file whose disk can fail."""

    fails = False

    async def write(self, work: Any, durable: Any, size: int) -> Any:
        if self.fails:
            raise Unavailable("sessions.db: the disk is full; nothing was acknowledged", hint="make room on the disk")
        return await super().write(work, durable, size)


async def test_what_ended_is_over_though_the_disk_fails_and_leaves_the_file_with_the_next_write(tmp_path: Path) -> None:
    clock, disk = ManualClock(), Disk(tmp_path / "sessions.db", module._FORMAT)
    sessions = Sessions(disk, clock, os.urandom)
    secrets = [sessions.fresh() for _ in range(3)]
    first, _ = await sessions.begin(secrets[0], ALICE, "link")
    bob, _ = await sessions.begin(secrets[1], Caller("uid:1001/bob", "viewer"), "link")
    disk.fails = True
    with pytest.raises(Unavailable):
        await sessions.end([first])
    assert sessions.of(secrets[0]) is None and [one.actor for one in sessions.alive()] == ["uid:1001/bob"]
    with pytest.raises(Unavailable):
        await sessions.begin(secrets[2], ALICE, "link")
    assert sessions.of(secrets[2]) is None
    disk.fails = False
    clock.move(61)
    await sessions.used(bob)  # any write takes along what was left
    await sessions.close()
    again = Sessions.open(tmp_path / "sessions.db", clock, os.urandom)
    assert [one.actor for one in again.alive()] == ["uid:1001/bob"]
    await again.close()


@pytest.mark.parametrize("broken", ["file", "journal", "both"])
async def test_a_logout_holds_whatever_cannot_be_written(broken: str) -> None:
    house = await DashboardHouse.make("viewer", journal=(journal := FaultyJournal()))
    (session,), secret = house.sessions.alive(), house.client.cookies["__Host-trustfed"]
    page = house.csrf
    disk = house.sessions._database
    if broken != "journal":
        await disk.close()  # each write raises Unavailable from here on
    if broken != "file":
        journal.fail(Unavailable("the disk is full"))
    answer = await house.post("/logout", {"csrf": page})
    assert answer.status_code == 503 and f"the login {session.id} has ended" in answer.text
    assert ("the journal" in answer.text) is (broken != "file")
    assert ("a restart would open it again" in answer.text) is (broken != "journal")
    assert "max-age=0" in answer.headers["set-cookie"].lower()
    house.client.cookies.set("__Host-trustfed", secret, domain="hub.example")
    assert (await house.get("/")).status_code == 303 and not house.sessions.alive()
    await house.close()


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sessions.db").write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    (tmp_path / "sessions.db").chmod(0o600)
    with pytest.raises(Invalid):
        Sessions.open(tmp_path / "sessions.db", ManualClock(), os.urandom)
