"""Peers' envelopes from the store, while the hub is away or silent about them: for peers whose own endpoints are not reached.

What comes passes `grants.receive` as from any hand: the pinned key decides. That a domain signed its role when it did counts as a
confirmation of the envelope that the role lists (trustfed.cluster.freshness).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from trustfed.cluster.freshness import Freshness, Standing
from trustfed.cluster.intake import Intake
from trustfed.cluster.state import ClusterState
from trustfed.journal.fold import Fold
from trustfed.reading.config import StoreConfig
from trustfed.reading.fallback import Need, StoreFallback
from trustfed.reading.order import Found, Wanted
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry

log = logs.get("cluster.store_fallback")


def store_fallback(
    config: StoreConfig,
    data_dir: Path,
    fold: Fold[ClusterState],
    freshness: Freshness,
    clock: Clock,
    registry: Registry,
    intake: Intake | None = None,
) -> StoreFallback:
    """The fall-back of one cluster: `run` it beside the uplink, show its `status`."""
    way_in = intake or Intake(fold, clock)

    def needed(now: datetime) -> Sequence[Need]:
        return stale(fold.state, freshness, now)

    async def take(found: Found) -> None:
        name = found.trust_domain
        held = fold.state.peers.get(name)
        data = found.envelope or (held.envelope if held is not None else b"")
        made = await way_in.take(name, data, actor="store", reason="read in the protected publication")
        freshness.note(name, found.signed_at)
        if made:
            log.info("bundle of a peer came from the store", peer=name)

    visits = registry.counter(
        "cluster_store_visits_total", "visits to the store for peers' envelopes", labels=("outcome",)
    )
    return StoreFallback(config, data_dir, needed, take, clock, random.SystemRandom().random, visits)


def stale(state: ClusterState, freshness: Freshness, now: datetime) -> list[Need]:
    """The domains imported here of which nothing, nothing fresh, or not the newest is held."""
    found = []
    for name, grant in state.pins(now).items():
        if grant.local:
            continue
        peer = state.peers.get(name)
        known = peer is not None and peer.key == grant.exporter_key
        if known and not freshness.withheld(name) and freshness.standing_of(name, grant, now) is Standing.FRESH:
            continue
        held = hashlib.sha256(peer.envelope).hexdigest() if peer is not None and known else ""
        hint = freshness.hint_of(name) if peer is not None else timedelta(0)
        found.append(Need(Wanted(name, grant.exporter_key, held), hint))
    return found
