"""Puts together what a cluster needs to live apart from its hub, and gives the cluster's own composition one thing to hold."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ca.keys.port import KeyStore
from ca.lifecycle import Policy as LifecyclePolicy
from trustfed.cluster import events as e
from trustfed.cluster.addresses import Addresses
from trustfed.cluster.config import Policy
from trustfed.cluster.confirming import Confirming
from trustfed.cluster.freshness import Freshness, Standing
from trustfed.cluster.hub_needed import HubAlarm
from trustfed.cluster.intake import Intake
from trustfed.cluster.peer_endpoints import PeerEndpoints, guarded
from trustfed.cluster.state import ClusterState
from trustfed.cluster.uplink import Uplink
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach

FILE = "confirmations.json"
MAX_SHOWN = 100
"""Peers by name in one status."""
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


class Apart:
    """Confirmations, freshness of peers, their own endpoints, and the alarm about the hub."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        keys: KeyStore,
        policy: Policy,
        lifecycle: LifecyclePolicy,
        data_dir: Path,
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._fold, self._lifecycle, self._clock, self._registry = fold, lifecycle, clock, registry
        self.freshness = Freshness(fold, policy.stale_limit, clock, registry, data_dir / FILE)
        self.confirming = Confirming(fold, keys, policy.refresh_hint, clock, self._confirmed)
        self.intake = Intake(fold, clock, registry)
        self._confirmed_to: Callable[[], None] = lambda: None
        self._endpoints: PeerEndpoints | None = None
        self._alarm: HubAlarm | None = None
        self.store_status: Callable[[], Mapping[str, Any]] | None = None
        """How reading peers' envelopes from the store stands, if one is configured."""
        registry.gauge(
            "cluster_hub_needed_by_seconds",
            "by when the root must sign the next X.509 authority, Unix seconds; 0 while nothing is known",
        ).read(lambda: at.timestamp() if (at := self._alarm.needed_by() if self._alarm else None) else 0.0)

    def confirmation(self) -> bytes | None:
        """What GET /confirmation answers."""
        return latest.data if (latest := self.confirming.latest) else None

    def join(self, uplink: Uplink, addresses: Addresses, reach: Reach) -> None:
        """Send confirmations up that stream, and take over what it cannot do while it is down."""
        self._confirmed_to = uplink.look
        uplink.also_send(self.confirming.message)
        alarm = self._alarm = HubAlarm(
            lambda: self._fold.state, self._lifecycle, lambda: uplink.connected_since, self._clock
        )
        uplink.on_connection(alarm.look)
        self._endpoints = PeerEndpoints(
            self._fold,
            self.freshness,
            lambda: uplink.connected_since is not None,
            guarded(_with_own(reach, addresses)),
            self._clock,
            self._registry,
            intake=self.intake,
        )

    def on_event(self, event: TypedEvent) -> None:
        """What one event means for these parts."""
        if isinstance(event, e.BundlePublished):
            self.confirming.published()
        if self._alarm is not None and isinstance(event, e.AuthorityActivated | e.AuthorityCertified):
            self._alarm.look()

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        assert self._endpoints is not None and self._alarm is not None, "join() comes first"
        return [
            self.freshness.run(),
            self.confirming.run(),
            self._endpoints.run(),
            self._alarm.run(),
            self.intake.run(),
        ]

    def ask_all(self) -> int:
        """Ask every peer at its own endpoint, soon; gives how many."""
        return self._endpoints.ask_all() if self._endpoints is not None else 0

    def status(self) -> dict[str, object]:
        """For `trustfed cluster status`: by when the hub is needed, and the peers that are not fresh."""
        peers = self.freshness.peers()
        names = {
            kind: sorted(peer.trust_domain for peer in peers if peer.standing is kind)[:MAX_SHOWN] for kind in Standing
        }
        return {
            **(self._alarm.status() if self._alarm else {}),
            "stale": names[Standing.STALE],
            "closed": names[Standing.CLOSED],
            "withheld": sorted(peer.trust_domain for peer in peers if peer.withheld)[:MAX_SHOWN],
            "waiting": self.intake.waiting()[:MAX_SHOWN],
            "store": self.store_status() if self.store_status is not None else None,
            "asked_directly": dict(sorted((self._endpoints.status() if self._endpoints else {}).items())[:MAX_SHOWN]),
        }

    def peers(self) -> dict[str, dict[str, object]]:
        """For `trustfed bundle list`: how each imported domain's bundle stands."""
        return {peer.trust_domain: _shown(dataclasses.asdict(peer)) for peer in self.freshness.peers()}

    def _confirmed(self) -> None:
        self._confirmed_to()


def _shown(peer: dict[str, Any]) -> dict[str, object]:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in peer.items()}


def _with_own(reach: Reach, addresses: Addresses) -> Reach:
    """Loopback is reached only by a cluster that is itself advertised there: all of them are on one machine."""
    hosts = [address.rpartition(":")[0].strip("[]") for address in addresses.https]
    at_home = any(host in ("localhost", "::1") or host.startswith("127.") for host in hosts)
    return dataclasses.replace(reach, allow=(*reach.allow, *_LOOPBACK)) if at_home else reach
