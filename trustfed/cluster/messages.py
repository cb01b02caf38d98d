"""What agents are told: the messages of a stream, made of the state when they are sent, bounded in count and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from trustfed.cluster import events as e
from trustfed.cluster.changes import Item
from trustfed.cluster.entries import federates, serves
from trustfed.cluster.evidence.events import RotationOrdered
from trustfed.cluster.freshness import Freshness
from trustfed.cluster.state import ClusterState, Grant, Node
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.timestamps import to_ms

MAX_ENTRIES_PER_MESSAGE = 200
MAX_MESSAGE_BYTES = 512 * 1024
"""Entries of one message; a single entry may be larger, up to the bounds of its fields (about 600 KiB)."""
MAX_REMOVED_PER_MESSAGE = 2_000
MAX_MADE = 10_000
"""Entries kept in the form in which agents are told them."""
MAX_CONFIRMED = 1_000
"""In one heartbeat."""


class Messages:
    """Makes them for any node; `reissue_spread` is in seconds."""

    def __init__(self, reissue_spread: int, freshness: Freshness | None) -> None:
        self._reissue_spread, self._freshness = reissue_spread, freshness
        self._made: dict[str, tuple[e.EntryPut, object, pb.Entry, int]] = {}

    def of(self, items: set[Item], node: Node, state: ClusterState, now: datetime) -> Iterator[pb.FromCluster]:
        """What says these items to `node`, removals first, each made as it is asked for."""
        entries: list[e.EntryPut] = []
        removed: list[str] = []
        for _, key in sorted(item for item in items if item[0] == "entry"):
            entry = state.entries.get(key)
            if entry is None or not serves(entry, node, now):
                removed.append(key)
            else:
                entries.append(entry)
        for start in range(0, len(removed), MAX_REMOVED_PER_MESSAGE):
            yield pb.FromCluster(entries=pb.Entries(remove=removed[start : start + MAX_REMOVED_PER_MESSAGE]))
        imported = state.imports(now) if any(kind == "bundle" for kind, _ in items) else {}
        bundles = [self._bundle(key, state, imported) for kind, key in sorted(items) if kind == "bundle"]
        yield from (m for m in bundles if m.HasField("bundle_removed"))
        yield from (m for m in bundles if m.HasField("bundle"))
        yield from self._upserts(entries, state)
        yield from (self._reissue(key) for kind, key in sorted(items) if kind == "reissue")
        ordered = [state.evidence.rotation(key) for kind, key in sorted(items) if kind == "renew"]
        yield from (_renew(rotation) for rotation in ordered if rotation is not None)

    def _upserts(self, entries: Sequence[e.EntryPut], state: ClusterState) -> Iterator[pb.FromCluster]:
        """Entries in messages of bounded count and size."""
        batch, size = pb.Entries(), 0
        for entry in entries:
            made, length = self._said(entry, state)
            if batch.upsert and (size + length > MAX_MESSAGE_BYTES or len(batch.upsert) >= MAX_ENTRIES_PER_MESSAGE):
                yield pb.FromCluster(entries=batch)
                batch, size = pb.Entries(), 0
            batch.upsert.append(made)
            size += length
        if batch.upsert:
            yield pb.FromCluster(entries=batch)

    def _said(self, entry: e.EntryPut, state: ClusterState) -> tuple[pb.Entry, int]:
        """An entry as agents are told it, and its size: made once for all the nodes of a group."""
        known = self._made.get(entry.id)
        if known is None or known[0] is not entry or known[1] is not state.peer_lists:
            if len(self._made) >= MAX_MADE:
                self._made.clear()
            message = _entry(entry, state)
            known = self._made[entry.id] = (entry, state.peer_lists, message, message.ByteSize())
        return known[2], known[3]

    def _reissue(self, authority: str) -> pb.FromCluster:
        """What this authority signed is to be replaced, spread out so that not all agents ask at once."""
        spread = self._reissue_spread
        return pb.FromCluster(
            reissue=pb.Reissue(authorities=[authority], spread_seconds=spread, drop_jwts=True, reason="tainted")
        )

    def _bundle(self, domain: str, state: ClusterState, imported: dict[str, Grant]) -> pb.FromCluster:
        """A domain's newest envelope with the key it is pinned by, or that it is to be forgotten."""
        if domain == state.trust_domain:
            assert state.domain is not None
            key = state.domain.publication_key
            return pb.FromCluster(
                bundle=pb.Bundle(trust_domain=domain, envelope=state.envelope, publication_key=key, home=True)
            )
        grant, peer = imported.get(domain), state.peers.get(domain)
        if grant is None or peer is None or peer.key != grant.exporter_key:
            return pb.FromCluster(bundle_removed=pb.BundleRemoved(trust_domain=domain))
        made = pb.Bundle(trust_domain=domain, envelope=peer.envelope, publication_key=peer.key)
        if self._freshness is not None:
            since = self._freshness.counted_from(domain)
            made.confirmed_at_ms = to_ms(since) if since else 0
            made.stale_limit_seconds = int(self._freshness.limit_of(grant).total_seconds())
        return pb.FromCluster(bundle=made)


def heartbeats(position: int, confirmed: Sequence[tuple[str, datetime]], now: datetime) -> Iterator[pb.FromCluster]:
    """At least one; `confirmed` are the domains whose bundles were confirmed since the last one, and when."""
    said = [pb.Confirmed(trust_domain=domain, at_ms=to_ms(at)) for domain, at in confirmed]
    for start in range(0, len(said) or 1, MAX_CONFIRMED):
        beat = pb.Heartbeat(time_ms=to_ms(now), confirmed=said[start : start + MAX_CONFIRMED])
        yield pb.FromCluster(position=position, heartbeat=beat)


def _renew(rotation: RotationOrdered) -> pb.FromCluster:
    """What began before the order is to be replaced."""
    return pb.FromCluster(
        renew=pb.Renew(
            entries=rotation.entries,
            authorities=rotation.authorities,
            issued_before_ms=to_ms(rotation.issued_before),
            spread_seconds=rotation.spread_seconds,
            reason=rotation.reason[:200],
        )
    )


def _entry(entry: e.EntryPut, state: ClusterState) -> pb.Entry:
    return pb.Entry(
        id=entry.id,
        spiffe_id=entry.spiffe_id,
        selectors=entry.selectors,
        x509_ttl_seconds=entry.x509_ttl,
        jwt_ttl_seconds=entry.jwt_ttl,
        dns_names=entry.dns_names,
        federates_with=federates(state, entry),
        hint=entry.hint,
        admin=entry.admin,
        expires_at_ms=to_ms(entry.expires_at) if entry.expires_at else 0,
        created_at_ms=to_ms(entry.created_at),
    )
