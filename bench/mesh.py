"""The figures of the mesh: a change to every importer, over real streams and in a hub that is full."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import mesh_clusters, mesh_hub
from bench.figures import Run
from bench.procs import BenchError

LIMIT = 400.0


def take(run: Run, directory: Path) -> None:
    """Both workers, one after the other; each is a process of its own."""
    if not any(product.name == "trustfed" for product in run.products):
        return
    for module, report in (("mesh_clusters", _over_streams), ("mesh_hub", _in_process)):
        folder = directory / module
        folder.mkdir(parents=True)
        run.progress(f"mesh: {module.replace('_', ' ')}")
        try:
            report(run, _worker(module, folder))
        except BenchError as error:
            run.report.failures.append(f"trustfed: mesh: {error}")
            run.progress(f"FAILED mesh: {error}")


def _worker(module: str, folder: Path) -> dict[str, Any]:
    argv = [sys.executable, "-m", f"bench.{module}", str(folder)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"bench.{module} took more than {LIMIT:.0f} s") from None
    if done.returncode:
        raise BenchError(f"bench.{module} ended with {done.returncode}: {done.stderr[-400:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _over_streams(run: Run, found: dict[str, Any]) -> None:
    clusters = f"{mesh_clusters.IMPORTERS} importers over gRPC, {2 + mesh_clusters.PROCESSES} processes"
    for name, taken in (
        (f"a gateway or export change → every feed, {clusters}", found["feeds"]),
        ("  of that: to every importing cluster", found["heard"]),
    ):
        _add(run, name, "p50 s", statistics.median(taken))
        _add(run, name, "p99 s", statistics.quantiles(taken, n=100)[98])
    _add(run, "  bytes to each feed for each change", "B", found["bytes"])
    _add(run, "  processor time of each importer and its feed for each change", "s", found["cpu"])
    run.progress(f"{clusters}: {found['cpu'] * 1000:.0f} ms of each importer, {found['bytes']:.0f} B to each feed")


def _in_process(run: Run, found: dict[str, Any]) -> None:
    sizes = mesh_hub.CLUSTERS, mesh_hub.CLUSTERS * mesh_hub.SERVICES, mesh_hub.CLUSTERS * mesh_hub.GATEWAYS
    full = "{:,} clusters, {:,} services, {:,} gateways".format(*sizes)
    for what in ("gateway", "export"):
        name = f"a hub with {full}: {what} change → all {mesh_hub.CLUSTERS - 1} deltas out"
        for seconds in found[what]["seconds"]:
            _add(run, name, "s", seconds)
        run.progress(f"{name}: worst of {len(found[what]['seconds'])} {max(found[what]['seconds']):.3f} s")
    _add(run, "  all of it told to an empty hub", "s", found["load_seconds"])
    _add(run, "  resident memory of that process, its streams included", "MB", found["rss_mb"])
    new = found["newcomer"]
    name = f"one more cluster, imported by all and importing all {mesh_hub.CLUSTERS}"
    _add(run, name, "s", new["seconds"])
    _add(run, "  messages to each other cluster", "messages", new["messages_each"])
    _add(run, "  bytes to each other cluster", "B", new["bytes_each"])
    run.progress(
        f"{name}: {new['seconds']:.2f} s, {new['messages_each']} message to each other, {found['rss_mb']:.0f} MB"
    )


def _add(run: Run, name: str, unit: str, value: float) -> None:
    run.report.add("trustfed", "mesh", name, unit, value)
