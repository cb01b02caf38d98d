"""Which envelopes go to whom: one outgoing view per connected cluster, and how far each importer is.

A view holds what is to be sent, never the messages themselves: for each thing once, however often it changed. So a slow
cluster costs nothing, gets the newest only, and a reader that was away resumes by comparing positions. Levels live in
memory: clusters send them again with every hello.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from trustfed.errors import Conflict, Denied, Invalid, TrustfedError
from trustfed.federation.confirmation import Confirmation
from trustfed.federation.envelope import Level
from trustfed.hub import events as e
from trustfed.hub.mesh.pending import MeshPending
from trustfed.hub.messages import (
    Pushed,
    Reported,
    confirmations,
    consumer,
    crl,
    envelope,
    grant,
    root_documents,
    stored,
)
from trustfed.hub.records import Domain
from trustfed.hub.state import HubState
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.x509svid import X509Svid

MAX_STREAMS = 4  # of one trust domain: a dead connection lingers until keepalive finds it
MAX_LAGGARDS = 100
MAX_CONFIRMATIONS = 1_000  # in one message
SNAPSHOT_GAIN = 16 * 1024
"""Bytes that a snapshot must save before it takes the place of what changed, which also says why each grant ended."""
_GRANT_BYTES, _SMALL_BYTES = 400, 150

Item = tuple[str, str]  # what changed: its kind, and which one
# What ends goes first. A grant goes before the envelope and before the importer that it is about.
_ORDER = ("grant-ended", "roots", "crl", "grant", "envelope", "stored", "consumer")
_NOT_JOURNALLED = ("stored", "consumer", "confirmations")


@dataclass(eq=False)
class View:
    """One cluster's stream, seen from the hub: what is still to be sent, and why it must end (`over`)."""

    domain: str
    svid: X509Svid
    connected: datetime
    position: int = 0
    joined_at: int = 0  # everything up to this position was marked when the stream began
    root_version: int = 0
    software: str = ""
    heard: datetime | None = None
    over: TrustfedError | None = None
    pending: set[Item] = field(default_factory=set)
    mesh: MeshPending = field(default_factory=MeshPending)
    confirmed: set[str] = field(default_factory=set)  # exporters that confirmed their bundle since the last batch
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    def mark(self, *items: Item) -> None:
        """Something is to be sent."""
        self.pending.update(items)
        self._wake.set()

    def mark_confirmed(self, domains: Iterable[str]) -> None:
        """Confirmations are to be sent with the next batch."""
        self.confirmed.update(domains)
        self._wake.set()

    def end(self, error: TrustfedError) -> None:
        """The stream must end with this error."""
        self.over = self.over or error
        self._over.set()
        self._wake.set()

    async def ended(self) -> TrustfedError:
        """Wait until the stream must end; why."""
        await self._over.wait()
        assert self.over is not None
        return self.over

    async def changed(self) -> None:
        """Wait until something was marked."""
        await self._wake.wait()
        self._wake.clear()


class Relay:
    """Connects the fold's events to the clusters' views. No method waits."""

    def __init__(self, pushed: Callable[[Domain], Pushed | None] = lambda _: None) -> None:
        """`pushed` says how far a domain's newest bundle is with who only polls; None: nothing is pushed anywhere."""
        self._pushed = pushed
        self._views: dict[str, list[View]] = {}
        self._marked = 0  # the last event that was marked: the fold may be ahead of it
        self._reported: dict[tuple[str, str], Reported] = {}  # (importer, exporter)
        self._confirmed: dict[str, Confirmation] = {}

    def views(self, domain: str) -> Sequence[View]:
        """The connected streams of one domain."""
        return tuple(self._views.get(domain, ()))

    def all_views(self) -> Iterable[View]:
        """Every connected stream."""
        return [view for views in self._views.values() for view in views]

    def connected(self) -> int:
        """How many trust domains have a stream."""
        return len(self._views)

    def reported(self, importer: str, exporter: str) -> Reported | None:
        """What an importer last said of an exporter's bundle; None if it never did since this process began."""
        return self._reported.get((importer, exporter))

    def join(self, view: View, hello: pb.ClusterHello, state: HubState) -> bool:
        """Begin a stream: mark what this cluster lacks. True when it gets a snapshot instead of what changed: it comes from
        elsewhere, or so many grants ended meanwhile that all there is takes less to say.
        """
        own = self._views.setdefault(view.domain, [])
        if len(own) >= MAX_STREAMS:
            own[0].end(Conflict("a newer stream of this cluster took the place"))
            del own[0]
        own.append(view)
        resumes = hello.hub_instance == state.instance and 0 < hello.position <= state.position
        view.position = hello.position if resumes else 0
        view.root_version = min(hello.root_version, len(state.root_documents))
        lacks = _lacks(state, view, view.position)
        if resumes:
            everything = _lacks(state, view, 0)
            if _size(everything, state) + SNAPSHOT_GAIN < _size(lacks, state):
                resumes, lacks, view.position = False, everything, 0
        view.joined_at = state.position
        view.software = hello.software[:64]
        self._take_levels(view, hello.levels, state)
        view.mark(*lacks)
        view.mark_confirmed(
            g.exporter for g in state.grants_with(view.domain) if g.importer == view.domain and g.status == "accepted"
        )
        return not resumes

    def pushed(self, domain: str) -> None:
        """The domain's newest bundle has reached a place that is polled: its cluster waits for that."""
        self._mark(domain, ("stored", ""))

    def repeat(self, domain: str, state: HubState) -> int:
        """Send a cluster all that it shall hold once more, over the streams that it has; answers how many these are."""
        views = self.views(domain)
        for view in views:
            view.mark(*_lacks(state, view, 0))
        return len(views)

    def leave(self, view: View) -> None:
        """The stream is over."""
        views = self._views.get(view.domain, [])
        if view in views:
            views.remove(view)
        if not views:
            self._views.pop(view.domain, None)

    def acknowledge(self, view: View, message: pb.Acknowledge, state: HubState) -> None:
        """Take an importer's level, and tell the exporter. Levels only rise; Invalid for one that does not exist."""
        level = _level(view.domain, message.level, state)
        if level is None or not state.imports(view.domain, level.trust_domain.name):
            return
        known = self._reported.get((view.domain, level.trust_domain.name))
        if known and known.level and level < known.level:
            return
        names = tuple(name[:128] for name in message.laggards[:MAX_LAGGARDS])
        live_until = to_ms(view.svid.not_after)
        self._report(view.domain, Reported(level, live_until, names, message.laggard_count), level.trust_domain.name)

    def confirm(self, said: Confirmation, state: HubState) -> None:
        """Keep a domain's newest confirmation, and let its importers have it with their next batch."""
        domain = said.level.trust_domain.name
        known = self._confirmed.get(domain)
        if known is not None and (known.level, known.at) >= (said.level, said.at):
            return
        self._confirmed[domain] = said
        for importer in state.importers_of(domain):
            for view in self.views(importer):
                view.mark_confirmed([domain])

    def take_confirmed(self, view: View, state: HubState) -> list[pb.FromHub]:
        """The batch that is due to one cluster."""
        names, view.confirmed = sorted(view.confirmed), set()
        own = [g for g in state.grants_with(view.domain) if g.importer == view.domain and g.status == "accepted"]
        imported = {g.exporter for g in own}
        said = [self._confirmed[name] for name in names if name in self._confirmed and name in imported]
        batches = [said[start : start + MAX_CONFIRMATIONS] for start in range(0, len(said), MAX_CONFIRMATIONS)]
        return [confirmations(batch) for batch in batches]

    def on_event(self, position: int, event: msgspec.Struct, state: HubState) -> None:
        """Mark what one event means for whom."""
        self._marked = max(self._marked, position)
        match event:
            case e.EnvelopeAccepted() | e.EndpointsTold():
                for importer in state.importers_of(event.domain):
                    self._mark(importer, ("envelope", event.domain))
            case e.GrantOffered() | e.GrantAccepted() | e.GrantEnded():
                self._on_grant(event.id, state)
            case e.RootPrepared() | e.RootRetired():
                for view in self.all_views():
                    view.mark(("roots", ""))
            case e.CrlIssued():
                for view in self.all_views():
                    view.mark(("crl", event.root))
            case e.DomainRemoved():
                for view in self.views(event.name):
                    view.end(Denied(f"trust domain {event.name} was removed from the federation: {event.reason}"))

    def take(self, view: View, state: HubState) -> list[pb.FromHub]:
        """What is to be sent now, in order; the last journalled fact brings the reader to this state's position."""
        items, view.pending = view.pending, set()
        messages: list[pb.FromHub] = []
        for kind, which in sorted(items, key=lambda item: (_ORDER.index(item[0]), item[1])):
            messages += self._messages(view, kind, which, state)
        facts = [message for message in messages if message.WhichOneof("message") not in _NOT_JOURNALLED]
        for message in facts:
            message.position = view.position
        if facts:
            # Never beyond what was marked: a reader told more would not get the rest after a reconnect.
            reached = min(max(self._marked, view.joined_at), state.position)
            facts[-1].position = view.position = max(view.position, reached)
        return messages

    def _messages(self, view: View, kind: str, which: str, state: HubState) -> list[pb.FromHub]:
        made: list[pb.FromHub] = []
        match kind:
            case "grant" | "grant-ended":
                made.append(grant(state, state.grants[which]))
            case "envelope" if state.imports(view.domain, which):
                made.append(envelope(state.domains[which]))
            case "roots":
                made.append(root_documents(state.root_documents[view.root_version :]))
                view.root_version = len(state.root_documents)
            case "crl":
                made.append(crl(state.crls[which]))
            case "stored":
                made.append(stored(domain := state.domains[view.domain], self._pushed(domain)))
            case "consumer" if state.imports(which, view.domain) and (said := self.reported(which, view.domain)):
                made.append(consumer(which, view.domain, said))
        return made

    def _on_grant(self, grant_id: str, state: HubState) -> None:
        record = state.grants[grant_id]
        kind = "grant-ended" if record.status == "ended" else "grant"
        for side in (record.importer, record.exporter):
            self._mark(side, (kind, grant_id))
        if record.status == "accepted":
            self._mark(record.importer, ("envelope", record.exporter))
            for view in self.views(record.importer):
                view.mark_confirmed([record.exporter])
            if (record.importer, record.exporter) not in self._reported:
                for view in self.views(record.importer):
                    self._report(record.importer, Reported(None, to_ms(view.svid.not_after)), record.exporter)
        elif record.status == "ended":
            self._reported.pop((record.importer, record.exporter), None)

    def _take_levels(self, view: View, levels: Iterable[pb.Level], state: HubState) -> None:
        """A hello says it all anew: what is not in it is not held."""
        held = {
            level.trust_domain.name: level for level in (_level(view.domain, said, state) for said in levels) if level
        }
        live_until = to_ms(view.svid.not_after)
        for record in state.grants_with(view.domain):
            if record.importer == view.domain and record.status == "accepted":
                self._report(view.domain, Reported(held.get(record.exporter), live_until), record.exporter)

    def _report(self, importer: str, said: Reported, exporter: str) -> None:
        self._reported[importer, exporter] = said
        self._mark(exporter, ("consumer", importer))

    def _mark(self, domain: str, *items: Item) -> None:
        for view in self.views(domain):
            view.mark(*items)


def _lacks(state: HubState, view: View, after: int) -> list[Item]:
    """What a cluster at position `after` has not seen: all of it from position 0, where ended grants are left out."""
    items = [("stored", "")]
    if view.root_version < len(state.root_documents):
        items.append(("roots", ""))
    items += [("crl", held.root) for held in state.crls.values() if held.position > after]
    for record in state.grants_with(view.domain):
        ended = record.status == "ended"
        if record.position > after and not (ended and after == 0):
            items.append(("grant-ended" if ended else "grant", record.id))
        if record.status == "accepted" and record.importer == view.domain:
            exporter = state.domains[record.exporter]
            if max(record.position, exporter.envelope_position, exporter.endpoints_position) > after:
                items.append(("envelope", record.exporter))
        elif record.status == "accepted":
            items.append(("consumer", record.importer))
    return items


def _size(items: Sequence[Item], state: HubState) -> int:
    """About how many bytes it takes to say this."""
    total = 0
    for kind, which in items:
        if kind == "envelope":
            total += len(state.domains[which].envelope)
        elif kind == "crl":
            total += len(state.crls[which].certificate_list)
        else:
            total += _GRANT_BYTES if kind.startswith("grant") else _SMALL_BYTES
    return total


def _level(reporter: str, said: pb.Level, state: HubState) -> Level | None:
    """The level that a cluster reports: None for a domain unknown here; never above what is held here.

    A peer's endpoint may have given it more than the hub has heard of: that counts as what the hub has. Invalid for a
    domain's word of itself, which it must send first.
    """
    domain = state.domains.get(said.trust_domain)
    if domain is None:
        return None
    if (said.epoch, said.sequence) == (0, 0):
        return None
    level = Level(TrustDomain(domain.name), said.epoch, said.sequence)
    if (level.epoch, level.sequence) <= (domain.epoch, domain.sequence):
        return level
    if domain.name == reporter:
        raise Invalid(f"level {level} was acknowledged, but {domain.epoch}.{domain.sequence} is the highest there is")
    return Level(level.trust_domain, domain.epoch, domain.sequence) if domain.sequence else None
