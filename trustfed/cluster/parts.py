"""What `cluster init` and `cluster serve` both open: the store, the keys, the fold, and what issues from them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from ca.keys.open import close_keys, open_keys
from ca.keys.port import KeyStore
from trustfed.cluster.authorities import Authorities
from trustfed.cluster.config import ClusterConfig
from trustfed.cluster.fold import cluster_fold
from trustfed.cluster.issuance import Issuance
from trustfed.cluster.state import ClusterState
from trustfed.journal.fold import Fold
from trustfed.journal.sqlite import Store, open_store
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock, SystemClock
from trustfed.runtime.metrics import Registry


@dataclass
class Parts:
    """What init and serve both need."""

    config: ClusterConfig
    store: Store
    keys: KeyStore
    fold: Fold[ClusterState]
    issuance: Issuance
    authorities: Authorities
    registry: Registry
    clock: Clock


async def open_parts(config: ClusterConfig) -> Parts:
    """Open the store and the keys and read the journal. Raises Invalid, Conflict, Unavailable; then nothing stays open."""
    logs.configure(config.log.level)
    clock, registry = SystemClock(), Registry()
    store = await asyncio.to_thread(open_store, config.store_directory)
    keys: KeyStore | None = None
    try:
        keys = open_keys(config.keys.within(config.data_dir))
        fold = cluster_fold(store.journal, store.snapshots)
        await fold.start()
    except BaseException:
        await store.close()
        if keys is not None:
            await close_keys(keys)
        raise
    issuance = Issuance(fold, store.ledger, keys, config.policy, clock, os.urandom, registry)
    authorities = Authorities(fold, keys, config.policy, clock, os.urandom, issuance.last_leaf)
    return Parts(config, store, keys, fold, issuance, authorities, registry, clock)


async def close_parts(parts: Parts) -> None:
    """Close them; what was recorded is durable already."""
    await parts.fold.close()
    await parts.store.close()
    await close_keys(parts.keys)
