"""Puts the parts of this room together, and gives the cluster's own composition one thing to hold."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import Request

from ca.keys.port import KeyStore
from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.doors import Seen
from trustfed.cluster.foreign.admin import foreign_paths
from trustfed.cluster.foreign.config import ForeignConfig
from trustfed.cluster.foreign.poller import Confirmed, ForeignPeers
from trustfed.cluster.foreign.readers import Readers
from trustfed.cluster.foreign.watch import Watch
from trustfed.cluster.state import ClusterState
from trustfed.federation.envelope import Envelope
from trustfed.journal.fold import Fold
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.paths import Paths

MAX_BODY = 256 * 1024
"""Bytes of one request at the admin socket: a first bundle, or a CA file."""


class Foreign:
    """Federation with trust domains that are no members: their bundles here, and who reads ours."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        keys: KeyStore,
        config: ForeignConfig,
        confirmed: Confirmed,
        own_hint: Callable[[], float],
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._clock = clock
        self._readers = Readers(clock.now())
        self._peers = ForeignPeers(fold, keys, config, confirmed, clock, registry)
        self._watch = Watch(fold, self._peers, self._readers, own_hint, clock, registry)

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        return [self._peers.run(), self._watch.run()]

    def seen(self, profile: str) -> Seen:
        """Notes the readers of one door."""

        def saw(request: Request, document: str, served: Envelope) -> None:
            address = request.client.host if request.client else ""
            level = (served.level.epoch, served.level.sequence)
            self._readers.saw(address, profile, document, level, self._clock.now())

        return saw

    def admin(self, app: Paths, parts: AdminParts) -> Paths:
        """The admin application with the paths of this room."""
        foreign_paths(app, parts, self._peers, self._watch)
        return app
