"""Which workloads of this domain may pull its routes: decisions. Pure."""

from __future__ import annotations

from datetime import datetime

from trustfed.cluster.mesh.events import FeedAllowed, FeedForbidden
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, Invalid, NotFound, Unavailable
from trustfed.journal.events import TypedEvent
from trustfed.spiffe.ids import SpiffeId

MAX_FEEDS = 1_000


def allow(state: ClusterState, spiffe_id: str, now: datetime) -> list[TypedEvent]:
    """Let the workload with this ID pull the routes; nothing to record if it may already. Invalid, Denied, Unavailable."""
    id_ = SpiffeId.parse(spiffe_id)
    if id_.trust_domain.name != state.trust_domain:
        raise Denied(
            f"{id_} is not of {state.trust_domain}: a feed is a workload of its own cluster",
            hint=f"spiffe://{state.trust_domain}/ns/istio-system/sa/trustfed-feed",
        )
    if not id_.path:
        raise Invalid(f"{id_} is a trust domain, not a workload", hint="name the ID of the feed's own entry")
    if id_.is_reserved:
        raise Denied(f"{id_} is no workload's ID", hint="name the ID of the feed's own entry")
    if state.mesh.feeds.get(spiffe_id) is not None:
        return []
    if len(state.mesh.feeds) >= MAX_FEEDS:
        raise Unavailable(f"{MAX_FEEDS} feeds are allowed already", hint="trustfed feed forbid")
    return [FeedAllowed(spiffe_id, now)]


def forbid(state: ClusterState, spiffe_id: str, now: datetime) -> list[TypedEvent]:
    """Let it no longer; its streams end at once. Raises NotFound."""
    if state.mesh.feeds.get(spiffe_id) is None:
        raise NotFound(f"{spiffe_id[:300]} is not an allowed feed", hint="trustfed feed list")
    return [FeedForbidden(spiffe_id, now)]


def standing(state: ClusterState, id_: SpiffeId) -> None:
    """Raise Denied unless this is an allowed feed now."""
    if state.mesh.feeds.get(str(id_)) is None:
        raise Denied(f"{id_} is not an allowed feed of {state.trust_domain}", hint=f"trustfed feed allow {id_}")
