"""What each of this room's events makes of a cluster's state. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from ca.lifecycle import AuthorityState, Kind, Status
from trustfed.cluster.istio_ca import events as e
from trustfed.cluster.istio_ca.state import External
from trustfed.cluster.state import ClusterState

KEY_NAME = "external-"
"""Begins what stands as the name of a key that no key store holds."""


def _authority(s: ClusterState, id_: str, **changes: Any) -> ClusterState:
    return replace(s, authorities=s.authorities.put(id_, dataclasses.replace(s.authorities[id_], **changes)))


def _external(s: ClusterState, id_: str, **changes: Any) -> ClusterState:
    known = s.istio.external.get(id_)
    if known is None:
        return s
    return replace(s, istio=replace(s.istio, external=s.istio.external.put(id_, replace(known, **changes))))


def _prepared(s: ClusterState, ev: e.ExternalPrepared) -> ClusterState:
    new = AuthorityState(
        ev.id, Kind.EXTERNAL, Status.PREPARED, f"{KEY_NAME}{ev.id}", ev.not_before, ev.not_after, twin=ev.twin
    )
    s = replace(s, authorities=s.authorities.put(ev.id, new))
    known = External(ev.id, ev.leaf_seconds, ev.at)
    return replace(s, istio=replace(s.istio, external=s.istio.external.put(ev.id, known)))


def _anchored(s: ClusterState, ev: e.ExternalAnchored) -> ClusterState:
    return _external(s, ev.id, anchored_at=ev.at, confirmed=ev.confirmed)


def _exported(s: ClusterState, ev: e.ExternalExported) -> ClusterState:
    if ev.retires:
        # Until its files are replaced it goes on signing: it stays an anchor as long as it lives itself.
        s = _authority(s, ev.retires, status=Status.RETIRING, last_leaf_not_after=None)
        s = _external(s, ev.retires, retired_at=ev.at)
    s = _authority(s, ev.id, status=Status.ACTIVE, activated_at=ev.at)
    return _external(s, ev.id, exported_at=ev.at, replaces=ev.retires)


def _swapped(s: ClusterState, ev: e.ExternalSwapped) -> ClusterState:
    if ev.retires:
        s = _authority(s, ev.retires, last_leaf_not_after=ev.retires_until)
    return _external(s, ev.id, swapped_at=ev.at)


def _abandoned(s: ClusterState, ev: e.ExternalAbandoned) -> ClusterState:
    return _authority(s, ev.id, status=Status.REMOVED)


def _legacy(s: ClusterState, ev: e.LegacyAnchorAdded) -> ClusterState:
    return replace(s, istio=replace(s.istio, legacy=s.istio.legacy.put(ev.trust_domain, ev)))


def _legacy_ended(s: ClusterState, ev: e.LegacyAnchorEnded) -> ClusterState:
    return replace(s, istio=replace(s.istio, legacy=s.istio.legacy.drop(ev.trust_domain)))


APPLY: dict[type[Any], Callable[[ClusterState, Any], ClusterState]] = {
    e.ExternalPrepared: _prepared,
    e.ExternalAnchored: _anchored,
    e.ExternalExported: _exported,
    e.ExternalSwapped: _swapped,
    e.ExternalAbandoned: _abandoned,
    e.LegacyAnchorAdded: _legacy,
    e.LegacyAnchorEnded: _legacy_ended,
}
