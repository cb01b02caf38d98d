"""The feed's memory: a real feed process, both outputs open, a reader like istiod's, routes over mTLS from a cluster's door."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from bench.figures import Run
from bench.procs import BenchError, Process, anonymous, resident
from tests.fakes.feed_house import House, house
from tests.fakes.istiod import Istiod
from tests.fakes.routes import FakeRoutes, destination_rule, service_entry
from trustfed.demo.ports import free_port

SIZES = (500, 2_000)
ENDPOINTS = 3  # more than one, as for a service behind several gateways
SETTLE_SECONDS = 6.0
"""The feed gives back after 3 s what only its start, or a burst of changes, needed."""
CHANGES = 50
_NAME = "feed"


def take(run: Run) -> None:
    """Resident memory with so many resources, at rest and after changes while an istiod reads."""
    for size in SIZES:
        try:
            asyncio.run(_take(run, size))
        except (BenchError, AssertionError) as error:
            for product in run.products:
                run.failed(product, f"feed with {size} resources", str(error))


async def _take(run: Run, size: int) -> None:
    entries = [service_entry(f"s{number}", pad=ENDPOINTS) for number in range(size // 2)]
    routes = FakeRoutes(*entries, *(destination_rule(f"s{number}") for number in range(size // 2)))
    with tempfile.TemporaryDirectory(prefix="tf-") as directory:
        async with house(Path(directory), routes) as cluster:
            address = f"127.0.0.1:{free_port()}"
            feed = Process(_NAME, _argv(cluster, address), Path(directory) / "feed.log")
            istiod = Istiod(address)
            try:
                istiod.start()
                await istiod.until(lambda i: sum(map(len, i.store.values())) == size, f"{size} resources", 60)
                await asyncio.sleep(SETTLE_SECONDS)
                _add(run, feed, f"feed with {size:,} resources, at rest")
                for number in range(CHANGES):
                    changed = service_entry(f"s{number}", weight=7, pad=ENDPOINTS)
                    routes.put(changed)
                    await istiod.until(lambda i, v=changed.version: _holds(i, v), "a change", 60)
                await asyncio.sleep(SETTLE_SECONDS)
                _add(run, feed, f"feed with {size:,} resources, after {CHANGES} changes")
            finally:
                await istiod.stop()
                await asyncio.to_thread(feed.stop)


def _holds(istiod: Istiod, version: str) -> bool:
    return any(held.version == version for kinds in istiod.store.values() for held in kinds.values())


def _add(run: Run, feed: Process, name: str) -> None:
    megabytes = resident(feed.pid)
    run.report.add("trustfed", "memory", name, "MB", megabytes)
    run.report.add("trustfed", "memory", name, "anonymous MB", anonymous([feed.pid]))
    run.progress(f"{name}: {megabytes:.1f} MB")


def _argv(cluster: House, mcp: str) -> list[str]:
    config = cluster.folder / "feed.toml"
    lines = [
        f'trust_domain = "{cluster.world.trust_domain}"',
        f'cluster = ["{cluster.address}"]',
        f'workload_socket = "{cluster.socket}"',
        f'data_dir = "{cluster.folder / "data"}"',
        "[output]",
        f'directory = "{cluster.folder / "istio"}"',
        f'mcp = "{mcp}"',
    ]
    config.write_text("\n".join(lines) + "\n")
    return [sys.executable, "-P", "-m", "trustfed.feed", "serve", "--config", str(config)]
