"""The write log cut at every step: what is opened is the old or the new state, and never a reason to refuse."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agent.cache.disk import FolderDisk
from agent.cache.keys import MachineKey
from agent.cache.port import Kept
from agent.cache.refusal import Refused
from agent.cache.vault import Vault
from tests.fakes.disk import Files, Platter, Step, crashes
from tests.unit.agent_cache.cached import NODE, NOW, bundle, entry, large, same, small, svid, token, vault, without
from trustfed.errors import TrustfedError, Unavailable

HISTORY: list[Kept] = [
    small(3),
    replace(small(3), svids={**small(3).svids, "e1": svid(50)}),
    without(small(3), "e2"),
    replace(without(small(3), "e2"), bundles=(bundle(), bundle("prod-b", sequence=8)), tokens=(token(1), token(0))),
    replace(Kept(banned="stolen"), floor=NOW + timedelta(minutes=2)),
    replace(small(3), entries=tuple(entry(n) for n in range(6)), floor=NOW + timedelta(minutes=9)),
]


def _opened(files: Files) -> Kept | None:
    return vault(Platter(files)).open()


def _is_one_of(files: Files, allowed: list[Kept | None], where: str, *, none: bool = False) -> None:
    """With `none` it may also have been taken away; any other refusal raises."""
    try:
        kept = _opened(files)
    except Refused as refused:
        if none and refused.reason in ("missing_manifest", "other_life", "rollback"):
            return
        raise
    assert any((kept is None and each is None) or same(kept, each) for each in allowed), where


def test_power_lost_at_every_step_of_every_save() -> None:
    platter, keeper = Platter(), None
    moments: list[tuple[int, list[Kept | None]]] = []
    before: Kept | None = None
    keeper = vault(platter)
    for kept in HISTORY:
        start = len(platter.log)
        keeper.save(kept)
        moments += [(cut, [before, kept]) for cut in range(start, len(platter.log))]
        moments.append((len(platter.log), [kept]))
        before = kept
    states = 0
    for cut, allowed in moments:
        for number, files in enumerate(crashes(platter, cut)):
            _is_one_of(files, allowed, f"cut {cut}, state {number}, after {platter.log[cut - 1] if cut else 'nothing'}")
            states += 1
    assert states > 500, states


def test_power_lost_again_and_again_and_work_goes_on() -> None:
    """Each crash is followed by a restart, a save and another crash within it; the generation never falls."""
    for seed in range(12):
        chance = random.Random(seed)
        files: Files = {}
        now: Kept | None = None
        generation = 0
        for _ in range(12):
            platter = Platter(files)
            keeper = vault(platter)
            found = keeper.open()
            assert (found is None and now is None) or same(found, now)
            assert keeper.generation >= generation
            generation = keeper.generation
            target = chance.choice(HISTORY)
            keeper.save(target)
            cut = chance.randrange(len(platter.log) + 1)
            files = chance.choice(list(crashes(platter, cut, range(3))))
            kept = _opened(files)
            assert (kept is None and now is None) or same(kept, now) or same(kept, target)
            now = kept


class Killed(BaseException):
    """kill -9: nothing is cleaned up."""


def test_killed_at_every_step_restarted_and_then_power_lost() -> None:
    """The restarted process sees what is not durable yet: it must not raise the counter above what the disk has."""
    steps = Platter()
    keeper = vault(steps)
    keeper.save(HISTORY[1])
    first = len(steps.log)
    keeper.save(HISTORY[2])
    for number in range(len(steps.log)):
        platter = Platter()

        def fault(step: Step, at: int = number, disk: Platter = platter) -> None:
            if len(disk.log) == at:
                raise Killed

        platter.fault = fault
        with pytest.raises(Killed):
            keeper = vault(platter)
            keeper.save(HISTORY[1])
            keeper.save(HISTORY[2])
        platter.fault = lambda step: None
        again = vault(platter)
        again.open()
        allowed = [None, HISTORY[1]] if number < first else [HISTORY[1], HISTORY[2]]
        for files in crashes(platter, len(platter.log)):
            _is_one_of(files, allowed, f"killed at {number}, {steps.log[number]}")
        again.save(HISTORY[0])
        assert same(_opened(platter.files), HISTORY[0])
        for files in crashes(platter, len(platter.log)):
            _is_one_of(files, [HISTORY[0]], f"killed at {number}, then saved")


def test_power_lost_while_a_refused_cache_is_replaced() -> None:
    """What was refused never comes back, wherever the power goes; afterwards a save holds."""
    healthy = Platter()
    vault(healthy).save(small())
    place = ("cache", "manifest")
    broken = {**healthy.files, place: healthy.files[place][:-1]}
    platter = Platter(broken)
    keeper = vault(platter)
    with pytest.raises(Exception, match="manifest"):
        keeper.open()
    new = large(2)
    keeper.save(new)
    for cut in range(len(platter.log) + 1):
        for files in crashes(platter, cut, range(2)):
            again = Platter(files)
            fresh = vault(again)
            try:
                found = fresh.open()
            except Exception:
                found = None
            assert found is None or same(found, new)
            fresh.save(small(1))
            assert same(_opened(again.files), small(1))


@pytest.mark.parametrize("late", [False, True], ids=["undone", "done"])
@pytest.mark.parametrize("kind", ["create", "write", "fsync", "rename", "sync", "remove", "mkdir"])
def test_every_step_may_fail_and_the_next_save_holds(kind: str, late: bool) -> None:
    """ENOSPC, EIO or a read-only disk from the n-th step on: the old or the new state, or none where the old one must not
    come back; later everything is written.
    """
    for number in range(40):
        platter = Platter()
        keeper = vault(platter)
        keeper.save(HISTORY[0]) if number % 2 else None
        before = HISTORY[0] if number % 2 else None
        seen = 0

        def fault(step: Step, at: int = number // 2) -> TrustfedError | None:
            nonlocal seen
            seen += step.kind == kind
            return Unavailable("no space left on device") if step.kind == kind and seen > at else None

        platter.fault, platter.late = fault, late
        target = HISTORY[2]
        failed = False
        try:
            keeper.save(target)
        except TrustfedError:
            failed = True
        for files in crashes(platter, len(platter.log), range(1)):
            _is_one_of(files, [before, target], f"{kind} {number}", none=failed)
        platter.fault, start = lambda step: None, len(platter.log)
        later = replace(target, position=number)
        keeper.save(later)
        for cut in range(start, len(platter.log)):
            for files in crashes(platter, cut, range(1)):
                _is_one_of(files, [None, before, target, later], f"{kind} {number}, later {cut}", none=failed)
        assert same(_opened(platter.files), later)
        if not failed:
            break
    else:
        raise AssertionError("every try failed")


def test_a_disk_that_fails_for_long_does_not_fill_up() -> None:
    platter = Platter()
    keeper = vault(platter)
    keeper.save(small())
    held = len(platter.files)
    for kind in ("sync", "rename", "fsync"):
        platter.fault = lambda step, kind=kind: Unavailable("broken") if step.kind == kind else None
        for number in range(50):
            with pytest.raises(TrustfedError):
                keeper.save(replace(small(), position=number, svids={"e0": svid(number), "e1": svid(number)}))
        assert len(platter.files) <= held + 4, sorted(platter.files)
    platter.fault = lambda step: None
    keeper.save(small())
    assert same(_opened(platter.files), small())


_WRITER = """
import os, sys
from pathlib import Path
from agent.cache.disk import FolderDisk
from agent.cache.keys import MachineKey
from agent.cache.vault import Vault
from tests.unit.agent_cache.cached import NODE
from tests.unit.agent_cache.test_cache_power_loss import HISTORY
outside = FolderDisk(Path(sys.argv[1]))
vault = Vault(FolderDisk(Path(sys.argv[1]) / "cache"), outside, MachineKey(outside, os.urandom), NODE, os.urandom)
vault.open()
number = int(sys.argv[2])
while True:
    vault.save(HISTORY[number % len(HISTORY)])
    os.write(1, b"%d\\n" % number)
    number += 1
"""


def test_killed_at_random_moments_on_a_real_disk(tmp_path: Path) -> None:
    """kill -9 of real processes: what was said to be saved, or the one after it, is there."""
    tmp_path.chmod(0o700)
    chance, next_ = random.Random(7), 0
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), str(next_)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        last = int(writer.stdout.readline())
        time.sleep(chance.random() * 0.05)
        writer.send_signal(signal.SIGKILL)
        lines = writer.stdout.read().split(b"\n")
        writer.wait()
        writer.stdout.close()
        last = int(lines[-2]) if len(lines) > 1 else last
        outside = FolderDisk(tmp_path)
        found = Vault(FolderDisk(tmp_path / "cache"), outside, MachineKey(outside, os.urandom), NODE, os.urandom).open()
        said, after = HISTORY[last % len(HISTORY)], HISTORY[(last + 1) % len(HISTORY)]
        assert same(found, said) or same(found, after)
        next_ = last + 1
