"""The programs that judge our work with somebody else's code: how each is built, run and read.

Each answers `verify FOLDER` (see artefacts.py) and `watch AUDIENCE COUNT`, one JSON line per finding. Dependencies have
exact versions and come from the languages' own registries; what is built stays in git-ignored folders beside the source.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Finding = dict[str, Any]

HERE = Path(__file__).resolve().parent
BUILD_SECONDS = 900
RUN_SECONDS = 120


@dataclass(frozen=True)
class Program:
    """One program: the tools it needs, how it is built (in its folder), and how it is started."""

    name: str
    tools: tuple[str, ...]
    build: tuple[str, ...]
    start: tuple[str, ...]

    def ready(self) -> None:
        """Build it, once a run. A missing tool skips the test; with CI=true it fails it."""
        need(*self.tools)
        if self.build:
            _build(self)

    def run(self, *arguments: str, heard: Callable[[Finding], None] | None = None, **environment: str) -> Outcome:
        """Run it to its end, at most RUN_SECONDS, and tell `heard` of each finding as it comes.

        It works in its own folder, so that it imports nothing of ours.
        """
        found: list[Finding] = []
        with tempfile.TemporaryFile("w+") as words:
            process = subprocess.Popen(
                [*self.start, *arguments],
                cwd=HERE / self.name,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )
            overdue = threading.Timer(RUN_SECONDS, process.kill)
            overdue.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    found.append(json.loads(line))
                    if heard:
                        heard(found[-1])
            finally:
                overdue.cancel()
                process.kill()  # nothing, once it has ended
                code = process.wait()
            words.seek(0)
            return Outcome(code, found, words.read())


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code, findings, and what it said on standard error."""

    code: int
    findings: list[Finding]
    words: str


@functools.cache
def _build(program: Program) -> None:
    # GOTOOLCHAIN: the toolchain that is there, never one from the network.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    done = subprocess.run(
        ["nice", "-n", "10", *program.build],
        cwd=HERE / program.name,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
    )
    assert done.returncode == 0, f"{program.name} does not build:\n{done.stdout[-4000:]}"


def need(*tools: str) -> None:
    """Skip the test, or with CI=true fail it, unless every tool is on PATH."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason + "; CI must have it")
    pytest.skip(reason)


PROGRAMS: Mapping[str, Program] = {
    program.name: program
    for program in (
        Program(
            "go",
            ("go",),
            ("go", "build", "-buildvcs=false", "-mod=readonly", "-o", "bin/interop", "."),
            (str(HERE / "go/bin/interop"),),
        ),
        Program(
            "java",
            ("java", "javac", "mvn"),
            ("mvn", "-q", "-B", "compile"),
            # Small and quickly started: it lives for seconds.
            (
                "java",
                "-XX:TieredStopAtLevel=1",
                "-cp",
                f"{HERE}/java/target/classes:{HERE}/java/target/lib/*",
                "Interop",
            ),
        ),
        Program(
            "rust",
            ("cargo", "cc"),
            ("cargo", "build", "--quiet"),
            (str(HERE / "rust/target/debug/interop"),),
        ),
        Program("python", (), (), (sys.executable, str(HERE / "python/interop.py"))),
    )
}
