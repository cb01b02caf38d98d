"""One view per connected agent: what is still to be sent to it.

A view holds which things changed, never messages: each thing once, however often it changed. So a slow agent costs nothing
and gets the newest only, an agent that was away resumes by position, and work is proportional to the change.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ca.lifecycle import Status
from trustfed.cluster import events as e
from trustfed.cluster.changes import ANYBODY, Changes, Item
from trustfed.cluster.evidence.events import RotationOrdered
from trustfed.cluster.freshness import Freshness
from trustfed.cluster.messages import MAX_MESSAGE_BYTES, Messages, heartbeats
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Denied, TrustfedError
from trustfed.journal.events import TypedEvent
from trustfed.proto import node_pb2 as pb

MAX_STREAMS = 2  # of one node: a dead connection lingers until keepalive finds it
MAX_RESUMED = 10_000
"""Things that changed while an agent was away, at most; after more it gets a snapshot."""
_ENTRY_BYTES, _REMOVED_BYTES, _BUNDLE_BYTES = 300, 40, 250


@dataclass(eq=False)
class View:
    """One agent's stream, seen from the cluster."""

    node: str
    groups: tuple[str, ...]
    joined: int = 0  # the journal's position at that moment
    confirmed: int = 0  # the confirmations it has been told of, by their serial
    over: TrustfedError | None = None
    pending: set[Item] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def mark(self, items: Iterable[Item]) -> None:
        """These are to be sent."""
        self.pending.update(items)
        self._wake.set()

    def end(self, error: TrustfedError) -> None:
        """The stream must end with this error."""
        self.over = self.over or error
        self._wake.set()

    async def changed(self) -> None:
        """Wait until something was marked or the stream is over."""
        await self._wake.wait()
        self._wake.clear()


class Sessions:
    """Connects the journal's events to the agents' views. No method waits.

    `position` is that of the last event that was marked. The state may be ahead of it, so it, not the state's, is what
    a message brings an agent to: what the state has more is marked later, and sent again.
    """

    def __init__(
        self, state: ClusterState, position: int, reissue_spread: int, freshness: Freshness | None = None
    ) -> None:
        self.position = position
        self._freshness, self._messages = freshness, Messages(reissue_spread, freshness)
        self._changes = Changes(position)
        self._views: dict[str, list[View]] = defaultdict(list)
        self._by_parent: dict[str, set[str]] = defaultdict(set)
        self._parent: dict[str, str] = {}
        for entry in state.entries.values():
            self._index(entry.id, entry.parent)

    def __len__(self) -> int:
        return sum(len(views) for views in self._views.values())

    def join(self, view: View, state: ClusterState, *, snapshot: bool) -> None:
        """Begin a stream; with `snapshot`, mark everything that this node may have; else `missed` has said what."""
        own = self._views[view.node]
        if len(own) >= MAX_STREAMS:
            own.pop(0).end(Conflict("a newer stream of this node took the place"))
        own.append(view)
        if not snapshot:
            return
        view.confirmed = self._freshness.serial if self._freshness else 0
        items: set[Item] = {("bundle", state.trust_domain)}
        items.update(("bundle", peer) for peer in state.peers)
        items.update(_reissues(state))
        items.update(("renew", rotation.id) for rotation in state.evidence.rotations)
        for parent in _parents(view):
            items.update(("entry", id_) for id_ in self._by_parent.get(parent, ()))
        view.mark(items)

    def earlier(self, events: Sequence[TypedEvent], floor: int, state: ClusterState) -> None:
        """What happened from `floor` on until these sessions began, before an earlier process ended."""
        changes = Changes(floor)
        for position, event in enumerate(events, start=floor + 1):
            self._note(changes, position, event, state)
            if isinstance(event, e.EntryPut | e.EntryDeleted):
                changes.moved(event.id, [ANYBODY])
        self._changes = changes

    def missed(self, view: View, after: int, state: ClusterState) -> set[Item] | None:
        """What an agent that has applied everything up to `after` lacks. None when it needs a snapshot: that is not known,
        the node attested anew since (its groups may be others), or a snapshot is the smaller of the two.
        """
        if not 0 < after <= self.position:
            return None
        items = self._changes.since(after, _parents(view), MAX_RESUMED)
        if items is None or ("node", view.node) in items:
            return None
        items = {item for item in items if item[0] != "node"}
        # Said again to who comes back: an agent that ended before its turn within the spread has forgotten it.
        items.update(("renew", rotation.id) for rotation in state.evidence.rotations)
        return items if self._size(items, state) <= self._whole(view, state) else None

    def leave(self, view: View) -> None:
        """The stream is over."""
        views = self._views.get(view.node, [])
        if view in views:
            views.remove(view)
        if not views:
            self._views.pop(view.node, None)

    def on_event(self, position: int, event: TypedEvent, state: ClusterState) -> None:
        """Mark what one event means for whom."""
        self.position = position
        self._note(self._changes, position, event, state)
        if isinstance(event, e.ReserveSet):
            for view in self._all():
                if event.group in view.groups:
                    view.end(Conflict(f"the reserve of group {event.group} changed", hint="connect again"))
            return
        if isinstance(event, e.NodeAttested):
            # Its groups may be others now, or its machine: it begins anew.
            for view in self._views.get(event.name, ()):
                if view.joined < position:
                    view.end(Conflict(f"node {event.name} attested anew", hint="connect again"))
            return
        if isinstance(event, e.NodeBanned):
            for view in self._views.get(event.name, ()):
                view.end(Denied(f"node {event.name} is banned: {event.reason}"))
            return
        if isinstance(event, e.EntryPut | e.EntryDeleted):
            self._on_entry(event)
            return
        items = self._items(event, state)
        if items:
            for view in self._all():
                view.mark([item for item in items if self._concerns(view, item)])

    def beats(self, view: View, state: ClusterState, now: datetime) -> list[pb.FromCluster]:
        """The heartbeat that is due to one agent: what of its bundles was confirmed since the last one."""
        position = 0 if view.pending else self.position
        said: list[tuple[str, datetime]] = []
        if self._freshness is not None and view.confirmed < self._freshness.serial:
            imported = state.imports(now)
            said = [(domain, at) for domain, at in self._freshness.since(view.confirmed) if domain in imported]
            view.confirmed = self._freshness.serial
        return list(heartbeats(position, said, now))

    def refresh(self, domains: Iterable[str]) -> None:
        """Time alone opened or closed these domains' grants."""
        items = [("bundle", domain) for domain in domains]
        for view in self._all():
            view.mark(items)

    def take(self, view: View, state: ClusterState, now: datetime) -> Iterator[pb.FromCluster]:
        """What is to be sent now, removals first. Messages are made as they are asked for, so that a node with many
        entries holds nobody up; the last one brings the agent to `position`.
        """
        position, items, view.pending = self.position, view.pending, set()
        messages = self._messages.of(items, state.nodes[view.node], state, now)
        last = next(messages, None)
        for message in messages:
            assert last is not None
            yield last
            last = message
        if last is not None:
            last.position = position
            yield last

    def _note(self, changes: Changes, position: int, event: TypedEvent, state: ClusterState) -> None:
        if isinstance(event, e.NodeAttested):
            changes.note(position, [("node", event.name)])
            return
        if isinstance(event, e.EntryPut | e.EntryDeleted):
            parents = {self._parent.get(event.id, ""), event.parent if isinstance(event, e.EntryPut) else ""}
            changes.moved(event.id, parents - {""})
        items = self._items(event, state)
        for kind, key in items:
            if kind == "entry" and key in self._parent:
                changes.moved(key, [self._parent[key]])
        changes.note(position, items)

    def _size(self, items: set[Item], state: ClusterState) -> int:
        """About how many bytes it takes to say this."""
        total = 0
        for kind, key in items:
            if kind == "entry":
                total += _ENTRY_BYTES if key in state.entries else _REMOVED_BYTES
            elif kind == "bundle":
                peer = state.peers.get(key)
                total += _BUNDLE_BYTES + (len(peer.envelope) if peer else len(state.envelope))
        return total

    def _whole(self, view: View, state: ClusterState) -> int:
        """About how many bytes a snapshot for this agent has; one that is small is not worth the difference."""
        entries = sum(len(self._by_parent.get(parent, ())) for parent in _parents(view))
        bundles = sum(_BUNDLE_BYTES + len(peer.envelope) for peer in state.peers.values())
        return max(entries * _ENTRY_BYTES + bundles + len(state.envelope), MAX_MESSAGE_BYTES // 8)

    def _on_entry(self, event: e.EntryPut | e.EntryDeleted) -> None:
        parents = {self._parent.get(event.id, "")}
        if isinstance(event, e.EntryPut):
            parents.add(event.parent)
            self._index(event.id, event.parent)
        else:
            self._index(event.id, "")
        for view in self._all():
            if not parents.isdisjoint(_parents(view)):
                view.mark([("entry", event.id)])

    def _items(self, event: TypedEvent, state: ClusterState) -> set[Item]:
        match event:
            case e.EntryPut() | e.EntryDeleted():
                return {("entry", event.id)}
            case e.BundlePublished():
                return {("bundle", state.trust_domain)}
            case e.PeerBundle():
                return {("bundle", event.trust_domain)}
            case e.GrantAccepted() | e.GrantEnded() | e.GrantRepinned() | e.GrantLimited():
                held = state.grants.get(event.id)  # gone: an offer that ended, nothing came by it
                return {("bundle", held.exporter)} if held else set()
            case e.AuthorityReissued() | e.AuthorityActivated() | e.AuthorityRemoved():
                return set(_reissues(state))
            case RotationOrdered():
                return {("renew", event.id)}
            case e.PeersSet():
                wanted = f"peers:{event.name}"
                return {("entry", entry.id) for entry in state.entries.values() if wanted in entry.federates_with}
        return set()

    def _concerns(self, view: View, item: Item) -> bool:
        """A node is told nothing of entries that are not its own."""
        return item[0] != "entry" or self._parent.get(item[1], "") in _parents(view)

    def _index(self, id_: str, parent: str) -> None:
        old = self._parent.pop(id_, None)
        if old is not None:
            self._by_parent[old].discard(id_)
            if not self._by_parent[old]:
                del self._by_parent[old]
        if parent:
            self._parent[id_] = parent
            self._by_parent[parent].add(id_)

    def _all(self) -> list[View]:
        return [view for views in self._views.values() for view in views]


def _parents(view: View) -> list[str]:
    return [f"node/{view.node}", *(f"group/{group}" for group in view.groups)]


def _reissues(state: ClusterState) -> list[Item]:
    """The tainted authorities whose SVIDs are to be replaced: told so, or gone already, and another one signs.

    One that was taken out first was never told: that is said as soon as a successor is active.
    """
    every = list(state.authorities.values())
    return [
        ("reissue", a.id)
        for a in every
        if a.tainted_at is not None
        and (a.reissue_at is not None or (a.status is Status.REMOVED and a.activated_at is not None))
        and any(b.kind is a.kind and b.status is Status.ACTIVE and b.tainted_at is None for b in every)
    ]
