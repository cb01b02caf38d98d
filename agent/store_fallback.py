"""Foreign bundles from the store, while this node's cluster cannot be reached: at the pace of their hints.

Only domains that are held, by the key that they are pinned by; the store introduces nobody, and the home bundle never comes
from it. What it gives passes `Intake.from_store`; the domain's daily signature of its role counts as a confirmation.

That a federation has ended only the cluster can say, and no store does. So what a domain signed counts until its limit has passed
since the cluster's last word, and not beyond: the bundle is CLOSED at the latest two limits after that word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from agent.freshness import LIMIT, State
from agent.intake import Intake
from agent.rotation import Chance
from agent.store import Store
from trustfed.reading.config import StoreConfig
from trustfed.reading.fallback import Need, StoreFallback
from trustfed.reading.order import Found, Wanted
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.ids import TrustDomain


def store_fallback(
    config: StoreConfig,
    data_dir: Path,
    store: Store,
    intake: Intake,
    connected: Callable[[], bool],
    certified: Callable[[], datetime],
    clock: Clock,
    chance: Chance,
    registry: Registry,
) -> StoreFallback:
    """The fall-back of one agent: `run` it beside the sync, show its `status`.

    `certified` is when the cluster gave this node its SVID: a word of the cluster that outlasts restarts.
    """
    connected_at: datetime | None = None

    def needed(now: datetime) -> Sequence[Need]:
        nonlocal connected_at
        if connected():
            connected_at = now
            return ()
        return () if store.banned else stale(store, now)

    async def take(found: Found) -> None:
        domain = TrustDomain.parse(found.trust_domain)
        held = store.bundles.get(domain)
        if held is None:
            return
        heard = max(certified(), connected_at or certified())
        until = heard + store.fresh.limits.get(domain, LIMIT)
        intake.from_store(domain, found.envelope or held.envelope.data, min(found.signed_at, until))

    visits = registry.counter(
        "agent_store_visits_total", "visits to the store for foreign bundles", labels=("outcome",)
    )
    return StoreFallback(config, data_dir, needed, take, clock, chance, visits)


def stale(store: Store, now: datetime) -> list[Need]:
    """The foreign domains held whose bundle is not fresh; what our own cluster signs for others is in no store."""
    found, home = [], store.bundles.get(store.trust_domain)
    for domain, held in store.bundles.items():
        freshness = store.fresh.of(domain, now)
        if freshness is None or freshness.state is State.FRESH or (home is not None and held.key == home.key):
            continue
        data = held.envelope.data
        wanted = Wanted(domain.name, held.key.spki, hashlib.sha256(data).hexdigest())
        found.append(Need(wanted, timedelta(seconds=held.bundle.refresh_hint or 0)))
    return found
