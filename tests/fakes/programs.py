"""Programs that tests drive and that may be missing on a developer's machine; in CI they may not."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from trustfed.demo.programs import installed


def program(name: str, hint: str) -> str:
    """The path of program `name`. Where it is missing the test is skipped, and fails in CI; `hint` says what to install."""
    found = installed(name)
    if found:
        return found
    reason = f"no `{name}` binary: {hint}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def started(argv: Sequence[str], output: IO[bytes], folder: Path | None = None) -> subprocess.Popen[bytes]:
    """A server in a process group of its own, which does not outlive this process."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        start_new_session=True,
        preexec_fn=functools.partial(_die_with_parent, os.getpid()),  # noqa: PLW1509 - two system calls
    )


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
