"""A step of the story: the hub and a cluster are killed, an agent starts again with nobody there, and calls go on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

from trustfed.demo.door import ask
from trustfed.demo.house import Cluster, House
from trustfed.demo.processes import Process
from trustfed.demo.screen import Screen, Step, milliseconds
from trustfed.demo.trials import tally
from trustfed.errors import Unavailable
from trustfed.spiffe.certificate import serial_text

CALLS = 15
"""Calls of each workload that must succeed in each part of the outage."""
_RETURN_SECONDS = 40.0
_LIFE_SECONDS = 120
"""Of the SVID that the workload has when the outage begins: longer than the outage, also on a slow machine."""


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
            self._live_for(step, _LIFE_SECONDS)
            before, carried = self._counts(), self._house.carried.count()
            serial = before[0]["serial"]
            try:
                for process in (hub, cluster):
                    kill(process)
                self._calls(step, "with the hub and the control plane away", self._counts())
                kill(agent)
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
            self._live_for(step, 0)
            tally(step, before, self._counts())
            self._house.carried.tally(step, carried)

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

    def _live_for(self, step: Step, seconds: int) -> None:
        """Let its SVIDs live so long (0: as long as others); the first of these is issued at once."""
        before = ask(self._west.control, "GET", "/status")["serial"]
        entries = ask(self._west.admin, "GET", "/entries")["entries"]
        entry = next(one for one in entries if one["spiffe_id"] == self._west.workload_id)
        wanted = {name: entry[name] for name in ("spiffe_id", "parent", "selectors", "federates_with", "owner")}
        ask(self._west.admin, "PUT", f"/entries/{entry['id']}", wanted | {"x509_ttl": seconds})
        step.wait("a new SVID", lambda: self._rotated(before), _RETURN_SECONDS)

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


def kill(process: Process) -> None:
    """kill -9, and wait until it is gone."""
    pid = process.look()
    if pid is None:
        raise Unavailable(f"{process.name} does not run", hint=f"its log is {process.log}")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while process.look() is not None:
        time.sleep(0.002)


def _first(cluster: Cluster) -> str | None:
    """The serial of the SVID that a new workload is given; None while it is given none."""
    from spiffe import WorkloadApiClient  # noqa: PLC0415  only the demo's users have it

    try:
        with contextlib.closing(WorkloadApiClient(f"unix:{cluster.api}")) as client:
            svids = client.fetch_x509_svids()
    except Exception:  # the library's errors have no common base that it promises
        return None
    mine = (svid for svid in svids if str(svid.spiffe_id) == cluster.workload_id)
    return next((serial_text(svid.leaf.serial_number) for svid in mine), None)
