"""Puts the parts of this room together, and gives the cluster's own composition one thing to hold."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.callers import Callers
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.istio_ca.compose import IstioParts
from trustfed.cluster.istio_ca.inside import Inside
from trustfed.cluster.mesh.admin_feeds import feed_paths
from trustfed.cluster.mesh.admin_heard import heard_paths
from trustfed.cluster.mesh.admin_mesh import mesh_paths
from trustfed.cluster.mesh.admin_mesh_desired import desired_paths
from trustfed.cluster.mesh.admin_routes import route_paths
from trustfed.cluster.mesh.desired.watch import DesiredDirectory
from trustfed.cluster.mesh.explain import Explain, Hub
from trustfed.cluster.mesh.feed_door import FeedDoor
from trustfed.cluster.mesh.hearing import Hearing
from trustfed.cluster.mesh.kubernetes.parts import KubernetesParts
from trustfed.cluster.mesh.probe_admin import Probes
from trustfed.cluster.mesh.routes import Routes
from trustfed.cluster.mesh.telling import Telling
from trustfed.cluster.parts import Parts
from trustfed.cluster.proxies import Proxies
from trustfed.cluster.publication import OwnRole
from trustfed.cluster.uplink import Uplink
from trustfed.federation.envelope import Envelope
from trustfed.journal.events import TypedEvent
from trustfed.runtime.paths import Paths

MAX_BODY = 8 * 1024 * 1024
"""Bytes of one request at the admin socket: a whole directory of desired state."""


class MeshParts:
    """The mesh of this cluster: own items, routes of others, what is rendered, and who is given it."""

    def __init__(self, parts: Parts, uplink: Uplink, news: HubNews, own_envelope: Callable[[], Envelope]) -> None:
        self._parts, self._config = parts, parts.config.mesh
        self._uplink, self._news, self._own_envelope = uplink, news, own_envelope
        self._reach = self._config.reach()
        self._directory = self._open_directory()
        self.telling = Telling(parts.fold, parts.keys, uplink.look)
        self.hearing = Hearing(parts.fold, self._reach, parts.clock, parts.registry)
        self._hear_the_hub()
        self.routes = Routes(parts.fold, self._config, parts.clock, parts.registry)
        self.feeds = FeedDoor(
            parts.fold,
            Callers(Inside(own_envelope, parts.fold).bundle, parts.clock),
            self.routes,
            lambda: self.hearing.heard_at,
            parts.clock,
            parts.registry,
        )
        self._probes = Probes(parts.fold, self._config, parts.clock, parts.registry)
        self._kubernetes = KubernetesParts(
            parts.fold,
            self._config.kubernetes,
            parts.clock,
            parts.registry,
            root_namespace=self._config.root_namespace,
        )
        self.istio = IstioParts(parts, own_envelope)
        self.proxies = Proxies(parts.fold, parts.store.ledger, parts.clock, parts.registry)

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        return [
            self.hearing.run(),
            self.routes.run(),
            *([self._directory.run()] if self._directory else []),
            *self._probes.jobs(),
            *self._kubernetes.jobs(),
            self.proxies.run(),
            *self.istio.jobs(),
        ]

    def on_event(self, event: TypedEvent) -> None:
        """One event of the cluster's journal, after it was folded."""
        self.telling.on_event(event)
        self.hearing.on_event(event)
        self.routes.on_event(event)
        self._kubernetes.on_event(event)
        self.feeds.on_event(event)
        self.istio.on_event(event)

    def handlers(self) -> list[Any]:
        """gRPC services beside the agents', for `Server.add_generic_rpc_handlers`."""
        return [self.feeds.handlers()]

    def admin(self, app: Paths, parts: AdminParts) -> Paths:
        """The admin application with the paths of this room."""
        heard_paths(app, parts, self.hearing)
        self.istio.admin(app, parts)
        self._probes.paths(app)
        self._kubernetes.paths(app)
        route_paths(app, Explain(self._parts.fold, self.routes, self._hub, self._parts.clock))
        feed_paths(app, parts, self.feeds.feeds)
        mesh_paths(app, parts, self._reach)
        desired_paths(app, parts, self._reach, str(self._config.directory or ""), self.status)
        return app

    def publish(self, role: OwnRole) -> None:
        """Let this domain's part of the protected publication list what is rendered."""
        role.of_mesh(_Rendered(self.routes))
        self.routes.subscribe(lambda _: role.mesh_changed())

    def status(self) -> dict[str, object]:
        """For `trustfed mesh status`."""
        return {
            "directory": self._directory.status() if self._directory else None,
            "hub": self.hearing.status(),
            "rendered": self.routes.status(),
            "kubernetes": self._kubernetes.summary(),
            "istio_ca": self.istio.status(),
        }

    async def close(self) -> None:
        """Close what it opened itself."""
        self._kubernetes.close()

    def _hub(self) -> Hub:
        connected, hearing = self._uplink.connected_since is not None, self.hearing
        return Hub(connected, hearing.heard_at, hearing.refused, self._news.refused)

    def _hear_the_hub(self) -> None:
        uplink, hearing = self._uplink, self.hearing
        uplink.join(self.telling)
        uplink.join(hearing)
        uplink.on_connection(lambda: hearing.connection(uplink.connected_since is not None))
        self._news.also_take("routes", hearing.routes)
        self._news.also_take("mesh_refused", hearing.own_refused)

    def _open_directory(self) -> DesiredDirectory | None:
        config, parts = self._config, self._parts
        if config.directory is None:
            return None
        poll = config.directory_poll
        return DesiredDirectory(parts.fold, config.directory, poll, self._reach, parts.clock, parts.registry)


class _Rendered:
    """The routes as a file of manifests takes them (trustfed.cluster.publication.Rendered)."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    def digest(self) -> bytes:
        return self._routes.digest()

    def lines(self) -> list[bytes]:
        table = self._routes.table()
        return [table[key].manifest for key in sorted(table)]
