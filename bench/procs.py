"""Processes of a run: started with their log in a file, measured by /proc, stopped by their own pid."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

OUTPUT_SHOWN = 800


class BenchError(Exception):
    """A figure could not be taken; the message says what failed and where its log is."""


class Process:
    """One child process. `started_ns` is the Unix time in nanoseconds just before it was spawned."""

    def __init__(self, name: str, argv: Sequence[object], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self.started_ns = time.time_ns()
            self._child = subprocess.Popen(
                [str(part) for part in argv], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def running(self) -> bool:
        return self._child.poll() is None

    def wait(self, limit: float) -> int:
        """The exit status of a command that ends by itself; it is stopped after `limit` seconds."""
        try:
            return self._child.wait(limit)
        except subprocess.TimeoutExpired:
            self.stop()
            return self._child.wait()

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-OUTPUT_SHOWN:].strip()

    def stop(self, patience: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `patience` seconds; returns when it is gone."""
        if self.running():
            self._child.terminate()
        try:
            self._child.wait(patience)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def run(argv: Sequence[object], *, text: str | None = None, limit: float = 60.0) -> str:
    """What a command prints that succeeds within `limit` seconds. `text` is its standard input."""
    command = [str(part) for part in argv]
    shown = " ".join(command[:6])
    try:
        done = subprocess.run(command, input=text or "", capture_output=True, text=True, timeout=limit, check=False)
    except FileNotFoundError as error:
        raise BenchError(f"{command[0]} is not there") from error
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{shown} … took more than {limit:.0f} s") from error
    if done.returncode != 0:
        raise BenchError(
            f"{shown} … exited with {done.returncode}: {(done.stderr or done.stdout).strip()[-OUTPUT_SHOWN:]}"
        )
    return done.stdout or done.stderr  # some commands print their version on standard error


def wait_until(ready: Callable[[], bool], what: str, process: Process, limit: float = 30.0) -> None:
    """Return once `ready()` holds; BenchError when the process ends first or `limit` seconds have passed."""
    end = time.monotonic() + limit
    while not ready():
        late = time.monotonic() > end
        if late or not process.running():
            why = f"after {limit:.0f} s" if late else "before it ended"
            raise BenchError(f"{process.name}: {what} did not come {why}; its log ends: {process.tail()}")
        time.sleep(0.02)


def resident(pid: int) -> float:
    """Resident memory of one process in MB (10⁶ bytes are not meant: 1 MB is 1,048,576 bytes)."""
    return _rollup(pid, "Rss")


def proportional(pids: Sequence[int]) -> float:
    """Memory of several processes in MB, pages they share counted once (the sum of their PSS)."""
    return sum(_rollup(pid, "Pss") for pid in pids)


def anonymous(pids: Sequence[int]) -> float:
    """What several processes hold in MB that is no file's page: their programs and libraries are not in it."""
    return sum(_rollup(pid, "Anonymous") for pid in pids)


def processor_time(pids: Sequence[int]) -> float:
    """Seconds that these processes have used, all their threads (proc_pid_stat(5), utime and stime)."""
    used = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / os.sysconf("SC_CLK_TCK")


def _rollup(pid: int, field: str) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise BenchError(f"/proc/{pid}/smaps_rollup has no {field}")
    return int(found[1]) / 1024


def descendants(pid: int) -> list[int]:
    """Pids of the processes that this one started, and theirs; empty when it has none."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


class Busy:
    """How much of the machine others used meanwhile: the figures hold only for a machine that was else quiet."""

    def __init__(self) -> None:
        self._begun, self._everyone, self._ours = time.monotonic(), *self._read()

    def others(self) -> float:
        """Percent of all CPUs since construction that went to neither this process nor its ended children."""
        everyone, ours = self._read()
        used = (everyone - self._everyone) - (ours - self._ours)
        return max(0.0, 100 * used / (time.monotonic() - self._begun) / (os.cpu_count() or 1))

    @staticmethod
    def _read() -> tuple[float, float]:
        """CPU seconds of everyone, and of this process with its ended children (proc(5), cpu line of /proc/stat)."""
        user, nice, system, _idle, _wait, irq, softirq, steal = Path("/proc/stat").read_text().split()[1:9]
        ticks = sum(map(int, (user, nice, system, irq, softirq, steal)))
        return ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def machine() -> dict[str, object]:
    """What the figures were taken on, and how busy it was before."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpus": os.cpu_count(),
        "cpu": model[1] if model else "unknown",
        "kernel": os.uname().release,
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }
