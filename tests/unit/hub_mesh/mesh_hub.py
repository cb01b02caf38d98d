"""A hub's mesh over memory drivers: domains that report, importers that read."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from dataclasses import dataclass, field

from tests.fakes.mesh_world import Reader, gone, signed, told
from tests.unit.hub.hub_parts import HubParts, settle
from tests.unit.hub.newcomer import Newcomer
from trustfed.errors import TrustfedError
from trustfed.federation.mesh import Item, kind_of
from trustfed.federation.mesh_digest import digest
from trustfed.hub.mesh.compose import HubMeshParts
from trustfed.hub.mesh.relaying import NOTHING
from trustfed.hub.mesh.reports import Reports
from trustfed.hub.relay import View
from trustfed.journal.memory import MemoryJournal
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach
from trustfed.spiffe.x509svid import parse_leaf


@dataclass
class Talker:
    """One domain's stream at the hub, both ways."""

    world: MeshHub
    newcomer: Newcomer
    reports: Reports
    view: View
    reader: Reader = field(default_factory=Reader)
    sequence: int = 0
    items: dict[str, tuple[int, Item]] = field(default_factory=dict)
    job: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.newcomer.trust_domain.name

    async def item(self, item: Item, sequence: int = 0) -> pb.MeshItem:
        if not sequence:
            self.sequence += 1
            sequence = self.sequence
            self.items[f"{kind_of(item)}/{item.name}"] = (sequence, item)
        said = await signed(self.newcomer.keys, "publication", self.name, self.newcomer.key, item, sequence)
        return told(said)

    async def say(self, *items: Item) -> None:
        self.reports.put(pb.MeshReport(items=[await self.item(item) for item in items]))
        await self.settled()

    async def unsay(self, *items: Item) -> None:
        removed = []
        for item in items:
            self.sequence += 1
            self.items.pop(f"{kind_of(item)}/{item.name}", None)
            removed.append(gone(item, self.sequence))
        self.reports.put(pb.MeshReport(removed=removed))
        await self.settled()

    async def say_all(self, part: int = 2) -> None:
        """What a cluster does when the digests differ."""
        every = [await self.item(item, sequence) for sequence, item in self.items.values()]
        for start in range(0, max(len(every), 1), part):
            last = start + part >= len(every)
            self.reports.put(pb.MeshReport(items=every[start : start + part], snapshot=True, last=last))
        await self.settled()

    def digest(self) -> bytes:
        return digest({at: str(sequence) for at, (sequence, _) in self.items.items()})

    async def settled(self) -> None:
        for _ in range(50):
            await settle()
            if not self.reports._pending:
                break
        await settle()

    def read(self) -> Reader:
        return self.reader.read(self.world.mesh.relay.take(self.view))

    def held_by(self) -> list[pb.RoutesHeld]:
        """What the reader would say in a hello."""
        held: dict[str, dict[str, str]] = {}
        for at, statement in self.reader.held.items():
            exporter, _, name = at.partition("/")
            held.setdefault(exporter, {})[name] = str(self.world.sequence_of(statement))
        return [pb.RoutesHeld(exporter=name, digest=digest(rows)) for name, rows in held.items()]

    async def away(self) -> None:
        """The stream ends."""
        self.world.hub.relay.leave(self.view)
        if self.job is not None:
            self.job.cancel()
            with contextlib.suppress(asyncio.CancelledError, TrustfedError):
                await self.job

    async def back(self) -> None:
        """Another stream, with the digests of what is held."""
        anew = await self.world.talker(self.newcomer, self.held_by(), self.digest())
        self.view, self.reports, self.job = anew.view, anew.reports, anew.job


class MeshHub:
    """`await MeshHub.make()`, `await close()`."""

    def __init__(self, hub: HubParts, reach: Reach | None = None) -> None:
        self.hub, self.registry = hub, Registry()
        self.mesh = HubMeshParts(hub.operations, hub.relay, hub.clock, reach, self.registry)
        self.mesh.relay.start(hub.state)
        self._jobs = [asyncio.create_task(self._follow()), asyncio.create_task(self.mesh.intake.run())]

    @classmethod
    async def make(cls, reach: Reach | None = None) -> MeshHub:
        return cls(await HubParts.make(), reach)

    async def restarted(self) -> MeshHub:
        """Another process over the same journal."""
        await self.stop()
        return MeshHub(self.hub, self.mesh.intake.reach)

    async def restored(self, position: int) -> MeshHub:
        """A hub over a backup of the journal: what came after `position` is lost."""
        await self.stop()
        journal = MemoryJournal()
        kept = await self.hub.journal.read(0, position)
        await journal.append(0, [one.event for one in kept])
        hub = HubParts(journal)
        await hub.fold.start()
        return MeshHub(hub, self.mesh.intake.reach)

    async def talker(self, newcomer: Newcomer, held: list[pb.RoutesHeld] | None = None, own: bytes = NOTHING) -> Talker:
        svid = parse_leaf((await newcomer.svid()).chain[0])
        name = newcomer.trust_domain.name
        view = View(name, svid, connected=self.hub.clock.now())
        hello = pb.ClusterHello(hub_instance="instance", routes=held or [], mesh_digest=own)
        self.hub.relay.join(view, hello, self.hub.state)
        mesh, state = self.mesh, self.hub.state
        mesh.relay.greet(view, hello, mesh.intake.digest(name), mesh.intake.refused(name), state)
        reports = Reports(self.mesh.intake, name)
        return Talker(self, newcomer, reports, view, job=asyncio.create_task(reports.run()))

    async def domains(self, *names: str, owner: str = "team") -> list[Talker]:
        return [await self.talker(await self.hub.enrolled(name)) for name in names]

    async def agree(self, one: Talker, other: Talker) -> list[str]:
        """Grants in both directions."""
        found = [await self.hub.granted(one.newcomer, other.newcomer)]
        found.append(await self.hub.granted(other.newcomer, one.newcomer))
        await settle()
        return found

    def sequence_of(self, statement: bytes) -> int:
        return int(json.loads(base64.b64decode(json.loads(statement)["payload"]))["sequence"])

    async def stop(self) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def close(self) -> None:
        await self.stop()
        await self.hub.close()

    async def _follow(self) -> None:
        async for position, event in self.hub.fold.subscribe(self.hub.fold.position):
            self.mesh.on_event(position, event, self.hub.state)
