"""The admin socket's paths for grants, for the authorities of this domain, and for a new epoch of its bundle."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ca.lifecycle import AuthorityState, Kind, Status
from trustfed.cluster import authority_commands, grants
from trustfed.cluster.admin_parts import AdminParts, actor, answered, body_of, level_of, record
from trustfed.cluster.approvals import (
    AuthorityActivation,
    AuthorityPreparation,
    AuthorityRevocation,
    AuthorityTaint,
    missing_for,
    preparation,
)
from trustfed.cluster.approvals_admin import asked
from trustfed.cluster.state import ClusterState, Grant
from trustfed.errors import Invalid
from trustfed.federation.envelope import PublicationKey
from trustfed.journal.approving import Pinned
from trustfed.runtime.config import duration
from trustfed.runtime.paths import Paths


class GrantDecision(msgspec.Struct, forbid_unknown_fields=True):
    fingerprint: str = ""
    reason: str = ""


class GrantLimit(msgspec.Struct, forbid_unknown_fields=True):
    stale_limit: str  # such as "7d"; "0s": as policy says
    reason: str = ""


class RepinRequest(msgspec.Struct, forbid_unknown_fields=True):
    publication_key: bytes  # SPKI DER, base64
    fingerprint: str
    reason: str = ""


class EpochCommand(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""
    epoch: int = 0  # 0: the next above all that was reported


class AuthorityCommand(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""
    kind: str = "x509"
    remove_first: bool = False
    break_glass: bool = False  # at once and alone, alarmed


def grant_paths(app: Paths, parts: AdminParts) -> None:
    @app.get("/grants")
    async def listed() -> Response:
        return answered({"grants": [_grant(grant) for grant in parts.fold.state.grants.values()]})

    @app.post("/grants/{id_}/accept")
    async def accepted(id_: str, request: Request) -> Response:
        said = await body_of(request, GrantDecision)
        await record(parts, request, lambda s: grants.accept(s, id_, said.fingerprint, parts.clock.now()), said.reason)
        return answered(_grant(parts.fold.state.grants[id_]))

    @app.post("/grants/{id_}/end")
    async def ended(id_: str, request: Request) -> Response:
        said = await body_of(request, GrantDecision)
        by = actor(request)
        await record(parts, request, lambda s: grants.end(s, id_, by, said.reason, parts.clock.now()), said.reason)
        return answered(_grant(parts.fold.state.grants[id_]))

    @app.post("/grants/{id_}/limit")
    async def limited(id_: str, request: Request) -> Response:
        said = await body_of(request, GrantLimit)
        await record(parts, request, lambda s: grants.limit(s, id_, duration(said.stale_limit)), said.reason)
        return answered(_grant(parts.fold.state.grants[id_]))

    @app.post("/grants/{id_}/repin")
    async def repinned(id_: str, request: Request) -> Response:
        said = await body_of(request, RepinRequest)
        await record(
            parts, request, lambda s: grants.repin(s, id_, said.publication_key, said.fingerprint), said.reason
        )
        return answered(_grant(parts.fold.state.grants[id_]))


def authority_paths(app: Paths, parts: AdminParts) -> None:
    @app.get("/authorities")
    async def listed() -> Response:
        now = parts.clock.now()
        return answered({"authorities": [_authority(a, parts, now) for a in parts.fold.state.authorities.values()]})

    @app.post("/authorities/prepare")
    async def prepared(request: Request) -> Response:
        said = await body_of(request, AuthorityCommand)
        body = Pinned[ClusterState](AuthorityPreparation, lambda state: preparation(state, said.kind))
        told = {"kind": said.kind, "status": "a successor is being prepared; it is activated once all hold it"}
        return await asked(parts, request, body, said.reason, said.break_glass, lambda: told)

    @app.post("/authorities/{id_}/activate")
    async def activated(id_: str, request: Request) -> Response:
        said = await body_of(request, AuthorityCommand)
        known = parts.fold.state.authorities.get(id_)
        missing = missing_for(known, parts, parts.clock.now()) if known else ()
        told = {"id": id_, "status": "active", "missing": missing}
        body = AuthorityActivation(id_, said.reason)
        return await asked(parts, request, body, said.reason, said.break_glass, lambda: told)

    @app.post("/authorities/{id_}/taint")
    async def tainted(id_: str, request: Request) -> Response:
        said = await body_of(request, AuthorityCommand)
        told = {"id": id_, "tainted": True, "remove_first": said.remove_first}
        body = AuthorityTaint(id_, said.remove_first)
        return await asked(parts, request, body, said.reason, said.break_glass, lambda: told)

    @app.post("/authorities/{id_}/revoke")
    async def revoked(id_: str, request: Request) -> Response:
        said = await body_of(request, AuthorityCommand)
        told = {"id": id_, "status": "leaves the bundle at once; what it signed is replaced"}
        return await asked(parts, request, AuthorityRevocation(id_), said.reason, said.break_glass, lambda: told)

    @app.post("/epoch")
    async def begun(request: Request) -> Response:
        said = await body_of(request, EpochCommand)
        if not said.reason.strip():
            raise Invalid("a new epoch needs a reason", hint="--reason 'restored from the backup of 3 March'")
        now, highest = parts.clock.now(), parts.reported.highest
        await record(parts, request, lambda s: authority_commands.begin_epoch(s, highest, said.epoch, now), said.reason)
        floor = parts.fold.state.floor
        return answered({**level_of(floor), "reported": level_of(highest)})


def _grant(grant: Grant) -> dict[str, Any]:
    """A grant, its members named as the hub's; `exporter_fingerprint` is what the hub said until one is pinned."""
    fingerprint, pinned = PublicationKey(grant.exporter_key).fingerprint, grant.accepted_at is not None
    return {
        "id": grant.id,
        "importer": grant.importer,
        "exporter": grant.exporter,
        "state": grant.state,
        "from": grant.from_,
        "until": grant.until,
        "reason": grant.reason,
        "exporter_fingerprint": fingerprint,
        "pinned_fingerprint": fingerprint if pinned else "",
        "ended_by": grant.ended_by,
        "ended_reason": grant.ended_reason,
        "ended_at": grant.ended_at,
        "hub_knows": grant.confirmed,
        "local": grant.local,
        "stale_limit_seconds": grant.stale_limit or None,
    }


def _authority(authority: AuthorityState, parts: AdminParts, now: datetime) -> dict[str, Any]:
    waiting = missing_for(authority, parts, now) if authority.status is Status.PREPARED else ()
    return {
        "id": authority.id,
        "kind": str(authority.kind),
        "status": str(authority.status),
        "tainted": authority.tainted_at is not None,
        "not_before": authority.not_before,
        "not_after": authority.not_after,
        "certified": bool(authority.intermediate),
        "issues": "outside" if authority.kind is Kind.EXTERNAL else "here",
        "first_level": level_of(authority.first_level) if authority.first_level else None,
        "activated_at": authority.activated_at,
        "waiting_for": waiting[:100],
    }
