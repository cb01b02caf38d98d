"""The Kubernetes part of a cluster's mesh put together, and the admin socket's path for what it follows."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from starlette.responses import Response

from trustfed.cluster.admin_parts import answered
from trustfed.cluster.mesh.kubernetes.config import KubernetesConfig
from trustfed.cluster.mesh.kubernetes.driver import OfficialClient
from trustfed.cluster.mesh.kubernetes.source import KubernetesSource
from trustfed.cluster.state import ClusterState
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.paths import Paths


class KubernetesParts:
    """The source and its driver; nothing at all without the table [mesh.kubernetes]."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        config: KubernetesConfig | None,
        clock: Clock,
        registry: Registry,
        *,
        root_namespace: str,
    ) -> None:
        self._api: OfficialClient | None = None
        self._source: KubernetesSource | None = None
        if config is not None:
            self._api = OfficialClient(config)
            self._source = KubernetesSource(
                fold, self._api, config.cluster_domain, clock, registry, root_namespace=root_namespace
            )

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        return self._source.jobs() if self._source is not None else []

    def on_event(self, event: TypedEvent) -> None:
        """One event of the cluster's journal."""
        if self._source is not None:
            self._source.on_event(event)

    def status(self) -> dict[str, object]:
        """What is followed, and what cannot be exported or known."""
        if self._source is None or self._api is None:
            return {"configured": False}
        return {"configured": True, "server": self._api.server, **self._source.status()}

    def summary(self) -> dict[str, object]:
        """The same in a line."""
        if self._source is None:
            return {"configured": False}
        return {"configured": True, **self._source.counts()}

    def paths(self, app: Paths) -> None:
        """Add GET /mesh/kubernetes to the admin application."""

        @app.get("/mesh/kubernetes")
        async def kubernetes() -> Response:
            return answered(self.status())

    def close(self) -> None:
        """Let go of the API server."""
        if self._api is not None:
            self._api.close()
