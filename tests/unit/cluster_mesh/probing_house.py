"""A cluster with routes to probe, a prober that does as it is told, and domains whose services answer it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.fakes.clocks import ManualClock
from tests.fakes.domain import Domain, leaf, new_key
from tests.fakes.journals import FaultyJournal
from trustfed.cluster import events as e
from trustfed.cluster.fold import cluster_fold
from trustfed.cluster.mesh.courses import Courses
from trustfed.cluster.mesh.events import RouteGone, RouteTold
from trustfed.cluster.mesh.prober import NoAnswer
from trustfed.cluster.mesh.probing import Probing
from trustfed.cluster.mesh.service_probes import ServiceProbes
from trustfed.cluster.state import ClusterState
from trustfed.errors import Unavailable
from trustfed.federation.mesh import Export, Gateway, Item, ServicePort, kind_of, write_item
from trustfed.journal.memory import MemorySnapshots
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.ids import SpiffeId

HOME = "home.test"


@dataclass
class FakeProber:
    """Answers from a table, with faults; loopback and clocks have no part in it."""

    round_trips: dict[str, float | None] = field(default_factory=dict)  # by address; None: no connection
    shown: dict[tuple[str, str], Sequence[bytes] | None] = field(default_factory=dict)  # by address and server name
    connected: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    open: int = 0
    most_open: int = 0

    async def connect(self, address: str, port: int, seconds: float) -> float:
        self.connected.append(address)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        took = self.round_trips.get(address, 0.01)
        if took is None:
            raise Unavailable(f"{address} port {port} does not take a connection")
        return took

    async def ask(self, address: str, port: int, server_name: str, seconds: float) -> tuple[bytes, ...]:
        self.asked.append((address, server_name))
        if self.round_trips.get(address, 0.01) is None:
            raise Unavailable(f"{address} port {port} does not take a connection")
        chain = self.shown.get((address, server_name))
        if chain is None:
            raise NoAnswer(f"{address} answered the handshake for {server_name} with nothing")
        return tuple(chain)


def at_once(least: float, most: float) -> float:
    """In place of chance: nothing waits."""
    return least


class ProbingHouse:
    """`await make()`, `close()`; `again()` is another process with the same journal."""

    def __init__(self, journal: FaultyJournal, clock: ManualClock, prober: FakeProber) -> None:
        self.journal, self.clock, self.prober, self.registry = journal, clock, prober, Registry()
        self.fold = cluster_fold(journal, MemorySnapshots())
        self.courses = Courses()
        self.probing = Probing(self.fold, prober, 5.0, 2.0, clock, self.registry, at_once, self.courses)
        self.services = ServiceProbes(self.fold, prober, self.courses, 600.0, 2.0, clock, self.registry, at_once)

    @classmethod
    async def make(cls) -> ProbingHouse:
        clock = ManualClock(datetime.now(UTC).replace(microsecond=0))
        made = cls(FaultyJournal(), clock, FakeProber())
        await made.fold.start()
        await made.record(e.Keyed("instance-1", HOME, "publication", b"key", clock.now()))
        return made

    async def again(self) -> ProbingHouse:
        await self.close()
        made = ProbingHouse(self.journal, self.clock, self.prober)
        await made.fold.start()
        return made

    async def close(self) -> None:
        await self.fold.close()

    @property
    def state(self) -> ClusterState:
        return self.fold.state

    async def record(self, *events: Any) -> None:
        await self.fold.execute(lambda s: events, command_id=os.urandom(8).hex(), actor="test", now=self.clock.now())

    async def told(self, exporter: str, *items: Item) -> None:
        for item in items:
            event = RouteTold(exporter, kind_of(item), item.name, write_item(item), 1, b"key", self.clock.now())
            await self.record(event)

    async def gone(self, exporter: str, kind: str, name: str) -> None:
        await self.record(RouteGone(exporter, kind, name, "withdrawn", self.clock.now()))

    async def trusted(self, domain: Domain) -> None:
        """A grant by which its identities are accepted, and its bundle."""
        now, pinned = self.clock.now(), domain.publication_key.spki
        await self.record(
            e.GrantOffered(domain.name, HOME, domain.name, now, now + timedelta(days=30), "test", pinned, 0),
            e.GrantAccepted(domain.name, pinned, now),
            e.PeerBundle(domain.name, pinned, domain.epoch, domain.sequence, domain.envelope().data, 0, now),
        )

    async def rounds(self, count: int = 1, apart: float = 5.0) -> None:
        for _ in range(count):
            await self.probing.round()
            self.clock.move(apart)

    def judged(self) -> dict[str, tuple[bool, int]]:
        """What the journal says, by gateway name."""
        return {event.name: (event.up, event.weight) for event in self.state.mesh.gateways.values()}

    async def decisions(self) -> list[Any]:
        """The judgements in the journal, as they were made."""
        records = await self.journal.read(0, 1_000)
        return [record.event.body for record in records if record.event.kind.endswith(".judged")]


def gateway(name: str, address: str, port: int = 15443) -> Gateway:
    return Gateway(name, address, port, "net-1")


def export(domain: str, name: str = "payments", *, port: int = 8080) -> Export:
    host = f"{name}.shop.svc.cluster.local"
    answers, callers = (f"spiffe://{domain}/ns/shop/sa/{name}",), (f"spiffe://{HOME}",)
    return Export(host, (ServicePort(port, "http", "HTTP"),), answers, callers, {"app": name})


def certificate(domain: Domain, path: str = "/ns/shop/sa/payments") -> list[bytes]:
    """A leaf of a domain, as its sidecar shows it."""
    id_ = SpiffeId.of(domain.trust_domain, path)
    return [leaf(domain.authorities[-1], id_, new_key().public_key(), timedelta(hours=1))]
