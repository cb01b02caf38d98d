"""A step of the story: the hub and a cluster are killed, an agent starts again with nobody there, and calls go on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from datetime import datetime
from typing import Any

from trustfed.demo.door import ask
from trustfed.demo.house import Cluster, House
from trustfed.demo.processes import Process
from trustfed.demo.screen import Screen, Step, milliseconds
from trustfed.demo.trials import tally
from trustfed.errors import Unavailable

CALLS = 15
"""Calls of each workload that must succeed in each part of the outage."""
_RETURN_SECONDS = 40.0
_NEEDED = 0.7
"""The part of an SVID's life that should be left when the outage begins: it is longer than the outage."""


class Outage:
    """The step."""

    def __init__(self, place: House, screen: Screen) -> None:
        self._house, self._screen = place, screen
        self._west = place.clusters[0]

    def survive(self) -> None:
        west = self._west
        title = (
            f"hub and control plane of {west.name} are killed, its agent starts again with nobody there, calls go on"
        )
        with self._screen.step(title) as step:
            hub, cluster, agent = (
                self._process(name) for name in ("hub", f"cluster-{west.name}", f"agent-{west.name}")
            )
            step.wait("a fresh SVID", self._fresh, self._house.svid_ttl.total_seconds() + 10)
            before = self._counts()
            serial = before[0]["serial"]
            try:
                for process in (hub, cluster):
                    _kill(process)
                self._calls(step, "with the hub and the control plane away", self._counts())
                _kill(agent)
                began = time.time()
                agent.start()
                held = step.wait("the first SVID of the restarted agent", lambda: _first(west), 20)
                step.require(held == serial, f"it served serial {held}, and had {serial}")
                step.say(
                    f"the agent of {west.name} started again with nobody there: its first SVID {milliseconds(began)}"
                )
                self._calls(step, "from its sealed cache", self._counts())
            finally:
                began = time.time()
                for process in (hub, cluster, agent):
                    if process.look() is None:
                        process.start()
            step.wait("all to come back", self._returned, _RETURN_SECONDS)
            step.say(f"hub, control plane and agent are connected again {milliseconds(began)} after their start")
            step.wait("a new SVID", lambda: self._rotated(serial), _RETURN_SECONDS)
            tally(step, before, self._counts())

    def _calls(self, step: Step, when: str, before: list[dict[str, Any]]) -> None:
        """Let every workload call on for a while."""

        def enough() -> bool | None:
            made = [now["calls"] - then["calls"] for now, then in zip(self._counts(), before, strict=True)]
            return True if min(made) >= CALLS else None

        step.wait(f"calls {when}", enough, 20, 0.05)
        now = self._counts()
        calls, failed = (
            sum(b[name] - a[name] for a, b in zip(before, now, strict=True)) for name in ("calls", "failed")
        )
        step.say(f"{when}: {calls} calls on new connections, {failed} failed")

    def _fresh(self) -> bool | None:
        """The workload's SVID has most of its life before it."""
        svids = ask(self._west.agent_admin, "GET", "/svids")["svids"]
        mine = next(one for one in svids if one["spiffe_id"] == self._west.workload_id)
        ends = datetime.fromisoformat(mine["not_after"]).timestamp()
        return True if ends - time.time() > self._house.svid_ttl.total_seconds() * _NEEDED else None

    def _returned(self) -> bool | None:
        connected = ask(self._west.admin, "GET", "/status")["hub"]["connected"]
        synced = ask(self._west.agent_admin, "GET", "/status")["sync"]["connected"]
        return True if connected and synced else None

    def _rotated(self, serial: str) -> bool | None:
        return True if ask(self._west.control, "GET", "/status")["serial"] not in (None, serial) else None

    def _counts(self) -> list[dict[str, Any]]:
        return [ask(cluster.control, "GET", "/status") for cluster in self._house.clusters]

    def _process(self, name: str) -> Process:
        return next(process for process in self._house.processes if process.name == name)


def _kill(process: Process) -> None:
    """kill -9, and wait until it is gone."""
    pid = process.look()
    if pid is None:
        raise Unavailable(f"{process.name} does not run", hint=f"its log is {process.log}")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while process.look() is not None:
        time.sleep(0.002)


def _first(cluster: Cluster) -> str | None:
    """The serial that a new workload is given; None while it is given nothing."""
    from spiffe import WorkloadApiClient  # noqa: PLC0415  only the demo's users have it

    try:
        with contextlib.closing(WorkloadApiClient(f"unix:{cluster.api}")) as client:
            svid = client.fetch_x509_svid()
    except Exception:  # the library's errors have no common base that it promises
        return None
    return f"{svid.leaf.serial_number:x}"
