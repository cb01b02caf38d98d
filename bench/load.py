"""The load client: builds bench/wlload once per run and reads its JSON."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.procs import BenchError, run

SOURCE = Path(__file__).parent / "wlload"
LINES_HELD = 10_000


@dataclass(frozen=True)
class Sample:
    """One measured cell: SVIDs per second for issuance, calls per second otherwise; times in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    last_error: str


@dataclass(frozen=True)
class Door:
    """Where a node asks for SVIDs: mode "batch" (SPIRE) or "issue" (trustfed), "127.0.0.1:port", the directory of its
    svid.pem, key.pem and bundle.pem, and the SPIFFE ID that the server must present.
    """

    mode: str
    address: str
    credentials: Path
    server: str


@dataclass(frozen=True)
class Answer:
    """What one workload was told at `unix_ns`: its SPIFFE IDs, and a digest per bundle ("home" is its own domain's)."""

    unix_ns: int
    ids: tuple[str, ...]
    bundles: dict[str, str]


class LoadClient:
    """The built client. It runs in a process of its own, on the same cores as what it measures."""

    def __init__(self, directory: Path) -> None:
        self.binary = directory / "wlload"
        go = shutil.which("go")
        if go is None:
            raise BenchError("the load client is written in Go and `go` is not in PATH; install Go 1.25 or newer")
        run([go, "build", "-C", SOURCE, "-trimpath", "-buildvcs=false", "-o", self.binary, "."], limit=600)

    def workload(self, socket: Path, mode: str, callers: int, seconds: float) -> Sample:
        """Workload API calls: mode x509, jwt, bundles or conn (a new connection each time)."""
        return self._measure(["-mode", mode, "-address", f"unix://{socket}", "-n", callers], seconds)

    def issuance(self, door: Door, size: int, callers: int, seconds: float, *, entries: Path | None = None) -> Sample:
        """SVIDs issued to a node, `size` a call. `entries`: a file of entry ids, which only trustfed's mode reads."""
        who = ["-address", door.address, "-credentials", door.credentials, "-server", door.server]
        which = ["-entries", entries] if entries else []
        return self._measure(["-mode", door.mode, *who, *which, "-size", size, "-n", callers], seconds)

    def first(self, socket: Path, start: Callable[[], int], limit: float = 60.0) -> float:
        """Seconds from `start()`, which returns its Unix nanoseconds, to the first X509-SVID on the socket."""
        argv = [str(self.binary), "-mode", "first", "-address", f"unix://{socket}", "-timeout", f"{limit}s"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
            try:
                time.sleep(0.2)  # the client itself is up before the clock starts
                started_ns = start()
                output, complaint = waiting.communicate(timeout=limit + 5)
            finally:
                waiting.kill()
        if waiting.returncode != 0:
            raise BenchError(complaint.strip())
        return float((json.loads(output)["unix_ns"] - started_ns) / 1e9)

    def watch(self, socket: Path, limit: float = 900.0) -> Watch:
        """A workload that holds its stream open."""
        return Watch([self.binary, "-mode", "watch", "-address", f"unix://{socket}", "-timeout", f"{limit}s"])

    def _measure(self, options: Sequence[object], seconds: float) -> Sample:
        argv = [self.binary, *map(str, options), "-d", f"{seconds}s"]
        seen: dict[str, Any] = json.loads(run(argv, limit=seconds + 90))
        return Sample(seen["per_second"], seen["p50_ms"], seen["p99_ms"], seen["errors"], seen.get("last_error", ""))


class Watch:
    """An open X509-SVID stream; use it in a `with` block."""

    def __init__(self, argv: Sequence[object]) -> None:
        self._child = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._answers: queue.Queue[Answer | None] = queue.Queue(LINES_HELD)
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()

    def until(self, holds: Callable[[Answer], bool], what: str, limit: float) -> Answer:
        """The next answer for which `holds`, within `limit` seconds."""
        end = time.monotonic() + limit
        while True:
            try:
                answer = self._answers.get(timeout=max(0.001, end - time.monotonic()))
            except queue.Empty:
                raise BenchError(f"{what} did not reach the workload within {limit:.0f} s") from None
            if answer is None:
                complaint = self._child.stderr.read() if self._child.stderr else ""
                raise BenchError(f"the workload's stream ended while waiting for {what}: {complaint.strip()}")
            if holds(answer):
                return answer

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            seen = json.loads(line)
            self._answers.put(Answer(seen["unix_ns"], tuple(seen["ids"]), seen["bundles"]))
        self._answers.put(None)
