"""A cluster's fold: what each event makes of the state. Pure; every version of an event stays readable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from ca.lifecycle import AuthorityState, Kind, Level, Status
from trustfed.cluster import events as e
from trustfed.cluster.evidence.state import APPLY as APPLY_EVIDENCE
from trustfed.cluster.istio_ca.fold import APPLY as APPLY_ISTIO
from trustfed.cluster.mesh import events as mesh_events
from trustfed.cluster.mesh import state as mesh
from trustfed.cluster.state import ClusterState, Domain, ForeignPeer, Grant, Hub, Invitation, Node, Peer
from trustfed.journal import approvals
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.journal.ports import Journal, Snapshots
from trustfed.journal.table import decode_state, encode_state

SCHEMA = 1
FORGET_INVITATIONS = timedelta(days=7)
"""How long after its end a node token is still told apart from one that never was."""
KEPT_GRANTS = 10_000
"""Beyond so many, those by which others accepted this domain and that have ended are forgotten."""


def cluster_fold(journal: Journal, snapshots: Snapshots, initial: ClusterState | None = None) -> Fold[ClusterState]:
    """The fold of a cluster's journal, to be started; it begins with `initial`, or with nothing."""
    return Fold(
        journal,
        snapshots,
        initial or ClusterState(),
        apply,
        e.CODEC,
        encode_state,
        lambda data: decode_state(data, ClusterState),
        SCHEMA,
    )


def apply(state: ClusterState, event: TypedEvent) -> ClusterState:
    """The state after one event."""
    return _APPLY.get(type(event), _mesh)(state, event)


def _mesh(s: ClusterState, ev: TypedEvent) -> ClusterState:
    s = replace(s, mesh=mesh.apply(s.mesh, ev))
    return _at_hub(s, ev.hub_position) if isinstance(ev, mesh_events.RouteTold | mesh_events.RouteGone) else s


def _keyed(s: ClusterState, ev: e.Keyed) -> ClusterState:
    return replace(s, domain=Domain(ev.instance, ev.trust_domain, ev.publication_key_name, ev.publication_key))


def _enrolled(s: ClusterState, ev: e.Enrolled) -> ClusterState:
    hub = Hub(ev.hub_trust_domain, ev.hub_id, ev.hub_grpc, ev.hub_https)
    return replace(s, hub=hub, dns_suffixes=ev.dns_suffixes, root_documents=ev.root_documents)


def _roots(s: ClusterState, ev: e.RootsAdvanced) -> ClusterState:
    return replace(s, root_documents=s.root_documents + ev.documents)


def _authority(s: ClusterState, id_: str, **changes: Any) -> ClusterState:
    return replace(s, authorities=s.authorities.put(id_, dataclasses.replace(s.authorities[id_], **changes)))


def _prepared(s: ClusterState, ev: e.AuthorityPrepared) -> ClusterState:
    new = AuthorityState(
        id=ev.id,
        kind=Kind(ev.kind),
        status=Status.PREPARED,
        key_name=ev.key_name,
        not_before=ev.not_before,
        not_after=ev.not_after,
        twin=ev.twin,
    )
    return replace(s, authorities=s.authorities.put(ev.id, new))


def _certified(s: ClusterState, ev: e.AuthorityCertified) -> ClusterState:
    return _authority(s, ev.id, intermediate=ev.intermediate, intermediate_not_after=ev.not_after)


def _activated(s: ClusterState, ev: e.AuthorityActivated) -> ClusterState:
    if ev.retires:
        s = _authority(s, ev.retires, status=Status.RETIRING, last_leaf_not_after=ev.last_leaf_not_after, replace=False)
    return _authority(s, ev.id, status=Status.ACTIVE, activated_at=ev.at)


def _retired(s: ClusterState, ev: e.AuthorityRetired) -> ClusterState:
    return _authority(s, ev.id, status=Status.RETIRING, last_leaf_not_after=ev.last_leaf_not_after)


def _replaced(s: ClusterState, ev: e.AuthorityReplaced) -> ClusterState:
    return _authority(s, ev.id, replace=True)


def _tainted(s: ClusterState, ev: e.AuthorityTainted) -> ClusterState:
    return _authority(s, ev.id, tainted_at=ev.at, remove_first=ev.remove_first)


def _reissued(s: ClusterState, ev: e.AuthorityReissued) -> ClusterState:
    return _authority(s, ev.id, reissue_at=ev.at)


def _removed(s: ClusterState, ev: e.AuthorityRemoved) -> ClusterState:
    return _authority(s, ev.id, status=Status.REMOVED)


def _published(s: ClusterState, ev: e.BundlePublished) -> ClusterState:
    level = Level(ev.epoch, ev.sequence)
    for id_ in ev.carries:
        if s.authorities[id_].first_level is None:
            s = _authority(s, id_, first_level=level)
    return replace(s, level=level, envelope=ev.envelope, carries=ev.carries)


def _epoch(s: ClusterState, ev: e.EpochBegun) -> ClusterState:
    return replace(s, floor=Level(ev.epoch, ev.sequence))


def _held(s: ClusterState, ev: e.BundleHeld) -> ClusterState:
    return replace(s, held=max(s.held, Level(ev.epoch, ev.sequence)))


def _entry_put(s: ClusterState, ev: e.EntryPut) -> ClusterState:
    return replace(s, entries=s.entries.put(ev.id, ev))


def _entry_deleted(s: ClusterState, ev: e.EntryDeleted) -> ClusterState:
    return replace(s, entries=s.entries.drop(ev.id))


def _peers_set(s: ClusterState, ev: e.PeersSet) -> ClusterState:
    lists = s.peer_lists.put(ev.name, ev.members) if ev.members else s.peer_lists.drop(ev.name)
    return replace(s, peer_lists=lists)


def _invited(s: ClusterState, ev: e.NodeInvited) -> ClusterState:
    kept = s.invitations
    for old in s.invitations.values():
        if old.expires_at + FORGET_INVITATIONS < ev.at:
            kept = kept.drop(old.token_hash)
    invitation = Invitation(ev.token_hash, ev.name, ev.groups, ev.expires_at)
    return replace(s, invitations=kept.put(ev.token_hash, invitation))


def _attested(s: ClusterState, ev: e.NodeAttested) -> ClusterState:
    held = s.nodes.get(ev.name)
    # A ban outlives whatever attests this name anew.
    banned, banned_at = (held.banned, held.banned_at) if held else ("", None)
    node = Node(ev.name, ev.groups, ev.attestor, ev.evidence, ev.key_hash, ev.chain, ev.at, banned, banned_at)
    used = s.invitations.get(ev.evidence)
    invitations = s.invitations
    if used is not None:
        invitations = invitations.put(ev.evidence, replace(used, key_hash=ev.key_hash))
    return replace(s, nodes=s.nodes.put(ev.name, node), invitations=invitations)


def _banned(s: ClusterState, ev: e.NodeBanned) -> ClusterState:
    return replace(s, nodes=s.nodes.put(ev.name, replace(s.nodes[ev.name], banned=ev.reason, banned_at=ev.at)))


def _grant(s: ClusterState, id_: str, **changes: Any) -> ClusterState:
    return replace(s, grants=s.grants.put(id_, replace(s.grants[id_], **changes)))


def _offered(s: ClusterState, ev: e.GrantOffered) -> ClusterState:
    if len(s.grants) >= KEPT_GRANTS:
        # The hub alone wrote these: nothing of this domain rests on them once they have ended.
        for old in [g for g in s.grants.values() if g.state == "ended" and g.exporter == s.trust_domain]:
            s = replace(s, grants=s.grants.drop(old.id))
    grant = Grant(ev.id, ev.importer, ev.exporter, ev.from_, ev.until, ev.reason, ev.exporter_key, local=ev.local)
    return _at_hub(replace(s, grants=s.grants.put(ev.id, grant)), ev.hub_position)


def _accepted(s: ClusterState, ev: e.GrantAccepted) -> ClusterState:
    # An exporter has one limit, too: a further grant for it begins with that.
    others = _accepted_of(s, s.grants[ev.id].exporter)
    limits = [g.stale_limit for g in others if g.stale_limit]
    limit = min(limits, default=s.grants[ev.id].stale_limit)
    s = _grant(s, ev.id, state="accepted", exporter_key=ev.exporter_key, accepted_at=ev.at, stale_limit=limit)
    held = s.peers.get(s.grants[ev.id].exporter)
    if held is not None and all(g.until <= ev.at for g in others):
        # Granted anew after a while: what is held of it counts from this decision of its owner.
        s = replace(s, peers=s.peers.put(held.trust_domain, replace(held, first_received_at=ev.at)))
    return _pinned(s, s.grants[ev.id].exporter, ev.exporter_key)


def _confirmed(s: ClusterState, ev: e.GrantConfirmed) -> ClusterState:
    grant = s.grants[ev.id]
    state = "accepted" if grant.exporter == s.trust_domain and grant.state == "offered" else grant.state
    return _at_hub(_grant(s, ev.id, state=state, confirmed=True), ev.hub_position)


def _ended(s: ClusterState, ev: e.GrantEnded) -> ClusterState:
    if ev.by == "hub" and s.grants[ev.id].state == "offered":
        # An offer that nobody accepted leaves nothing behind: the hub may make any number of them.
        return _at_hub(replace(s, grants=s.grants.drop(ev.id)), ev.hub_position)
    s = _grant(
        s,
        ev.id,
        state="ended",
        ended_at=ev.at,
        ended_by=ev.by,
        ended_reason=ev.reason,
        confirmed=ev.by == "hub",
    )
    return _at_hub(s, ev.hub_position)


def _repinned(s: ClusterState, ev: e.GrantRepinned) -> ClusterState:
    return replace(_pinned(s, s.grants[ev.id].exporter, ev.exporter_key), hub_position=0)


def _pinned(s: ClusterState, exporter: str, key: bytes) -> ClusterState:
    """An exporter has one pinned key, whichever grant it was named with; what another key signed is forgotten."""
    for grant in _accepted_of(s, exporter):
        if grant.exporter_key != key:
            s = _grant(s, grant.id, exporter_key=key)
    peer = s.peers.get(exporter)
    return s if peer is None or peer.key == key else replace(s, peers=s.peers.drop(exporter))


def _accepted_of(s: ClusterState, exporter: str) -> list[Grant]:
    """The grants by which this domain accepts that one's identities, now or later."""
    own = s.trust_domain
    return [g for g in s.grants.values() if g.importer == own and g.exporter == exporter and g.state == "accepted"]


def _limited(s: ClusterState, ev: e.GrantLimited) -> ClusterState:
    s = _grant(s, ev.id, stale_limit=ev.stale_limit)
    for grant in _accepted_of(s, s.grants[ev.id].exporter):
        s = _grant(s, grant.id, stale_limit=ev.stale_limit)
    return s


def _endpoints(s: ClusterState, ev: e.PeerEndpoints) -> ClusterState:
    known = s.endpoints.put(ev.trust_domain, ev.endpoints) if ev.endpoints else s.endpoints.drop(ev.trust_domain)
    return replace(s, endpoints=known)


def _reserve(s: ClusterState, ev: e.ReserveSet) -> ClusterState:
    return replace(s, reserves=s.reserves.put(ev.group, ev.ttl) if ev.ttl else s.reserves.drop(ev.group))


def _peer(s: ClusterState, ev: e.PeerBundle) -> ClusterState:
    held = s.peers.get(ev.trust_domain)
    # However many follow: a bundle that nobody confirms is no younger because an older one was held back until now.
    first = (held.first_received_at or held.received_at) if held is not None and held.key == ev.key else None
    peer = Peer(ev.trust_domain, ev.key, ev.epoch, ev.sequence, ev.envelope, ev.received_at, first or ev.received_at)
    return _at_hub(replace(s, peers=s.peers.put(ev.trust_domain, peer)), ev.hub_position)


def _foreign(s: ClusterState, ev: e.ForeignPeerAdded | e.ForeignPeerChanged) -> ClusterState:
    held = s.foreign.get(ev.trust_domain)
    grant = s.grants.get(held.grant) if held is not None else None
    if grant is None or grant.state != "accepted":
        # Trusted anew after a while: what was held before is not handed out again until its endpoint says so.
        s = replace(s, peers=s.peers.drop(ev.trust_domain))
    given = ForeignPeer(
        ev.trust_domain, ev.profile, ev.url, ev.endpoint_id, ev.ca, ev.anchors, ev.readers, ev.grant, ev.at
    )
    if held is not None:
        given = replace(
            given,
            added_at=held.added_at,
            sequence=held.sequence,
            keys=held.keys,
            refresh_hint=held.refresh_hint,
            accepted_at=held.accepted_at,
        )
    return replace(s, foreign=s.foreign.put(ev.trust_domain, given))


def _foreign_removed(s: ClusterState, ev: e.ForeignPeerRemoved) -> ClusterState:
    return replace(s, foreign=s.foreign.drop(ev.trust_domain))


def _foreign_accepted(s: ClusterState, ev: e.ForeignBundleAccepted) -> ClusterState:
    peer = s.foreign[ev.trust_domain]
    # SPIFFE Federation §5.2.2.4: the first bundle is for the first connection; from here on the newest one counts.
    own = peer.endpoint_id.removeprefix("spiffe://").partition("/")[0] == ev.trust_domain
    peer = replace(
        peer,
        anchors=b"" if own else peer.anchors,
        sequence=ev.sequence,
        keys=ev.keys,
        refresh_hint=ev.refresh_hint,
        accepted_at=ev.at,
        fault="",
        message="",
        refused_keys="",
        fault_at=None,
    )
    return replace(s, foreign=s.foreign.put(ev.trust_domain, peer))


def _foreign_refused(s: ClusterState, ev: e.ForeignBundleRefused) -> ClusterState:
    peer = replace(s.foreign[ev.trust_domain], fault=ev.fault, message=ev.message, refused_keys=ev.keys, fault_at=ev.at)
    return replace(s, foreign=s.foreign.put(ev.trust_domain, peer))


def _role(s: ClusterState, ev: e.RoleSigned) -> ClusterState:
    return replace(s, role=ev)


def _joined(s: ClusterState, ev: e.HubJoined) -> ClusterState:
    return replace(s, hub_instance=ev.hub_instance, hub_position=0)


def _proposals(s: ClusterState, ev: approvals.ApprovalEvent) -> ClusterState:
    return replace(s, proposals=approvals.apply(s.proposals, ev))


def _at_hub(s: ClusterState, position: int) -> ClusterState:
    return replace(s, hub_position=position) if position > s.hub_position else s


_APPLY: dict[type[Any], Callable[[ClusterState, Any], ClusterState]] = {
    e.Keyed: _keyed,
    e.Enrolled: _enrolled,
    e.RootsAdvanced: _roots,
    e.AuthorityPrepared: _prepared,
    e.AuthorityCertified: _certified,
    e.AuthorityActivated: _activated,
    e.AuthorityRetired: _retired,
    e.AuthorityReplaced: _replaced,
    e.AuthorityTainted: _tainted,
    e.AuthorityReissued: _reissued,
    e.AuthorityRemoved: _removed,
    e.BundlePublished: _published,
    e.EpochBegun: _epoch,
    e.BundleHeld: _held,
    e.EntryPut: _entry_put,
    e.EntryDeleted: _entry_deleted,
    e.PeersSet: _peers_set,
    e.NodeInvited: _invited,
    e.NodeAttested: _attested,
    e.NodeBanned: _banned,
    e.GrantOffered: _offered,
    e.GrantAccepted: _accepted,
    e.GrantConfirmed: _confirmed,
    e.GrantEnded: _ended,
    e.GrantRepinned: _repinned,
    e.PeerBundle: _peer,
    e.HubJoined: _joined,
    e.RoleSigned: _role,
    e.PeerEndpoints: _endpoints,
    e.GrantLimited: _limited,
    e.ReserveSet: _reserve,
    e.ForeignPeerAdded: _foreign,
    e.ForeignPeerChanged: _foreign,
    e.ForeignPeerRemoved: _foreign_removed,
    e.ForeignBundleAccepted: _foreign_accepted,
    e.ForeignBundleRefused: _foreign_refused,
    **APPLY_EVIDENCE,
    **APPLY_ISTIO,
    **dict.fromkeys(approvals.EVENTS.values(), _proposals),
}
