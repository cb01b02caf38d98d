"""The demo's processes: real ones, started by the argv that demo.json shows, ended by their pid.

Nothing is supervised. Whoever kills a process and starts it again by its argv replaces it: processes are recognised by
their `mark`, a path that no other process has among its arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from trustfed.errors import Unavailable

END_SECONDS = 6.0
_LOOKS = 10
_PR_SET_PDEATHSIG = 1


class Ended(Unavailable):
    """A process that was just started has ended: there is nothing to wait for."""


@dataclass
class Process:
    """One process; `pid` is None while it does not run."""

    name: str
    argv: list[str]
    log: Path
    mark: str
    environment: dict[str, str] = field(default_factory=dict)
    ending: signal.Signals = signal.SIGTERM
    pid: int | None = None
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it; it ends when the demo does, however that ends. Main thread only: prctl(2) means a thread by "parent"."""
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                # A Ctrl-C is for the demo, which then ends its processes in order.
                process_group=0,
                preexec_fn=functools.partial(_die_with_parent, os.getpid()),  # noqa: PLW1509  two system calls
            )
        self.pid = self.child.pid

    def look(self) -> int | None:
        """The pid under which it runs now, whoever started it."""
        if self.child is not None and self.child.poll() is None:  # poll: a killed one is no zombie then
            self.pid = self.child.pid
        elif self.pid is None or not _is(self.pid, self.mark):
            self.pid = _find(self.mark)
        return self.pid

    def check(self) -> None:
        """Raise Ended with the end of its log when it does not run."""
        if self.look() is None:
            status = self.child.returncode if self.child is not None else None
            raise Ended(f"{self.name} ended (status {status}): {last_line(self.log)}", hint=f"its log is {self.log}")


def end(processes: list[Process]) -> list[str]:
    """End them, last started first, each by its signal and after 6 seconds by SIGKILL; the names of those that had to be."""
    stubborn = []
    for process in reversed(processes):
        if (pid := process.look()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, process.ending)
    deadline = time.monotonic() + END_SECONDS
    for process in reversed(processes):
        while (pid := process.look()) is not None:
            if time.monotonic() > deadline:
                stubborn.append(process.name)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.02)
        if process.child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.child.wait(2)
    return stubborn


def run(argv: list[str], log: Path) -> None:
    """Run one command to its end. Raises Unavailable with what it said."""
    with log.open("ab") as output:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=60, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(argv[3:5])} failed: {last_line(log)}", hint=f"its log is {log}")


def last_line(log: Path) -> str:
    """The last words in a log."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][-400:] if lines else "it left no word"


def _is(pid: int, mark: str) -> bool:
    """Whether this process bears the mark. One that is between two programs (execve) shows no words for a moment."""
    for _ in range(_LOOKS):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            # A kernel thread or a zombie has no words either, and never will.
            if words or not Path(f"/proc/{pid}/exe").exists():
                return mark.encode() in words.split(b"\0")
        except OSError:
            return False
        time.sleep(0.002)
    return False


def _find(mark: str) -> int | None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _is(int(entry.name), mark):
            return int(entry.name)
    return None


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
