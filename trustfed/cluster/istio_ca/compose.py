"""Puts the parts of this room together, and gives the cluster's composition one thing to hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from ca.lifecycle import AuthorityState, Kind, Status
from trustfed.cluster import events as cluster_events
from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.istio_ca import legacy
from trustfed.cluster.istio_ca.admin import istio_paths
from trustfed.cluster.istio_ca.config import IstioCaConfig, JwksConfig, KubernetesConfig, local_names
from trustfed.cluster.istio_ca.door import Door, DoorIdentity
from trustfed.cluster.istio_ca.events import LegacyAnchorAdded
from trustfed.cluster.istio_ca.jwks import JwksReviewer, Read, from_file, from_url
from trustfed.cluster.istio_ca.kubernetes import KubernetesApi, KubernetesPods, Server, TokenReviewer
from trustfed.cluster.istio_ca.service import IstioCa
from trustfed.cluster.istio_ca.service_tokens import Reviewer
from trustfed.cluster.parts import Parts
from trustfed.errors import TrustfedError
from trustfed.federation.envelope import Envelope
from trustfed.journal.events import TypedEvent
from trustfed.runtime import logs
from trustfed.runtime.paths import Paths
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster.istio_ca")
_LONGEST_WAIT = 3600.0
_RETRY_SECONDS = 5.0
ROLL_OVER = timedelta(days=30)
"""Before the end of the plugged-in CA it is alarmed; in the last third of its life, if that is shorter."""
SOON = timedelta(days=7)
"""Before the end of a legacy domain its alarm becomes an error in the log."""


class IstioParts:
    """Istio's CA protocol if it is configured; the plugged-in CA and legacy domains in any case."""

    def __init__(self, parts: Parts, own_envelope: Callable[[], Envelope]) -> None:
        self._parts, self._own_envelope = parts, own_envelope
        self._config: IstioCaConfig | None = parts.config.istio_ca
        self._news = asyncio.Event()
        self._door: Door | None = self._open(self._config) if self._config else None
        self._gauges()

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        return [self._times(), *([self._door.run()] if self._door else [])]

    def on_event(self, event: TypedEvent) -> None:
        """One event of the cluster's journal, after it was folded."""
        if isinstance(event, LegacyAnchorAdded | cluster_events.GrantEnded):
            self._news.set()

    def admin(self, app: Paths, parts: AdminParts) -> Paths:
        """The admin application with the paths of this room."""
        istio_paths(app, parts, self._parts.keys, self._own_envelope, self.status)
        return app

    def status(self) -> dict[str, object]:
        """How the door stands."""
        if self._config is None or self._door is None:
            return {"enabled": False}
        source = "jwks" if self._config.jwks else "token review"
        return {
            "enabled": True,
            "address": self._door.address,
            "dns_names": self._config.dns_names,
            "tokens": source,
            "ztunnel": self._config.ztunnel,
            "rule": self._config.rule,
        }

    def _open(self, config: IstioCaConfig) -> Door:
        parts = self._parts
        domain = TrustDomain.parse(parts.fold.state.trust_domain)
        local_names(config.dns_names, parts.fold.state.dns_suffixes)
        identity = DoorIdentity(
            domain,
            parts.issuance,
            parts.config.policy.node_ttl,
            parts.clock,
            config.dns_names,
            lambda: parts.fold.state.dns_suffixes,
        )
        parts.authorities.on_step(identity.authorities_changed)
        api = _kubernetes(config.kubernetes) if config.kubernetes else None
        ca = IstioCa(
            domain,
            parts.issuance,
            lambda: self._own_envelope().bundle.x509_authorities,
            self._reviewer(config, api),
            KubernetesPods(api) if api else None,
            config,
            parts.config.policy,
            parts.clock,
            parts.registry,
        )
        return Door(config.listen, identity, ca.handlers())

    def _reviewer(self, config: IstioCaConfig, api: KubernetesApi | None) -> Reviewer:
        if config.jwks is not None:
            return JwksReviewer(_source(config.jwks), config.expected(), self._parts.clock)
        assert api is not None  # IstioCaConfig has checked
        return TokenReviewer(api, config.audiences)

    async def _times(self) -> None:
        """Record the end of legacy domains whose grant has ended, and alarm; ends only when cancelled."""
        fold, clock = self._parts.fold, self._parts.clock
        while True:
            now, wait = clock.now(), _LONGEST_WAIT
            try:
                if legacy.over(fold.state, now):
                    await fold.execute(
                        partial(legacy.over, now=now),
                        command_id=uuid4().hex,
                        actor="cluster",
                        reason="its grant has ended",
                        now=now,
                    )
                for known in fold.state.istio.legacy.values():
                    wait = min(wait, max((known.until - now).total_seconds(), 0) + 0.05)
                    tell = log.error if known.until - now < SOON else log.warning
                    tell("a legacy domain is believed", trust_domain=known.trust_domain, until=known.until.isoformat())
                self._alarm_external()
            except TrustfedError as error:
                log.error("the end of a legacy domain is not recorded yet", error=error.message)
                wait = _RETRY_SECONDS
            await news_or_time(self._news, clock, wait)

    def _gauges(self) -> None:
        registry, fold = self._parts.registry, self._parts.fold
        registry.gauge("cluster_legacy_domains", "legacy trust domains that are still believed").read(
            lambda: float(len(fold.state.istio.legacy))
        )
        registry.gauge(
            "cluster_external_authority_not_after_seconds",
            "end of the plugged-in CA that signs, Unix seconds; 0 without one",
        ).read(self._external_end)

    def _alarm_external(self) -> None:
        """What istiod signs with does not roll over by itself: say so while there is time."""
        now = self._parts.clock.now()
        for one in self._signing():
            if one.not_after - now < min(ROLL_OVER, (one.not_after - one.not_before) / 3):
                hint = "trustfed cacerts begin rolls another one in"
                log.error("the plugged-in CA ends soon", not_after=one.not_after.isoformat(), hint=hint)

    def _external_end(self) -> float:
        return max((one.not_after.timestamp() for one in self._signing()), default=0.0)

    def _signing(self) -> list[AuthorityState]:
        every = self._parts.fold.state.authorities.values()
        return [a for a in every if a.kind is Kind.EXTERNAL and a.status is Status.ACTIVE]


def _source(config: JwksConfig) -> Read:
    return from_file(config.file) if config.file else from_url(config.url, config.ca_file, config.reach())


def _kubernetes(config: KubernetesConfig) -> KubernetesApi:
    server = Server(config.url, config.ca_file, config.token_file)
    return KubernetesApi(server, config.timeout.total_seconds())
