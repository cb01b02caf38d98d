"""50 importing clusters, each with a feed, at a real hub process: from a change at an exporter to each of the feeds.

Four processes: the hub; this one, the exporting cluster; two with 25 importers each (bench.mesh_importers). Everything between is
real: gRPC with mTLS, statements that are signed and verified, grants of both sides, rendering, digests. Two figures are taken of
each change: when it was heard at a cluster, and when its feed had what istiod is to be given.

    python -m bench.mesh_clusters FOLDER     prints one line of JSON
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.mesh_hub import GATEWAYS, SERVICES, export, gateway
from bench.mesh_importers import EXPORTER, sync
from bench.procs import BenchError, resident
from tests.fakes.mesh_world import signed, told
from tests.system.hub_world import Cluster, HubProcess
from trustfed.federation.mesh import Export, Item
from trustfed.proto import federation_pb2 as pb

IMPORTERS, PROCESSES, CHANGES = 50, 2, 30
_LIMIT = 60.0
_LINE = 1 << 20


def offered(number: int, mark: int = 0) -> Export:
    """A service that every importer may call; `mark` is among those who answer it."""
    one = export(EXPORTER, number)
    marks = (f"spiffe://{EXPORTER}/ns/shop/sa/m{mark}",) if mark else ()
    callers = tuple(f"spiffe://c{n}" for n in range(1, IMPORTERS + 1))
    return replace(one, callers=callers, answers=(*one.answers, *marks))


class Exporter:
    """The cluster that changes, and what the importers say."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self._sequence = cluster, 0
        self._workers: list[asyncio.subprocess.Process] = []
        self.lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._jobs: list[asyncio.Task[None]] = []

    async def say(self, call: Any, *items: Item) -> None:
        """Tell the hub of these."""
        domain, report = self.cluster.domain, pb.MeshReport()
        name = domain.trust_domain.name
        for item in items:
            self._sequence += 1
            report.items.append(told(await signed(domain.keys, "publication", name, domain.key, item, self._sequence)))
        await call.write(pb.FromCluster(mesh=report))

    async def start(self, hub: HubProcess, folder: Path) -> None:
        """Start the importers' processes."""
        key = self.cluster.domain.key
        each = IMPORTERS // PROCESSES
        for number in range(PROCESSES):
            argv = [sys.executable, "-m", "bench.mesh_importers", str(folder / f"importers-{number}")]
            pipe = asyncio.subprocess.PIPE
            worker = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, limit=_LINE)
            order = {
                "first": 1 + number * each,
                "last": 1 + (number + 1) * each,
                "addresses": hub.addresses,
                "exporter_key": base64.b64encode(key.spki).decode(),
                "fingerprint": key.fingerprint,
            }
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(order).encode() + b"\n")
            self._workers.append(worker)
            self._jobs.append(asyncio.create_task(self._read(worker)))

    async def _read(self, worker: asyncio.subprocess.Process) -> None:
        assert worker.stdout is not None
        async for line in worker.stdout:
            said = json.loads(line)
            if "grant" in said:
                await self.cluster.decide(said["grant"], "accept", said["fingerprint"])
            else:
                self.lines.put_nowait(said)
        self.lines.put_nowait({"ended": await worker.wait()})

    async def until(self, mark: int, *, whole: bool = False) -> list[dict[str, Any]]:
        """The first line of each importer that holds the change with this mark; `whole`: that holds everything."""
        found: dict[str, dict[str, Any]] = {}
        async with asyncio.timeout(_LIMIT):
            while len(found) < IMPORTERS:
                line = await self.lines.get()
                if "ended" in line:
                    raise BenchError(f"a process of importers ended with {line['ended']}")
                if line["mark"] >= mark and (line["whole"] or not whole):
                    found.setdefault(line["importer"], line)
        return list(found.values())

    async def stop(self) -> float:
        """End the importers; their memory in MB."""
        total = 0.0
        for worker in self._workers:
            if worker.returncode is None and worker.stdin is not None:
                worker.stdin.close()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        while not self.lines.empty():
            total += self.lines.get_nowait().get("rss_mb", 0.0)
        return total


async def measure(hub: HubProcess) -> dict[str, Any]:
    """Everything, at a hub that runs."""
    exporter = Exporter(await Cluster.enrolled(hub, EXPORTER))
    await exporter.start(hub, hub.folder)
    feeds: list[float] = []
    heard: list[float] = []
    try:
        async with sync(exporter.cluster) as call:
            gateways = [gateway(EXPORTER, number) for number in range(GATEWAYS)]
            await exporter.say(call, *gateways, *[offered(number) for number in range(SERVICES)])
            first = last = await exporter.until(0, whole=True)
            for change in range(CHANGES):
                mark = 20_000 + change
                begun = time.monotonic()
                await exporter.say(call, gateway(EXPORTER, 0, mark) if change % 2 else offered(0, mark))
                last = await exporter.until(mark)
                feeds += [line["at"] - begun for line in last]
                heard += [line["heard"] - begun for line in last]
    finally:
        importers_mb = await exporter.stop()
    assert hub.process is not None
    each = IMPORTERS * CHANGES
    return {
        "heard": heard,
        "feeds": feeds,
        "bytes": (_total(last, "sent") - _total(first, "sent")) / each,
        "cpu": (_of_processes(last) - _of_processes(first)) / each,
        "rss_mb": resident(hub.process.pid),
        "importers_mb": importers_mb,
    }


def _total(lines: list[dict[str, Any]], what: str) -> float:
    return float(sum(line[what] for line in lines))


def _of_processes(lines: list[dict[str, Any]]) -> float:
    """Seconds of processor time that the importers had used when the last of them said this."""
    used: dict[int, float] = {}
    for line in lines:
        used[line["pid"]] = max(line["cpu"], used.get(line["pid"], 0.0))
    return sum(used.values())


def main(folder: Path) -> None:
    hub = HubProcess(folder)
    assert hub.run("init").returncode == 0
    hub.start()
    try:
        print(json.dumps(asyncio.run(measure(hub))), flush=True)
    finally:
        hub.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
