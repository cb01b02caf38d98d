"""A cluster's door for feeds over real gRPC, an agent's Workload API, and the feed's own parts, all in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from tests.fakes.routes import FakeRoutes
from tests.fakes.workload_api import FakeWorkloadApi
from tests.fakes.world import DomainWorld
from trustfed.cluster import events as e
from trustfed.cluster.callers import Callers
from trustfed.cluster.fold import cluster_fold
from trustfed.cluster.mesh import feeds
from trustfed.cluster.mesh.feed_door import FeedDoor
from trustfed.cluster.state import ClusterState, Domain
from trustfed.demo.ports import free_port
from trustfed.feed.follow import Follow
from trustfed.feed.identity import IdentitySource
from trustfed.feed.served import Output, Served
from trustfed.feed.state_file import StateFile
from trustfed.journal.events import TypedEvent
from trustfed.journal.memory import MemoryJournal, MemorySnapshots
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.grpc_server import OPTIONS, ServerIdentity
from trustfed.runtime.metrics import Registry

FEED_PATH = "/ns/istio-system/sa/trustfed-feed"
SECONDS = 30.0


class House:
    """`address` is the cluster's door; `allow` and `forbid` are its operator's."""

    def __init__(self, world: DomainWorld, routes: FakeRoutes, folder: Path) -> None:
        self.world, self.routes, self.folder = world, routes, folder
        self.clock, self.registry = SystemClock(), Registry()
        self.fold = cluster_fold(
            MemoryJournal(), MemorySnapshots(), ClusterState(domain=Domain("i", str(world.trust_domain), "k", b""))
        )
        self._bundle = world.bundle
        self.door = FeedDoor(
            self.fold,
            Callers(lambda: self._bundle, self.clock),
            routes,
            self.clock.now,
            self.clock,
            self.registry,
        )
        self.agent = FakeWorkloadApi(world)
        self.socket = folder / "agent.sock"
        self.address = ""
        self._server: Any = None

    @property
    def feed_id(self) -> str:
        return f"spiffe://{self.world.trust_domain}{FEED_PATH}"

    async def open(self, path: str = "/trustfed/cluster") -> None:
        """Open, or open again, the cluster's door at one address."""
        identity = ServerIdentity(await self.world.svid(path, chain="leaf"), [self.world.twin])
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers((self.door.handlers(),))
        self.address = self.address or f"127.0.0.1:{free_port()}"
        self._server.add_secure_port(self.address, identity.credentials())
        await self._server.start()

    async def shut(self) -> None:
        await self._server.stop(0)

    async def allow(self, id_: str = "") -> None:
        await self.record(lambda state: feeds.allow(state, id_ or self.feed_id, self.clock.now()))

    async def forbid(self, id_: str = "") -> None:
        await self.record(lambda state: feeds.forbid(state, id_ or self.feed_id, self.clock.now()))

    async def record(self, decide: Callable[[ClusterState], list[TypedEvent]]) -> None:
        command = f"c{self.fold.position}"
        for record in await self.fold.execute(decide, command_id=command, actor="test", now=self.clock.now()):
            self.door.on_event(e.CODEC.decode(record.event))


class Running:
    """The feed's parts without its doors."""

    def __init__(self, house: House, name: str, addresses: list[str], *outputs: Output) -> None:
        folder = house.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        clock, domain = house.clock, house.world.trust_domain
        self.file = StateFile(folder, str(domain))
        self.served = Served(self.file, outputs, clock, Registry())
        self.source = IdentitySource(house.socket, domain, None, clock, lambda: 0.05)
        self.follow = Follow(addresses, domain, self.source, self.served, clock, lambda: 0.05)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Running:
        await self.served.load()
        self._tasks = [asyncio.create_task(job) for job in (self.source.run(), self.follow.run())]
        return self

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def keys(self) -> set[str]:
        return set(self.served.state.resources) if self.served.state else set()


@asynccontextmanager
async def house(folder: Path, routes: FakeRoutes, *, allowed: bool = True) -> AsyncIterator[House]:
    made = House(await DomainWorld.make("west"), routes, folder)
    await made.fold.start()
    await made.open()
    await made.agent.open(made.socket)
    await made.agent.push(FEED_PATH)
    if allowed:
        await made.allow()
    try:
        yield made
    finally:
        await made.agent.close()
        await made.shut()
        await made.fold.close()


@asynccontextmanager
async def feed(
    house: House, *outputs: Output, name: str = "feed", more: tuple[str, ...] = ()
) -> AsyncIterator[Running]:
    running = await Running(house, name, [*more, house.address], *outputs).start()
    try:
        yield running
    finally:
        await running.stop()


async def until(look: Callable[[], Any], what: str) -> Any:
    """What `look` gives once it is true."""
    end = asyncio.get_running_loop().time() + SECONDS
    while not (found := look()):
        assert asyncio.get_running_loop().time() < end, f"{what} did not come"
        await asyncio.sleep(0.01)
    return found
