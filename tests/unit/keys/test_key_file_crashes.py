"""kill -9 and I/O errors at each system call of create and destroy: the old state or the new one, nothing between.

The calls are real: a profile hook in a forked child sees each one as it is about to be made, and there ends the process
or makes the call fail.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ca.keys.folder import KeyFolder
from ca.keys.wrapping import MachineKeyFile
from trustfed.errors import NotFound, TrustfedError, Unavailable

SURVIVED, KILLED = "survived", "killed"


def _folder(root: Path) -> KeyFolder:
    return KeyFolder(root / "keys", MachineKeyFile(root / "machine" / "key"))


def _before_call(number: int, act: Callable[[Any], None]) -> Callable[[Any, str, Any], None]:
    """Return a profile hook that acts before system call `number`, counted from 1."""
    calls = 0

    def hook(frame: Any, event: str, called: Any) -> None:
        nonlocal calls
        if event == "c_call" and called.__module__ in ("posix", "fcntl") and called is not os.fspath:
            calls += 1
            if calls == number:
                act(frame)

    return hook


def _in_child(work: Callable[[], object], hook: Callable[[Any, str, Any], None]) -> str:
    """Run `work` in a fork under the hook; tell whether the process was killed there."""
    child = os.fork()
    if child == 0:
        sys.setprofile(hook)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return KILLED if os.WIFSIGNALED(status) else SURVIVED


def _die(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_in_mid_write(frame: Any) -> None:
    content = frame.f_locals["content"]
    os.write(frame.f_locals["handle"], content[: len(content) // 2])
    _die()


def _check_modes(root: Path) -> None:
    for path in root.rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) & ~expected == 0, path


def test_killed_at_any_call_of_create_a_key_is_whole_or_not_there(tmp_path: Path) -> None:
    outcomes = []
    for number in range(1, 200):
        root = tmp_path / str(number)
        root.mkdir(mode=0o700)
        folder = _folder(root)
        end = _in_child(lambda: folder.create("a"), _before_call(number, _die))  # noqa: B023 - run at once
        _check_modes(root)
        try:
            key = folder.load("a")
        except NotFound:
            key = None
            folder.create("a")  # what the crash left behind is not in the way
        outcomes.append((end, key is not None))
        assert [path.name for path in (root / "keys").iterdir()] == ["a.key"] or key is not None
        if end == SURVIVED:
            break
    assert outcomes[-1] == (SURVIVED, True)
    assert outcomes.count((KILLED, False)) > 10
    assert (KILLED, True) in outcomes  # the crash came after the rename
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome[1]), "once whole, always whole"


def test_killed_at_any_call_of_destroy_a_key_is_whole_or_gone(tmp_path: Path) -> None:
    for number in range(1, 50):
        root = tmp_path / str(number)
        root.mkdir(mode=0o700)
        folder = _folder(root)
        folder.create("a")
        end = _in_child(lambda: folder.destroy("a"), _before_call(number, _die))  # noqa: B023 - run at once
        try:
            folder.load("a")
        except NotFound:
            folder.create("a")
        if end == SURVIVED:
            break
    assert end == SURVIVED
    assert number > 5


@pytest.mark.parametrize("which", [1, 2], ids=["machine key", "key file"])
def test_killed_in_the_middle_of_a_write(tmp_path: Path, which: int) -> None:
    folder = _folder(tmp_path)
    writes = 0

    def hook(frame: Any, event: str, called: Any) -> None:
        nonlocal writes
        if event == "c_call" and called is os.write:
            writes += 1
            if writes == which:
                _die_in_mid_write(frame)

    assert _in_child(lambda: folder.create("a"), hook) == KILLED
    left_behind = list(tmp_path.rglob(".*.new"))
    assert len(left_behind) == 1
    assert left_behind[0].stat().st_size > 0
    _check_modes(tmp_path)
    with pytest.raises(NotFound):
        folder.load("a")
    folder.create("a")
    folder.load("a")
    assert not list(tmp_path.rglob(".*.new"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_an_error_at_any_call_of_create_is_unavailable_and_changes_nothing(tmp_path: Path, number: int) -> None:
    tolerated = 0
    for call in range(1, 200):
        root = tmp_path / str(call)
        root.mkdir(mode=0o700)
        folder = _folder(root)
        hit = []

        def fail(frame: Any) -> None:
            hit.append(frame.f_code.co_name)  # noqa: B023 - run at once
            raise OSError(number, os.strerror(number))

        sys.setprofile(_before_call(call, fail))
        try:
            folder.create("a")
            error = None
        except TrustfedError as refused:
            error = refused
        except OSError:
            assert hit[0] in ("parameters", "seal"), hit  # os.urandom, which does not fail
            continue
        finally:
            sys.setprofile(None)
        if not hit:
            break
        if error is None:
            tolerated += 1
            folder.load("a")
            continue
        assert isinstance(error, Unavailable)
        assert error.hint
        assert os.strerror(number) in error.message
        with pytest.raises(NotFound):
            folder.load("a")
        folder.create("a")
    assert call > 20
    assert tolerated < 10  # closing a directory, a mode that was right already


def test_a_file_is_synced_before_it_gets_its_name_and_the_directory_after(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    folder.create("first")  # so that the machine key is there
    order: list[str] = []

    def hook(_: Any, event: str, called: Any) -> None:
        if event == "c_call" and called.__module__ in ("posix", "fcntl"):
            order.append(called.__name__)

    sys.setprofile(hook)
    folder.create("a")
    sys.setprofile(None)
    steps = [name for name in order if name in ("flock", "write", "fsync", "fchmod", "rename")]
    assert steps == ["flock", "fchmod", "write", "fsync", "rename", "fsync"]


def test_a_file_size_limit_in_the_middle_of_the_write_leaves_nothing(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    folder.create("first")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            folder.create("a")
        except Unavailable as error:
            code = 42 if "ulimit" in error.hint else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["first.key"]
