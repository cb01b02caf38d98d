"""The admin Unix socket of a cluster: what `trustfed entry|node|grant|authority|bundle|cluster` talk to.

Who may connect is the file system's to say (0600, or 0660 for `admin_group`); the actor of every decision is the peer's
uid. Commands on CAs take two of them (trustfed.cluster.approvals).
"""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from trustfed.cluster.admin_parts import AdminParts, answered, level_of
from trustfed.cluster.admin_reading import reading_paths
from trustfed.cluster.admin_registry import entry_paths, node_paths
from trustfed.cluster.admin_trust import authority_paths, grant_paths
from trustfed.cluster.approvals_admin import approval_paths
from trustfed.cluster.audit_admin import audit_paths
from trustfed.federation.envelope import PublicationKey
from trustfed.runtime import metrics
from trustfed.runtime.paths import Paths
from trustfed.runtime.problems import map_errors


def admin_app(parts: AdminParts) -> Paths:
    """Every path of the admin socket; answers are JSON, errors problem details with a hint."""
    app = Paths()
    map_errors(app)
    _health(app, parts)
    for paths in (entry_paths, node_paths, grant_paths, authority_paths, approval_paths, audit_paths, reading_paths):
        paths(app, parts)
    return app


def _health(app: Paths, parts: AdminParts) -> None:
    @app.get("/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/ready")
    async def ready() -> Response:
        missing = parts.ready()
        body = msgspec.json.encode({"ready": not missing, "missing": missing})
        return Response(body, 503 if missing else 200, media_type="application/json")

    @app.get("/metrics")
    async def exposition() -> Response:
        return Response(parts.registry.exposition(), media_type=metrics.CONTENT_TYPE)

    @app.get("/status")
    async def status() -> Response:
        state, now = parts.fold.state, parts.clock.now()
        return answered(
            {
                "trust_domain": state.trust_domain,
                "enrolled": state.hub is not None,
                "hub": parts.hub_status(),
                "without_hub": parts.apart(),
                "reported_ahead": parts.reported.status(),
                "position": parts.fold.position,
                "level": level_of(state.level),
                "publication_key": PublicationKey(state.domain.publication_key).fingerprint if state.domain else None,
                "root_version": len(state.root_documents),
                "entries": len(state.entries),
                "nodes": len(state.nodes),
                "nodes_live": len(parts.presence.live(now)),
                "addresses": parts.addresses,
                "missing": parts.ready(),
                "proxies": parts.proxies(),
            }
        )
