"""The admin socket's path for what others' domains offer this one, as they signed it."""

from __future__ import annotations

from starlette.responses import Response

from trustfed.cluster.admin_parts import AdminParts, answered, page
from trustfed.cluster.mesh.hearing import Hearing
from trustfed.federation.mesh import body_of, read_item
from trustfed.runtime.paths import Paths


def heard_paths(app: Paths, parts: AdminParts, hearing: Hearing) -> None:
    """Add the path to the admin application."""

    @app.get("/mesh/heard")
    async def heard(after: str = "", limit: int = 100) -> Response:
        """Routes by exporter, kind and name; `next` is the `after` of the next page, or null."""
        routes, limit = parts.fold.state.mesh.routes, page(limit)
        left = sorted(at for at in routes if at > after)
        found = [
            {
                "key": at,
                "exporter": held.exporter,
                "kind": held.kind,
                "name": held.name,
                "sequence": held.sequence,
                "says": body_of(read_item(held.kind, held.item)),
                "since": held.created_at,
                "changed_at": held.changed_at,
            }
            for at in left[:limit]
            for held in (routes[at],)
        ]
        return answered(
            {"heard_at": hearing.heard_at, "routes": found, "next": left[limit - 1] if len(left) > limit else None}
        )
