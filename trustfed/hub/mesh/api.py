"""What operators ask of the domains' meshes: who says what, who imports it, and what was refused."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from trustfed.errors import NotFound, Unavailable
from trustfed.federation.mesh import body_of
from trustfed.hub import presentation as show
from trustfed.hub.api import Parts, Viewer
from trustfed.hub.mesh.compose import HubMeshParts
from trustfed.hub.mesh.index import item_in
from trustfed.hub.mesh.refusals import Refused
from trustfed.hub.mesh.state import Told, key
from trustfed.spiffe.ids import shown

Json = dict[str, Any]
MAX_PAGE = 1_000
MAX_IMPORTERS = 100
"""Names of importers with one item; their count is told in any case."""


def routes(parts: Parts) -> APIRouter:
    """All routes of this file."""
    router = APIRouter(prefix="/mesh")

    def mesh() -> HubMeshParts:
        if parts.mesh is None:
            raise Unavailable("this hub takes part in no mesh")
        return parts.mesh

    @router.get("")
    async def domains(caller: Viewer) -> Json:
        """How much each domain says of its mesh, by name."""
        state, held = parts.operations.state, mesh()
        return {"domains": [_summary(parts, held, name) for name in sorted(state.mesh.domains)]}

    @router.get("/{domain}")
    async def domain(
        caller: Viewer,
        domain: str,
        after: Annotated[str, Query(max_length=300)] = "",
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    ) -> Json:
        """What one domain says, by kind and name, with who imports it; and what of it is refused. `next` is the `after` of
        the next page, or null.
        """
        state, held = parts.operations.state, mesh()
        if domain not in state.domains:
            raise NotFound(f"trust domain {shown(domain)} is not registered", hint="trustfed domain list")
        rows = state.mesh.of(domain)
        left = sorted(at for at in rows if at > after)
        return {
            **_summary(parts, held, domain),
            "items": [_item(held, rows[at]) for at in left[:limit]],
            "refusals": [_refusal(one) for one in held.intake.refused(domain)] if not after else [],
            "next": left[limit - 1] if len(left) > limit else None,
        }

    return router


def _summary(parts: Parts, mesh: HubMeshParts, name: str) -> Json:
    state = parts.operations.state
    kinds = [row.kind for row in state.mesh.of(name).values()]
    return {
        "trust_domain": name,
        "owner": state.domains[name].owner,
        "connected": bool(parts.relay.views(name)),
        "gateways": kinds.count("gateway"),
        "exports": kinds.count("export"),
        "imports": kinds.count("import"),
        "refused": len(mesh.intake.refused(name)),
        "importers": mesh.relay.index.importers(name)[:MAX_IMPORTERS],
    }


def _item(mesh: HubMeshParts, row: Told) -> Json:
    index = mesh.relay.index
    importers: list[str] = []
    if row.kind == "gateway":
        importers = index.importers(row.domain)
    elif row.kind == "export":
        importers = index.importers_of(row.domain, row.name)
    return {
        "key": key(row.kind, row.name),
        "kind": row.kind,
        "name": row.name,
        "sequence": row.sequence,
        "told_at": show.time(row.told_ms),
        "says": body_of(item_in(row.statement)),
        "importers": importers[:MAX_IMPORTERS],
        "importer_count": len(importers),
    }


def _refusal(one: Refused) -> Json:
    return {"kind": one.kind, "name": one.name, "sequence": one.sequence, "why": one.why}
