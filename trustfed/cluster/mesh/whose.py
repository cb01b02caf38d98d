"""Which trust domains' identities are this mesh's own, and which are peers'. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from trustfed.cluster.state import ClusterState, Grant

_DEFAULT_DOMAIN = "cluster.local"


def aliases(state: ClusterState, configured: Sequence[str] = ()) -> tuple[str, ...]:
    """Trust domains that are this mesh's own as well: those that are configured (mesh.own_domains), those that it moves away
    from, and Istio's default.

    A mesh that still has Istio's default identities must not refuse itself when the first host is exported. No proxy with
    our anchors believes one, unless the domain was added as a legacy one; a domain of that name that is a peer is foreign.
    """
    # An offer alone, or what another domain accepts, changes nothing here.
    members = {grant.exporter for grant in _accepted(state) if not grant.local}
    usual = set() if _DEFAULT_DOMAIN in members or _DEFAULT_DOMAIN in state.foreign else {_DEFAULT_DOMAIN}
    own = set(configured) - contested(state, configured)
    return tuple(sorted({*usual, *own, *state.istio.legacy} - {state.trust_domain}))


def contested(state: ClusterState, configured: Sequence[str]) -> frozenset[str]:
    """Of the configured domains those that are peers by a grant that has not ended: they are foreign all the same."""
    peers_now = {grant.exporter for grant in _accepted(state) if grant.state == "accepted"}
    return frozenset(configured) & (peers_now | set(state.foreign))


def peers(state: ClusterState, own: Sequence[str]) -> tuple[str, ...]:
    """Other domains whose identities are or were accepted here, but for those that are this mesh's `own` as well.

    From acceptance on, so that they are named before their anchors reach a proxy, and after the end of a grant, because
    a proxy may still have them. Domains outside the federation are among them: their anchors go the same way.
    """
    return tuple(sorted({grant.exporter for grant in _accepted(state)} - {state.trust_domain, *own}))


def first_accepted(state: ClusterState, domains: Sequence[str]) -> datetime | None:
    """When the first of these domains was accepted here; None for none."""
    return min((g.accepted_at for g in _accepted(state) if g.accepted_at and g.exporter in set(domains)), default=None)


def _accepted(state: ClusterState) -> list[Grant]:
    own = state.trust_domain
    return [grant for grant in state.grants.values() if grant.accepted_at is not None and grant.importer == own]
