"""The probes of one cluster put together, and the admin socket's path for what they show."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from starlette.responses import Response

from trustfed.cluster.admin_parts import answered
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.cluster.mesh.prober import Prober, SocketProber
from trustfed.cluster.mesh.probing import Probing
from trustfed.cluster.mesh.service_probes import ServiceProbes
from trustfed.cluster.state import ClusterState
from trustfed.journal.fold import Fold
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.paths import Paths


class Probes:
    """TCP probes of imported gateways and TLS probes of imported services."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        config: MeshConfig,
        clock: Clock,
        registry: Registry,
        prober: Prober | None = None,
    ) -> None:
        prober = prober or SocketProber(config.reach())
        timeout = config.probe_timeout.total_seconds()
        self.gateways = Probing(fold, prober, config.probe_interval.total_seconds(), timeout, clock, registry)
        interval = config.tls_probe_interval.total_seconds()
        self.services = ServiceProbes(fold, prober, self.gateways.courses, interval, timeout, clock, registry)
        self._services_too = bool(interval)

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        return [self.gateways.run(), self.services.run() if self._services_too else self.services.off()]

    def status(self) -> dict[str, object]:
        """For `trustfed gateway list --remote`: every remote gateway as it is seen from here, and services that fail."""
        services = self.services.status() if self._services_too else {"asked": 0, "not_asked": 0, "failing": []}
        return {"gateways": self.gateways.status(), "services": services}

    def paths(self, app: Paths) -> None:
        """Add GET /mesh/probes to the admin application."""

        @app.get("/mesh/probes")
        async def probes() -> Response:
            return answered(self.status())
