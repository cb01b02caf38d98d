"""Follows the cluster's own Kubernetes: annotated Services are exported, and what is known of hosts is kept current.

Followed are Services, DestinationRules and PeerAuthentications of all namespaces, and the pods of those namespaces alone
that have a Service which is exported or imported. What they come to is decided together, HOLD_SECONDS after the first
change, for the namespaces that changed. Nothing is decided before whole lists have come, and nothing is taken back because
the API server is away.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from trustfed.cluster.mesh import events as e
from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.kubernetes.collections import Collections
from trustfed.cluster.mesh.kubernetes.exporting import Exporting
from trustfed.cluster.mesh.kubernetes.hosts import APART, Hosts
from trustfed.cluster.mesh.kubernetes.port import ApiServer
from trustfed.cluster.mesh.route_index import item
from trustfed.cluster.state import ClusterState
from trustfed.errors import TrustfedError
from trustfed.federation.mesh import Import
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.waiting import news_or_time

log = logs.get("cluster.mesh.kubernetes")

HOLD_SECONDS = 0.3
MAX_HOSTS = 5_000
RETRY_SECONDS = 5.0
MAX_SHOWN = 500


class KubernetesSource:
    """The Kubernetes of one cluster, as a source of exports and of local knowledge."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        api: ApiServer,
        cluster_domain: str,
        clock: Clock,
        registry: Registry,
        uniform: Callable[[float, float], float] = random.uniform,
        *,
        root_namespace: str,
    ) -> None:
        self._fold, self._clock = fold, clock
        self._shown = Collections(api, cluster_domain, self._mark, clock, uniform, root_namespace=root_namespace)
        self._hosts, self._exporting = Hosts(fold, self._shown, clock), Exporting(fold, self._shown, clock)
        self._news = asyncio.Event()
        self._dirty: set[str] = set()
        self._all = True
        self._error = ""
        self._relevant: tuple[object, object, frozenset[str]] = (None, None, frozenset())
        gauges: dict[str, tuple[str, Callable[[], int]]] = {
            "mesh_kubernetes_failing": (
                "collections of the API server that cannot be followed",
                lambda: sum(bool(follower.error) for follower in self._shown.followers()),
            ),
            "mesh_kubernetes_refused": ("annotated Services that are refused", lambda: len(self._exporting.refused)),
            "mesh_kubernetes_unknown": ("hosts of which nothing is known", lambda: len(self._hosts.unknown)),
        }
        for name, (said, read) in gauges.items():
            registry.gauge(name, said).read(read)

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        return [*self._shown.jobs(), self.run()]

    def on_event(self, event: TypedEvent) -> None:
        """The journal says something else of hosts; what this source said itself it knows."""
        if getattr(event, "source", "") == own.KUBERNETES:
            return
        if isinstance(event, e.LocalSeen | e.LocalForgotten):
            self._mark({_namespace(event.host)})
        elif isinstance(event, e.MeshPut | e.MeshDropped | e.RouteTold | e.RouteGone):
            if event.kind == "export":
                self._mark({_namespace(event.name)})
            elif event.kind == "import":
                self._mark(set())

    async def run(self) -> None:
        """Decide what the collections come to, whenever they change; ends only when cancelled."""
        wait: float | None = None
        try:
            while True:
                await news_or_time(self._news, self._clock, wait)
                await self._clock.sleep(HOLD_SECONDS)
                try:
                    wait = await self.decide()
                    self._error = ""
                except TrustfedError as error:
                    if error.message != self._error:
                        log.error("what Kubernetes shows is not recorded", error=error.message)
                    self._error, self._all, wait = error.message, True, RETRY_SECONDS
                except Exception as error:  # one object that nobody thought of: the others are decided again
                    log.exception("what Kubernetes shows is not recorded", error=error)
                    self._error, self._all, wait = f"deciding broke: {type(error).__name__}", True, RETRY_SECONDS
        finally:
            await self._shown.close()

    async def decide(self) -> float | None:
        """Record what changed; seconds until something else may be believed or recorded. Raises as the journal."""
        if not self._shown.complete:
            return None
        self._dirty |= {_namespace(host) for host in self._hosts.settled()}
        whole, dirty, self._all, self._dirty = self._all, self._dirty, False, set()
        annotated = self._shown.annotated()
        exporting = {host for host, service in annotated.items() if service.said.get("export") == "true"}
        wanted = self._wanted()
        hosts = [*sorted(wanted), *sorted(exporting - wanted)]  # no new annotation displaces what is in use
        followed, beyond = hosts[:MAX_HOSTS], hosts[MAX_HOSTS:]
        self._shown.follow_pods(_namespace(host) for host in followed if self._shown.service(host) is not None)
        self._hosts.only(followed, dict.fromkeys(beyond, f"more than {MAX_HOSTS} hosts are not followed"))
        found = await self._hosts.look(host for host in followed if whole or _namespace(host) in dirty)
        later = await self._exporting.record(found, None if whole else dirty)
        wanted = self._wanted()  # with what is exported since
        later += await self._hosts.record({host: local for host, local in found.items() if host in wanted})
        await self._hosts.forget(wanted)
        self._dirty |= {_namespace(host) for host in later}
        waits = [wait for wait in (self._hosts.wait(), APART if later else None) if wait is not None]
        return min(waits, default=None)

    def status(self) -> dict[str, object]:
        """What is followed, what is refused, and of what nothing is known."""
        refused, unknown = sorted(self._exporting.refused.items()), sorted(self._hosts.unknown.items())
        return {
            "collections": [follower.status() for follower in self._shown.followers()],
            "refused": [{"service": service, "error": why} for service, why in refused[:MAX_SHOWN]],
            "unknown": [{"host": host, "why": why} for host, why in unknown[:MAX_SHOWN]],
            "settling": self._hosts.settling,
            "error": self._error,
        }

    def counts(self) -> dict[str, object]:
        """The status in numbers."""
        failing = [str(follower.of) for follower in self._shown.followers() if follower.error]
        refused, unknown = len(self._exporting.refused), len(self._hosts.unknown)
        return {"failing": failing, "refused": refused, "unknown": unknown, "error": self._error}

    def _mark(self, namespaces: set[str]) -> None:
        """These changed; an empty set: anything may have."""
        self._dirty |= namespaces
        self._all = self._all or not namespaces
        self._news.set()

    def _wanted(self) -> frozenset[str]:
        """The hosts that are exported or imported."""
        mesh = self._fold.state.mesh
        if self._relevant[0] is not mesh.own or self._relevant[1] is not mesh.routes:
            found = {route.name for route in mesh.routes.values() if route.kind == "export"}
            found |= {held.name for held in mesh.of_kind("export")}
            for held in mesh.of_kind("import"):
                said = item("import", held.item)
                found |= {said.host} if isinstance(said, Import) and said.host else set()
            self._relevant = (mesh.own, mesh.routes, frozenset(found))
        return self._relevant[2]


def _namespace(host: str) -> str:
    return host.split(".")[1]
