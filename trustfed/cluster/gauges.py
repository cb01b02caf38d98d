"""What a cluster shows of itself to Prometheus, besides what its parts count."""

from __future__ import annotations

from collections.abc import Callable

from ca.lifecycle import Kind, Status
from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.approvals import missing_for


def show(parts: AdminParts) -> None:
    """Register gauges that are read at each exposition."""
    registry, fold, clock, approvals = parts.registry, parts.fold, parts.clock, parts.approvals
    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        "cluster_journal_position": ("events folded", lambda: fold.position),
        "cluster_proposals_open": ("CA commands that wait for another person", lambda: len(approvals.listed())),
        "cluster_entries": ("registration entries", lambda: len(fold.state.entries)),
        "cluster_nodes_live": (
            "nodes whose own SVID has not expired",
            lambda: len(parts.presence.live(clock.now())),
        ),
        "cluster_nodes_connected": (
            "nodes with an open stream",
            lambda: sum(held.streams > 0 for _, held in parts.presence.live(clock.now())),
        ),
        "cluster_nodes_behind": (
            "live nodes that lack the newest bundle of this domain or of one that it imports",
            lambda: parts.presence.behind(fold.state, clock.now()),
        ),
        "cluster_x509_authority_not_after_seconds": (
            "end of the active X.509 authority, Unix seconds; 0 without one",
            lambda: _end(parts, Kind.X509),
        ),
        "cluster_jwt_authority_not_after_seconds": (
            "end of the active JWT authority, Unix seconds; 0 without one",
            lambda: _end(parts, Kind.JWT),
        ),
        "cluster_authorities_waiting": (
            "prepared authorities whose activation waits for somebody",
            lambda: sum(map(bool, _waited_for(parts))),
        ),
        "cluster_activation_missing": (
            "readers that hold back the activation of a prepared authority",
            lambda: len({name for names in _waited_for(parts) for name in names}),
        ),
    }
    for name, (said, read) in gauges.items():
        registry.gauge(name, said).read(read)


def _end(parts: AdminParts, kind: Kind) -> float:
    authorities = parts.fold.state.authorities.values()
    ends = [a.not_after.timestamp() for a in authorities if a.kind is kind and a.status is Status.ACTIVE]
    return max(ends, default=0.0)


def _waited_for(parts: AdminParts) -> list[tuple[str, ...]]:
    """Per prepared authority, who holds its activation back."""
    now = parts.clock.now()
    prepared = [a for a in parts.fold.state.authorities.values() if a.status is Status.PREPARED]
    return [missing_for(authority, parts, now) for authority in prepared]
