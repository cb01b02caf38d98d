"""What the feed says of itself: at its admin socket, and at the health address."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from trustfed.federation.mesh_digest import digest
from trustfed.feed.config import FeedConfig
from trustfed.feed.follow import Follow
from trustfed.feed.identity import IdentitySource
from trustfed.feed.served import Served
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import from_ms, to_ms
from trustfed.runtime.unix_http import Request, Response, Routes
from trustfed.runtime.version import SOFTWARE

MAX_LISTED = 100


class Admin:
    """Answers GET /status, /resources and /ready."""

    def __init__(
        self,
        config: FeedConfig,
        served: Served,
        follow: Follow,
        source: IdentitySource,
        readers: Callable[[], int],
        istiod_up: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._config, self._served, self._follow, self._source = config, served, follow, source
        self._readers, self._istiod_up, self._clock = readers, istiod_up, clock

    def missing(self) -> list[str]:
        """What it cannot do its work without: routes. The cluster and the agent may be away."""
        return [] if self._served.state is not None else ["routes"]

    def routes(self) -> Routes:
        """For trustfed.runtime.unix_http.serve."""
        return {
            ("GET", "/status"): self._status,
            ("GET", "/resources"): self._resources,
            ("GET", "/ready"): self._ready,
        }

    def status(self) -> dict[str, object]:
        """`trustfed feed status`."""
        served, link, identity = self._served, self._follow.status, self._source.current
        state, output = served.state, self._config.output
        rejected = served.rejected
        return {
            "software": SOFTWARE,
            "trust_domain": self._config.trust_domain.name,
            "identity": {
                "spiffe_id": str(identity.id) if identity else None,
                "until": _iso(identity.not_after) if identity else None,
                "error": self._source.error,
            },
            "cluster": {
                "address": link.address,
                "connected": link.connected_since is not None,
                "since": _iso(link.connected_since),
                "heard": _iso(link.heard),
                "error": link.error,
                "hint": link.hint,
            },
            "routes": {
                "known": state is not None,
                "saved": served.saved,
                "resources": len(state.resources) if state else 0,
                "digest": digest(state.versions).hex() if state else "",
                "confirmed_at": _iso(from_ms(served.confirmed_ms)) if served.confirmed_ms else None,
                "age_seconds": (
                    max(to_ms(self._clock.now()) - served.confirmed_ms, 0) // 1000 if served.confirmed_ms else None
                ),
                "rejected_count": len(rejected),
                "rejected": dict(sorted(rejected.items())[:MAX_LISTED]),
            },
            "output": {
                "directory": str(output.directory) if output.directory else None,
                "istiod": output.istiod or None,
                "istiod_up": self._istiod_up(),
                "mcp": output.mcp or None,
                "readers": self._readers(),
                "trouble": dict(served.trouble),
            },
        }

    async def _status(self, _: Request) -> Response:
        return Response.of(self.status())

    async def _resources(self, _: Request) -> Response:
        state = self._served.state
        versions = state.versions if state else {}
        return Response.of({"resources": [{"resource": key, "version": versions[key]} for key in sorted(versions)]})

    async def _ready(self, _: Request) -> Response:
        """For the admin socket: the doors are open. What is served is told by the health address."""
        return Response.of({"ready": True, "missing": self.missing(), "saved": self._served.saved})


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
