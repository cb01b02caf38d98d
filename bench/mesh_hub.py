"""A hub with 500 clusters, 2,000 services and 10,000 gateways, and a stream in this process for each cluster.

Everything but the network is the hub's own: statements are verified and judged, events are appended to SQLite, folded and
relayed, each stream serialises what it is sent. Each cluster imports from 20 others, and all of them from the first one,
whose gateway and export then change.

    python -m bench.mesh_hub FOLDER     prints one line of JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from bench.procs import resident
from trustfed.federation import dsse
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.mesh import Export, Gateway, Import, Item, ServicePort, kind_of
from trustfed.federation.mesh_statement import PAYLOAD_TYPE, _payload, payload_to_sign
from trustfed.hub import events as e
from trustfed.hub.mesh.compose import HubMeshParts
from trustfed.hub.mesh.pending import MeshPending
from trustfed.hub.mesh.reports import Reports
from trustfed.hub.state import HubState, apply
from trustfed.journal.fold import Fold
from trustfed.journal.sqlite import open_store
from trustfed.journal.table import decode_state, encode_state
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain

CLUSTERS, GATEWAYS, SERVICES, NEIGHBOURS = 500, 20, 4, 20
CHANGES = 40
LIMIT = 180.0


@dataclass(eq=False)
class Stream:
    """One connected cluster; what it is sent is serialised, counted and thrown away."""

    domain: str
    mesh: MeshPending = field(default_factory=MeshPending)
    messages: int = 0
    routes: int = 0
    bytes: int = 0
    last: float = 0.0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def mark(self) -> None:
        self._wake.set()

    async def run(self, hub: Hub) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for message in hub.mesh.relay.take(self):
                self.bytes += len(message.SerializeToString())
                self.messages += 1
                self.routes += len(message.routes.upsert) + len(message.routes.remove)
                self.last = time.monotonic()
                await asyncio.sleep(0)

    def reset(self) -> None:
        self.messages = self.routes = self.bytes = 0


class Hub:
    """What trustfed.hub.compose makes, without doors; it stands in for trustfed.hub.operations.Operations too."""

    def __init__(self, fold: Fold[HubState]) -> None:
        self.fold, self.clock = fold, SystemClock()
        self.streams: dict[str, Stream] = {}
        self.mesh = HubMeshParts(self, self, self.clock)  # type: ignore[arg-type]
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.sequences: dict[str, int] = {}
        self.reports: dict[str, Reports] = {}
        self.jobs = [asyncio.create_task(self.follow()), asyncio.create_task(self.mesh.intake.run())]

    @property
    def state(self) -> HubState:
        return self.fold.state

    def views(self, domain: str) -> Sequence[Stream]:
        stream = self.streams.get(domain)
        return (stream,) if stream is not None else ()

    def all_views(self) -> Sequence[Stream]:
        return tuple(self.streams.values())

    async def hear_mesh(self, domain: str, decide: Any) -> None:
        await self._execute(decide)

    async def record(self, *events: Any) -> None:
        for start in range(0, len(events), 1_000):
            some = events[start : start + 1_000]
            await self._execute(lambda state, some=some: some)

    async def _execute(self, decide: Any) -> None:
        await self.fold.execute(decide, command_id=os.urandom(8).hex(), actor="bench", now=datetime.now(UTC))

    async def follow(self) -> None:
        async for position, event in self.fold.subscribe(0):
            self.mesh.on_event(position, event, self.state)

    def enrol(self, name: str) -> list[Any]:
        key = self.keys[name] = ec.generate_private_key(ec.SECP256R1())
        spki = PublicationKey.of(key.public_key()).spki
        at = to_ms(self.clock.now())
        return [e.DomainInvited(name, "bench", [], name, at), e.DomainEnrolled(name, name, spki, "a", "h", at)]

    def agree(self, one: str, other: str) -> list[Any]:
        """Accepted grants in both directions."""
        now = self.clock.now()
        events: list[Any] = []
        for importer, exporter in ((one, other), (other, one)):
            id_ = f"{importer}-{exporter}"
            events.append(e.GrantOffered(id_, importer, exporter, to_ms(now), to_ms(now + timedelta(days=1)), "bench"))
            events.append(e.GrantAccepted(id_, "bench", "sha256:0"))
        return events

    def report(self, name: str, *items: Item) -> None:
        """A cluster says this, over its stream."""
        said = pb.MeshReport()
        domain, key = TrustDomain(name), self.keys[name]
        public = PublicationKey.of(key.public_key())
        for item in items:
            sequence = self.sequences[name] = self.sequences.get(name, 0) + 1
            signature = key.sign(payload_to_sign(domain, item, sequence), ec.ECDSA(SHA256()))
            payload = _payload(domain, item, sequence)
            data = dsse.encode(PAYLOAD_TYPE, payload, [dsse.Signature(public.key_id, signature)])
            said.items.add(kind=kind_of(item), name=item.name, sequence=sequence, statement=data)
        self.reports[name].put(said)

    def join(self, name: str) -> None:
        """A cluster connects."""
        self.streams[name] = Stream(name)
        self.reports[name] = Reports(self.mesh.intake, name)
        self.jobs.append(asyncio.create_task(self.streams[name].run(self)))
        self.jobs.append(asyncio.create_task(self.reports[name].run()))

    def items(self) -> int:
        """How many gateways, exports and imports are recorded."""
        return sum(len(said) for said in self.state.mesh.domains.values())

    def idle(self) -> bool:
        """Whether every stream has been sent all there is."""
        return not any(stream.mesh.routes or stream.mesh.whole for stream in self.streams.values())

    async def until(self, count: int) -> None:
        """Until so many items are recorded and every stream is idle."""
        end = time.monotonic() + LIMIT
        while self.items() < count or not self.idle():
            if time.monotonic() > end:
                raise TimeoutError("the hub did not take all that was said")
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)


def gateway(name: str, number: int, port: int = 15443) -> Gateway:
    place = sum(map(ord, name)) % 200 + 1
    return Gateway(f"gw-{number}", f"198.51.{place}.{number + 1}", port, name, f"region-{place}/zone-{number % 3}")


def export(name: str, number: int, callers: int = 1) -> Export:
    return Export(
        host=f"s{number}-{name}.shop.svc.cluster.local",
        ports=(ServicePort(8080, "http", "HTTP"), ServicePort(9090, "grpc", "GRPC")),
        answers=(f"spiffe://{name}/ns/shop/sa/s{number}",),
        callers=tuple(f"spiffe://caller-{n}.example" for n in range(callers)),
        workload={"app": f"s{number}"},
        groups=("shared",),
    )


async def serve(folder: Path) -> dict[str, Any]:
    """Fill a hub, and take the figures."""
    store = open_store(folder)
    fold = Fold(
        store.journal,
        store.snapshots,
        HubState(),
        apply,
        e.codec(),
        encode_state,
        lambda data: decode_state(data, HubState),
        e.SCHEMA,
    )
    await fold.start()
    hub = Hub(fold)
    names = [f"c{number}" for number in range(CLUSTERS)]
    found = await _filled(hub, names)
    for what in ("gateway", "export"):
        found[what] = await _changed(hub, names[0], what)
    found["newcomer"] = await _one_more(hub, names)
    found["rss_mb"] = resident(os.getpid())
    for job in hub.jobs:
        job.cancel()
    await asyncio.gather(*hub.jobs, return_exceptions=True)
    await fold.close()
    await store.close()
    return found


async def _filled(hub: Hub, names: Sequence[str]) -> dict[str, Any]:
    """Every cluster tells all that it has to a hub that holds nothing."""
    pairs = {(n, (n + step) % CLUSTERS) for n in range(CLUSTERS) for step in range(1, NEIGHBOURS + 1)}
    pairs |= {(n, 0) for n in range(1, CLUSTERS)}
    both = {(min(one, other), max(one, other)) for one, other in pairs}
    await hub.record(e.HubCreated("bench", "bench-hub"), *[event for name in names for event in hub.enrol(name)])
    await hub.record(*[event for one, other in both for event in hub.agree(names[one], names[other])])
    for name in names:
        hub.join(name)
    wanted: dict[int, list[Import]] = {}
    for one, other in pairs:
        wanted.setdefault(one, []).append(Import(f"from-{names[other]}", names[other], group="shared"))
    begun = time.monotonic()
    for number, name in enumerate(names):
        gateways = [gateway(name, n) for n in range(GATEWAYS)]
        hub.report(name, *gateways, *[export(name, n) for n in range(SERVICES)], *wanted[number])
        await asyncio.sleep(0)
    items = CLUSTERS * (GATEWAYS + SERVICES) + len(pairs)
    await hub.until(items)
    return {"load_seconds": time.monotonic() - begun, "items": items}


async def _changed(hub: Hub, first: str, what: str) -> dict[str, Any]:
    """Changes of one cluster that all others import from."""
    importers = [stream for name, stream in hub.streams.items() if name != first]
    taken, sizes = [], []
    for change in range(CHANGES):
        for stream in hub.streams.values():
            stream.reset()
        item = gateway(first, 0, 20_000 + change) if what == "gateway" else export(first, 0, change % 9 + 1)
        begun = time.monotonic()
        hub.report(first, item)
        while any(not stream.messages for stream in importers):
            if time.monotonic() > begun + LIMIT:
                raise TimeoutError("a change did not reach every importer")
            await asyncio.sleep(0)
        taken.append(max(stream.last for stream in importers) - begun)
        sizes.append(sum(stream.bytes for stream in importers) / len(importers))
        if hub.streams[first].messages or any(stream.routes != 1 for stream in importers):
            raise ValueError("a change reached others than its importers, or more than once")
    return {"seconds": taken, "bytes": sizes}


async def _one_more(hub: Hub, names: Sequence[str]) -> dict[str, Any]:
    """A further cluster, which all import from and which imports from all, connects and says what it has."""
    newcomer, before = "newcomer", hub.items()
    await hub.record(*hub.enrol(newcomer))
    await hub.record(*[event for name in names for event in hub.agree(newcomer, name)])
    for name in names:
        hub.report(name, Import("from-newcomer", newcomer, group="shared"))
    await hub.until(before + CLUSTERS)
    for stream in hub.streams.values():
        stream.reset()
    hub.join(newcomer)
    wanted = [Import(f"from-{name}", name, group="shared") for name in names]
    begun = time.monotonic()
    hub.report(newcomer, *[gateway(newcomer, n) for n in range(GATEWAYS)], export(newcomer, 0), *wanted)
    await hub.until(before + CLUSTERS + GATEWAYS + 1 + len(wanted))
    others, own = [stream for name, stream in hub.streams.items() if name != newcomer], hub.streams[newcomer]
    return {
        "seconds": max(stream.last for stream in hub.streams.values()) - begun,
        "messages_each": max(stream.messages for stream in others),
        "bytes_each": max(stream.bytes for stream in others),
        "own_messages": own.messages,
        "own_routes": own.routes,
        "own_bytes": own.bytes,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(serve(Path(sys.argv[1])))), flush=True)
