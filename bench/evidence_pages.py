"""The dashboard's first page with a large fleet, as a browser on this machine gets it from bench.evidence_fleet."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.evidence_fleet import CLUSTERS, IDENTITIES
from bench.figures import Run
from bench.procs import BenchError
from bench.web_page import Page

GROUP = "evidence"
WARM, TURNS, TURN_SECONDS = 100, 5, 300


def take(run: Run) -> None:
    """Add the page's times and its size: the application, TLS and the loopback together."""
    with _served() as process, Page(_line(process)) as page:
        run.own(GROUP, "the dashboard's first page: the first time after the hub's start", "ms", page.seconds() * 1e3)
        warm = sorted(page.seconds() for _ in range(WARM))
        size, whole = page.size()
        turned = []
        for _ in range(TURNS):
            _say(process, TURN_SECONDS)
            turned.append(page.seconds())
    name = f"the dashboard's first page, {CLUSTERS} clusters, {IDENTITIES:,} identities"
    run.own(GROUP, f"{name}: again and again", "p50 ms", statistics.median(warm) * 1e3)
    run.own(GROUP, f"{name}: again and again", "p99 ms", warm[int(len(warm) * 0.99)] * 1e3)
    run.own(GROUP, f"{name}: the first after five minutes are over", "ms", statistics.median(turned) * 1e3)
    run.own(GROUP, f"{name}: transferred, the page", "kB", size / 1e3)
    run.own(GROUP, f"{name}: transferred, with all that it refers to", "kB", whole / 1e3)


@contextmanager
def _served() -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "bench.evidence_fleet"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()  # it ends when the process does
    if not line:
        raise BenchError("the dashboard's process ended before it served")
    return line


def _say(process: subprocess.Popen[str], seconds: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    _line(process)
