"""Sends each connected importer what it sees of others' meshes, and each domain what was refused of its own.

A stream begins with digests: the cluster says what it holds of each exporter, and of those that differ all is sent anew,
however long it was away. From then on changes, many in one message. So nothing about routes is remembered per reader, and
no position of the journal is needed to resume.

What this hub lacks may be over, or lost: its journal may be an older backup. "That is all of it" takes routes away, so it
is said only when both domains have said all they have to this process, and no answer to a grant between them is open.
Until then what is there is sent, and what an importer holds beyond that stays. A removed domain has nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from trustfed.federation.mesh_digest import digest
from trustfed.hub import events as e
from trustfed.hub.domains import MAX_DOMAINS
from trustfed.hub.mesh.events import MeshTold, MeshWithdrawn
from trustfed.hub.mesh.index import Index
from trustfed.hub.mesh.pending import MeshPending
from trustfed.hub.mesh.refusals import Refused
from trustfed.hub.mesh.state import key
from trustfed.hub.state import HubState
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.metrics import Registry

MAX_PART_BYTES = 256 * 1024
MAX_PART_ITEMS = 1_000
MAX_REFUSED_ITEMS = 200
_NAME_BYTES = 300


class Stream(Protocol):
    """One cluster's stream (trustfed.hub.relay.View)."""

    domain: str
    mesh: MeshPending

    def mark(self) -> None: ...


class MeshRelay:
    """Connects the fold's events to the clusters' streams. No method waits."""

    def __init__(
        self,
        streams: Callable[[str], Sequence[Stream]],
        every: Callable[[], Iterable[Stream]],
        registry: Registry | None = None,
    ) -> None:
        """`streams` gives the connected streams of one domain, `every` those of all."""
        self._streams, self._every = streams, every
        self._followed = 0  # the last event that the index has
        self._coming: dict[str, int] = {}  # who has said all: the position by which the index has it
        self._complete: set[str] = set()
        self.index = Index(self._mark)
        counter = (
            registry.counter("hub_routes_sent_total", "routes sent to importers", ["change"]) if registry else None
        )
        self._sent = counter

    def start(self, state: HubState) -> None:
        """Begin with this state; events before it may follow once more."""
        self.index.load(state)
        self._followed = state.position

    def greet(
        self, stream: Stream, hello: pb.ClusterHello, own: bytes, refused: Sequence[Refused], state: HubState
    ) -> None:
        """A stream began: mark the exporters of which it holds something else, and what is refused of it.

        `own` is the digest of what this hub was told by that cluster.
        """
        if hello.mesh_digest == own:
            self.all_said(stream.domain, state)
        held = {said.exporter: said.digest for said in hello.routes[:MAX_DOMAINS]}
        for exporter in {*held, *self.index.exporters(stream.domain)}:
            if held.get(exporter, NOTHING) == self.index.digest(stream.domain, exporter):
                continue
            if self._sure(stream.domain, exporter, state):
                stream.mesh.whole.add(exporter)
            else:
                stream.mesh.unsure.add(exporter)
                stream.mesh.routes.update(self.index.routes(stream.domain, exporter))
        for one in refused:
            stream.mesh.refused[key(one.kind, one.name)] = one
        stream.mark()

    def refused(self, domain: str, one: Refused) -> None:
        """Something of this domain was refused, or is no more."""
        for stream in self._streams(domain):
            stream.mesh.refused[key(one.kind, one.name)] = one
            stream.mark()

    def all_said(self, domain: str, state: HubState) -> None:
        """This domain has said all that it has, up to this state, to this process."""
        if domain not in self._complete:
            self._coming[domain] = state.position
            self._follow(self._followed, state)

    def on_event(self, position: int, event: msgspec.Struct, state: HubState) -> None:
        """Mark what one event means for whom."""
        self._change(event, state)
        self._follow(position, state)

    def _change(self, event: msgspec.Struct, state: HubState) -> None:
        match event:
            case MeshTold():
                self.index.told(event)
            case MeshWithdrawn():
                self.index.withdrawn(event.domain, event.kind, event.name)
            case e.GrantAccepted():
                grant = state.grants[event.id]
                self.index.granted(grant.importer, grant.exporter, grant.id)
                self._settle(grant.importer, state)
            case e.GrantEnded():
                grant = state.grants[event.id]
                self.index.ended(grant.importer, grant.exporter, grant.id)
                self._settle(grant.importer, state)
            case e.DomainRemoved():
                self.index.removed(event.name)
                self._complete.discard(event.name)
                self._coming.pop(event.name, None)
                self._settle(event.name, state)

    def _follow(self, position: int, state: HubState) -> None:
        """The index is as far as this: whose word is all in it?"""
        self._followed = max(self._followed, position)
        for domain in [name for name, at in self._coming.items() if at <= self._followed]:
            del self._coming[domain]
            self._complete.add(domain)
            self._settle(domain, state)

    def _settle(self, domain: str, state: HubState) -> None:
        """Something about this domain is known now: send all of what waited for that."""
        for stream in self._every():
            waits = stream.mesh.unsure if stream.domain == domain else stream.mesh.unsure & {domain}
            sure = {exporter for exporter in waits if self._sure(stream.domain, exporter, state)}
            if sure:
                stream.mesh.unsure -= sure
                stream.mesh.whole |= sure
                stream.mark()

    def _sure(self, importer: str, exporter: str, state: HubState) -> bool:
        """Whether what this hub lacks between these two is over, and not lost."""
        domain = state.domains.get(exporter)
        if domain is not None and domain.status == "removed":
            return True
        if not {importer, exporter} <= self._complete:
            return False
        if self.index.agreed(importer, exporter):
            return True
        pair = {importer, exporter}
        return not any(g.status == "offered" and {g.importer, g.exporter} == pair for g in state.grants_with(importer))

    def take(self, stream: Stream) -> Iterator[pb.FromHub]:
        """What is to be sent now, made message by message: a slow reader holds no more than one."""
        pending, stream.mesh = stream.mesh, MeshPending(unsure=stream.mesh.unsure)
        refused = list(pending.refused.values())
        for start in range(0, len(refused), MAX_REFUSED_ITEMS):
            yield _refused(refused[start : start + MAX_REFUSED_ITEMS])
        for exporter in sorted(pending.whole):
            yield from self._whole(stream.domain, exporter)
        changed = [at for at in pending.routes if at.partition("/")[0] not in pending.whole]
        # Gateways before the exports that are reached by them.
        changed.sort(key=lambda at: (at.split("/", 2)[1] == "export", at))
        for message in self._messages(stream.domain, changed):
            yield pb.FromHub(routes=message)

    def _whole(self, importer: str, exporter: str) -> Iterator[pb.FromHub]:
        """All that one domain sees of another, in parts; the last one says so."""
        held = pb.Routes(whole_of=exporter)
        for message in self._messages(importer, self.index.routes(importer, exporter)):
            if held.upsert:
                yield pb.FromHub(routes=held)
            held = pb.Routes(whole_of=exporter, upsert=message.upsert)
        held.last = True
        yield pb.FromHub(routes=held)

    def _messages(self, importer: str, routes: Sequence[str]) -> Iterator[pb.Routes]:
        message, size, upserts, removes = pb.Routes(), 0, 0, 0
        for at in routes:
            entry = self.index.entry(importer, at)
            grows = entry.size if entry is not None else _NAME_BYTES
            if upserts + removes and (size + grows > MAX_PART_BYTES or upserts + removes >= MAX_PART_ITEMS):
                yield self._counted(message, upserts, removes)
                message, size, upserts, removes = pb.Routes(), 0, 0, 0
            size += grows
            if entry is not None:
                message.upsert.append(entry.message)
                upserts += 1
            else:
                exporter, kind, name = at.split("/", 2)
                message.remove.add(exporter=exporter, kind=kind, name=name)
                removes += 1
        if upserts + removes:
            yield self._counted(message, upserts, removes)

    def _counted(self, message: pb.Routes, upserts: int, removes: int) -> pb.Routes:
        if self._sent is not None:
            self._sent.add(upserts, change="upsert")
            self._sent.add(removes, change="remove")
        return message

    def _mark(self, importer: str, at: str) -> None:
        for stream in self._streams(importer):
            stream.mesh.routes.add(at)
            stream.mark()


NOTHING = digest({})


def _refused(several: Sequence[Refused]) -> pb.FromHub:
    items = [pb.MeshRefusal(kind=r.kind, name=r.name, sequence=r.sequence, why=r.why[:1_024]) for r in several]
    return pb.FromHub(mesh_refused=pb.MeshRefused(items=items))
