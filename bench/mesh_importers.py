"""Some importing clusters and the feed of each, in one process: the product's own hearing, rendering, feed door and feed.

From a hub's stream over mTLS each takes routes (trustfed.cluster.mesh.hearing), renders them (…routes), and hands them to a feed
(…feed_door, trustfed.feed.follow) over a gRPC stream of its own, with mTLS too. What is left out is disks: journals are in
memory, and the feed's files are not written.

    python -m bench.mesh_importers FOLDER < {"first":…, "last":…, "addresses":…, "exporter_key":…}     prints lines of JSON
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio

from bench.mesh_hub import SERVICES, export
from bench.procs import resident
from tests.fakes.mesh_world import signed, told
from tests.fakes.world import DomainWorld
from tests.system.hub_world import Cluster, HubProcess
from trustfed.cluster import events as e
from trustfed.cluster.callers import Callers
from trustfed.cluster.fold import cluster_fold
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.cluster.mesh.events import FeedAllowed, LocalSeen, MeshPut
from trustfed.cluster.mesh.feed_door import FeedDoor
from trustfed.cluster.mesh.hearing import Hearing
from trustfed.cluster.mesh.routes import Routes
from trustfed.cluster.state import ClusterState, Domain
from trustfed.federation.mesh import Import, write_item
from trustfed.feed.follow import Follow
from trustfed.feed.identity import Identity
from trustfed.feed.intake import State
from trustfed.hub.rpc import SERVICE
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.journal.memory import MemoryJournal, MemorySnapshots
from trustfed.proto import federation_pb2 as fed
from trustfed.proto import mesh_pb2 as pb
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.grpc_server import OPTIONS, ServerIdentity
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.ids import SpiffeId

EXPORTER, MARK = "c0", re.compile(rb"(?<!\d)2\d{4}(?!\d)")
"""Each change puts a number from 20,000 on into what is rendered."""
SENT = re.compile(rb"^trustfed_mesh_feed_sent_bytes_total (\d+)", re.M)
FEED_PATH = "/ns/istio-system/sa/trustfed-feed"


@contextlib.asynccontextmanager
async def sync(cluster: Cluster) -> AsyncIterator[Any]:
    """A stream to the hub, without a limit in time; it was greeted."""
    async with cluster.channel() as channel:
        method = f"/{SERVICE}/Sync"
        call = channel.stream_stream(method, fed.FromCluster.SerializeToString, fed.FromHub.FromString)()
        await call.write(fed.FromCluster(hello=fed.ClusterHello(protocol_min=1, protocol_max=1)))
        yield call


class Source:
    """The identity of a feed, as its agent would give it."""

    error = ""

    def __init__(self, identity: Identity) -> None:
        self.current, self.changed = identity, asyncio.Event()


class Importer:
    """One cluster; as trustfed.feed.served it stands behind its feed, and says when something came."""

    def __init__(self, cluster: Cluster, world: DomainWorld) -> None:
        self._cluster, self._world, self.name = cluster, world, cluster.domain.trust_domain.name
        self._clock, self._registry, self._heard = SystemClock(), Registry(), 0.0
        self._fold: Fold[ClusterState] = cluster_fold(
            MemoryJournal(), MemorySnapshots(), ClusterState(domain=Domain("i", self.name, "k", b""))
        )
        self.state: State | None = None

    async def start(self, exporter_key: bytes) -> None:
        """Agree on this side, open the door, start the feed; the jobs go on."""
        await self._fold.start()
        item = Import("from-c0", EXPORTER, group="shared")
        await self._record(*self._history(item, exporter_key))
        parts = self._fold, MeshConfig().reach(), self._clock, self._registry
        self._hearing = Hearing(*parts)
        self._routes = Routes(self._fold, MeshConfig(), self._clock, self._registry)
        bundle = self._world.bundle
        callers = Callers(lambda: bundle, self._clock)
        clock, registry = self._clock, self._registry
        self._door = FeedDoor(self._fold, callers, self._routes, lambda: self._hearing.heard_at, clock, registry)
        identity = ServerIdentity(await self._world.svid("/trustfed/cluster", chain="leaf"), [self._world.twin])
        self.server = grpc.aio.server(options=OPTIONS)
        self.server.add_generic_rpc_handlers((self._door.handlers(),))
        port = self.server.add_secure_port("127.0.0.1:0", identity.credentials())
        await self.server.start()
        feed = SpiffeId.of(self._world.trust_domain, FEED_PATH)
        pair, end = await self._world.svid(FEED_PATH), self._clock.now() + timedelta(hours=1)
        source: Any = Source(Identity(feed, pair, end, bundle))
        follow = Follow([f"127.0.0.1:{port}"], self._world.trust_domain, source, self, clock, lambda: 0.5)
        jobs = (self._follow(), self._hearing.run(), self._routes.run(), follow.run(), self._hear(item))
        self.jobs = [asyncio.create_task(job) for job in jobs]

    def _history(self, item: Import, key: bytes) -> list[TypedEvent]:
        now, own = self._clock.now(), self.name
        until = now + timedelta(days=1)
        return [
            e.GrantOffered("in", own, EXPORTER, now, until, "", key, 0),
            e.GrantAccepted("in", key, now),
            e.GrantOffered("out", EXPORTER, own, now, until, "", b"k", 0),
            e.GrantConfirmed("out", 0),
            MeshPut("import", item.name, write_item(item), 1, "command", now),
            *(LocalSeen(export(EXPORTER, n).host, "absent", (), b"[]", "command", now) for n in range(SERVICES)),
            FeedAllowed(f"spiffe://{own}{FEED_PATH}", now),
        ]

    async def _record(self, *events: TypedEvent) -> None:
        now = self._clock.now()
        await self._fold.execute(lambda _: list(events), command_id="first", actor="bench", now=now)

    async def _follow(self) -> None:
        async for _, event in self._fold.subscribe(self._fold.position):
            for part in (self._hearing, self._routes, self._door):
                part.on_event(event)

    async def _hear(self, item: Import) -> None:
        domain = self._cluster.domain
        said = told(await signed(domain.keys, "publication", self.name, domain.key, item, 1))
        async with sync(self._cluster) as call:
            await call.write(fed.FromCluster(mesh=fed.MeshReport(items=[said])))
            while (message := await call.read()) is not grpc.aio.EOF:
                if message.WhichOneof("message") == "routes":
                    self._heard = time.monotonic()
                    refused = await self._hearing.routes(message)
                    assert not any(refused.values()), refused

    def sent(self) -> int:
        """Bytes of resources that its feed was sent."""
        found = SENT.search(self._registry.exposition())
        return int(found[1]) if found else 0

    @property
    def applied(self) -> pb.Applied:
        """Nothing is told of what was applied."""
        return pb.Applied()

    async def take(self, state: State) -> None:
        """What a feed would write for its istiod."""
        changed = state.changed(self.state or State())
        self.state = state
        marks = [
            int(m) for key in changed if key in state.resources for m in MARK.findall(state.resources[key].manifest)
        ]
        whole = sum(key.startswith("ServiceEntry/") for key in state.resources) == SERVICES
        say(
            importer=self.name,
            mark=max(marks, default=0),
            whole=whole,
            heard=self._heard,
            at=time.monotonic(),
            cpu=time.process_time(),
            pid=os.getpid(),
            sent=self.sent(),
        )

    def confirmed(self, confirmed_ms: int) -> None:
        """The hub stands by it."""


def say(**line: object) -> None:
    """To the process that takes the figures."""
    print(json.dumps(line), flush=True)


async def serve(folder: Path, order: dict[str, Any]) -> None:
    """Enrol at the hub, offer and accept grants, then import until standard input ends."""
    hub = HubProcess(folder)
    hub.addresses = order["addresses"]
    importers = []
    for number in range(order["first"], order["last"]):
        cluster = await Cluster.enrolled(hub, f"c{number}")
        name = cluster.domain.trust_domain.name
        grant = await asyncio.to_thread(hub.grant, name, EXPORTER)
        await cluster.decide(grant, "accept", order["fingerprint"])
        other = await asyncio.to_thread(hub.grant, EXPORTER, name)
        say(grant=other, fingerprint=cluster.domain.key.fingerprint)
        importers.append(Importer(cluster, await DomainWorld.make(name)))
    for importer in importers:
        await importer.start(base64.b64decode(order["exporter_key"]))
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    jobs = [job for importer in importers for job in importer.jobs]
    await asyncio.wait([ended, *jobs], return_when=asyncio.FIRST_COMPLETED)
    for job in jobs:
        if job.done():
            job.result()
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    await asyncio.gather(*(importer.server.stop(5) for importer in importers))
    say(rss_mb=resident(os.getpid()))


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(folder, json.loads(sys.stdin.readline())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
