"""Processes: they end cleanly when asked, quickly when asked twice, and say why when they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import asyncio, sys
from trustfed.errors import Denied
from trustfed.runtime import logs, process
logs.configure(human=False)
async def main(stop):
    print("up", flush=True)
    {body}
sys.exit(process.run(main, deadline={deadline}))
"""


def start(body: str, deadline: float = 5) -> subprocess.Popen[str]:
    program = PROGRAM.format(body=body, deadline=deadline)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "up\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_is_a_clean_end(number: signal.Signals) -> None:
    child = start("await stop.wait(); print('closed')")
    child.send_signal(number)
    out, err = child.communicate(timeout=10)
    assert (child.returncode, out) == (0, "closed\n") and f'"signal": "{number.name}"' in err


def test_a_second_signal_ends_at_once() -> None:
    child = start("await stop.wait(); print('stopping', flush=True); await asyncio.sleep(60)", deadline=60)
    child.send_signal(signal.SIGTERM)
    assert child.stdout and child.stdout.readline() == "stopping\n"
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=10)
    assert child.returncode == 130


@pytest.mark.parametrize(
    "body",
    [
        "await stop.wait(); await asyncio.sleep(60)",
        "await stop.wait(); import time; asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)",
    ],
)
def test_the_deadline_ends_what_hangs(body: str) -> None:
    child, begun = start(body, deadline=0.2), time.monotonic()
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=10)
    assert child.returncode == 1 and time.monotonic() - begun < 5


def test_refusals_and_crashes_are_one_line() -> None:
    child = start("raise Denied('not here', hint='go there')")
    _, err = child.communicate(timeout=10)
    assert child.returncode == 3 and '"message": "not here", "hint": "go there"' in err and err.count("\n") == 1
    child = start("raise RuntimeError('broken')")
    _, err = child.communicate(timeout=10)
    assert child.returncode == 1 and '"internal error"' in err and err.count("\n") == 1


def test_hardened_and_on_uvloop() -> None:
    child = start(
        "import resource, os; print(resource.getrlimit(resource.RLIMIT_CORE)[0], oct(os.umask(0)), "
        "type(asyncio.get_running_loop()).__module__, file=sys.stderr)"
    )
    _, err = child.communicate(timeout=10)
    assert (child.returncode, err) == (0, "0 0o77 uvloop\n")


def test_what_the_agent_imports_stays_small() -> None:
    """Nothing heavy comes in through these rooms: neither frameworks nor databases nor prometheus_client."""
    program = """
import sys
from trustfed.federation import dsse, envelope, names, roots, token
from trustfed.runtime import clock, config, errors, files, logs, metrics, process, secret_file, sockets, tls, unix_http
heavy = {"fastapi", "pydantic", "boto3", "hvac", "sqlalchemy", "sqlite3", "grpc", "msgspec", "typer", "rich",
         "prometheus_client", "requests", "httpx", "urllib.request", "http.client", "xml", "multiprocessing"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout == "[]\n"
