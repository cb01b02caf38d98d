"""The first half of the story: a root, trust domains, nodes, identities, grants. Each is a step with its figures."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trustfed.demo import house
from trustfed.demo.door import ask
from trustfed.demo.house import NODE, Cluster, House
from trustfed.demo.processes import Process
from trustfed.demo.processes import run as run_command
from trustfed.demo.roots import write_root
from trustfed.demo.screen import Screen, Step, milliseconds
from trustfed.runtime.files import write_atomic

START_SECONDS = 30.0


class Founding:
    """Steps 1 to 3; `grants` are the (importer, grant id) that hold now."""

    def __init__(self, place: House, screen: Screen) -> None:
        self._house, self._screen = place, screen
        self.root = place.directory / "root.pem"
        self.grants: list[tuple[Cluster, str]] = []

    def enrol(self) -> None:
        place = self._house
        with self._screen.step("a root, and two trust domains enrol with one-time tokens") as step:
            began = time.time()
            run_command(
                [*house.CLI, "hub", "init", "--config", str(place.hub.config)], place.directory / "logs/hub.log"
            )
            place.before_hub()
            hub = house.hub_process(place)
            hub.start()
            step.wait("the hub", lambda: _ready(hub, place.hub.admin), START_SECONDS)
            root_set = write_root(place.hub.https, ask(place.hub.admin, "GET", "/roots"), self.root)
            step.say(f"root set {root_set.version} of the hub, {root_set.hash[:23]}…: {milliseconds(began)}")
            for cluster in place.clusters:
                order = {
                    "name": cluster.name,
                    "owner": cluster.owner,
                    "dns_suffixes": [f"{cluster.name}.example"],
                    "ttl": "1h",
                }
                write_atomic(cluster.token, ask(place.hub.admin, "POST", "/domains", order)["token"].encode())
            with ThreadPoolExecutor(2) as both:
                enrolled = list(both.map(self._enrol_one, place.clusters))
            for cluster, took in zip(place.clusters, enrolled, strict=True):
                key = self._start_cluster(cluster, step)
                step.say(f"{cluster.name} enrolled in {took}, its publication key is {key[:23]}…")

    def _enrol_one(self, cluster: Cluster) -> str:
        """`trustfed cluster init`: a command with an end, so a thread may wait for it."""
        began = time.time()
        argv = [*house.CLI, "cluster", "init", "--config", str(cluster.config), f"@{cluster.token}"]
        run_command(argv, self._house.directory / f"logs/cluster-{cluster.name}.log")
        return milliseconds(began)

    def _start_cluster(self, cluster: Cluster, step: Step) -> str:
        """Start a control plane and wait until the hub knows it; the fingerprint of its publication key."""
        process = house.cluster_process(self._house, cluster)
        process.start()
        step.wait(f"cluster {cluster.name}", lambda: _ready(process, cluster.admin), START_SECONDS)
        status = step.wait(
            f"cluster {cluster.name} at the hub",
            lambda: found if (found := ask(cluster.admin, "GET", "/status"))["hub"]["connected"] else None,
        )
        return str(status["publication_key"])

    def serve_identities(self) -> None:
        place = self._house
        with self._screen.step("nodes are attested, and SVIDs reach the workloads") as step:
            for cluster in place.clusters:
                token = cluster.folder / "node.token"
                order = {"name": NODE, "groups": ["default"], "ttl": "1h"}
                write_atomic(token, ask(cluster.admin, "POST", "/nodes/tokens", order)["token"].encode())
                self._create_entry(cluster, cluster.path)
                began = time.time()
                agent = house.agent_process(place, cluster, token)
                agent.start()
                workload = house.workload_process(place, cluster)
                step.wait(f"agent of {cluster.name}", lambda c=cluster, a=agent: _connected(c, a), START_SECONDS)  # type: ignore[misc]
                step.say(f"{cluster.name}: {NODE} attested by token, {milliseconds(began)} after its agent's start")
                began = time.time()
                workload.start()
                step.wait(
                    f"workload of {cluster.name}",
                    lambda c=cluster, w=workload: _held(c, w, c.workload_id),  # type: ignore[misc]
                    START_SECONDS,
                )
                step.say(f"{cluster.workload_id}: SVID {milliseconds(began)} after the workload's start")
            for cluster in place.clusters:
                self._entry_to_svid(cluster, step)

    def _entry_to_svid(self, cluster: Cluster, step: Step) -> None:
        """A second entry for a workload whose stream is open: from the request to the push in its hands."""
        began = time.time()
        entry = self._create_entry(cluster, cluster.path + "-canary")
        extra = f"{cluster.workload_id}-canary"
        seen = step.wait(
            f"the canary's SVID in {cluster.name}", lambda: ask(cluster.control, "GET", "/status")["svids"].get(extra)
        )
        step.say(f"{cluster.name}: new entry → its SVID at the running workload in {(seen - began) * 1000:.0f} ms")
        ask(cluster.admin, "DELETE", f"/entries/{entry}")
        step.wait(
            "its withdrawal", lambda: True if extra not in ask(cluster.control, "GET", "/status")["svids"] else None
        )

    def _create_entry(self, cluster: Cluster, path: str) -> str:
        body = {
            "spiffe_id": f"spiffe://{cluster.name}{path}",
            "parent": f"node/{NODE}",
            "selectors": [f"unix:uid:{os.getuid()}"],
            "federates_with": ["*"],
            "owner": cluster.owner,
        }
        return str(ask(cluster.admin, "POST", "/entries", body)["id"])

    def agree(self) -> None:
        with self._screen.step("grants both ways: offered by the hub, accepted by each owner") as step:
            self.grant(step)

    def grant(self, step: Step) -> None:
        place = self._house
        until = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")
        self.grants = []
        for importer, exporter in (self._house.clusters, self._house.clusters[::-1]):
            order = {"importer": importer.name, "exporter": exporter.name, "until": until, "reason": "the demo's story"}
            began = time.time()
            offered = ask(place.hub.admin, "POST", "/grants", order)["id"]
            step.wait(
                f"the offer at {importer.name}",
                lambda i=importer, g=offered: next(  # type: ignore[misc]
                    (True for grant in ask(i.admin, "GET", "/grants")["grants"] if grant["id"] == g), None
                ),
            )
            # As owners do by telephone: the fingerprint comes from the exporter itself, not from the hub.
            fingerprint = ask(exporter.admin, "GET", "/status")["publication_key"]
            offer_time = milliseconds(began)
            accepted = time.time()
            ask(importer.admin, "POST", f"/grants/{offered}/accept", {"fingerprint": fingerprint, "reason": "agreed"})
            self.grants.append((importer, offered))
            step.wait(
                f"the bundle of {exporter.name} at {importer.name}",
                lambda i=importer, e=exporter: ask(i.control, "GET", "/status")["bundles"].get(e.name),  # type: ignore[misc]
            )
            step.say(
                f"{importer.name} accepts {exporter.name}: offered in {offer_time}, key pinned ({fingerprint[:23]}…),"
                f" bundle at the workload {milliseconds(accepted)} after that"
            )


def _ready(process: Process, admin: Path) -> bool | None:
    process.check()
    return True if admin.exists() and ask(admin, "GET", "/ready") else None


def _connected(cluster: Cluster, process: Process) -> bool | None:
    process.check()
    nodes = ask(cluster.admin, "GET", "/nodes")["nodes"]
    return next((True for node in nodes if node["name"] == NODE and node["connected"]), None)


def _held(cluster: Cluster, process: Process, spiffe_id: str) -> bool | None:
    process.check()
    if not cluster.control.exists():
        return None
    return True if ask(cluster.control, "GET", "/status")["spiffe_id"] == spiffe_id else None
