"""The admin socket's paths for the plugged-in CA, for legacy domains, and for how Istio's CA protocol stands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ca.keys.port import KeyStore
from ca.lifecycle import Status
from trustfed.cluster.admin_parts import AdminParts, Reason, actor, answered, body_of, record
from trustfed.cluster.approvals import CacertsAbandon, CacertsBegin, CacertsConfirmed, missing_external
from trustfed.cluster.approvals_admin import asked
from trustfed.cluster.istio_ca import external, legacy, legacy_approved
from trustfed.cluster.istio_ca.state import External
from trustfed.cluster.state import ClusterState
from trustfed.errors import Invalid
from trustfed.federation.envelope import Envelope
from trustfed.runtime.paths import Paths
from trustfed.spiffe.x509svid import pem


class Begin(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    twin: bytes  # DER, base64
    leaf_seconds: int
    reason: str
    break_glass: bool = False


class Anchored(msgspec.Struct, forbid_unknown_fields=True):
    confirmed: bool = False
    reason: str = ""
    break_glass: bool = False


class Abandon(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""
    break_glass: bool = False


class LegacyAdd(msgspec.Struct, forbid_unknown_fields=True):
    anchors: list[bytes]  # DER, base64
    until: datetime
    reason: str
    break_glass: bool = False


def istio_paths(
    app: Paths,
    parts: AdminParts,
    keys: KeyStore,
    own_envelope: Callable[[], Envelope],
    door: Callable[[], dict[str, object]],
) -> None:
    """Add the paths to the admin application."""
    parts.approvals.add(legacy_approved.command(keys))

    def missing(state: ClusterState) -> tuple[str, ...]:
        return missing_external(state, parts)

    def shown() -> dict[str, Any]:
        state, now = parts.fold.state, parts.clock.now()
        return _status(state, external.course(state, missing(state), now), own_envelope())

    @app.get("/cacerts")
    async def status() -> Response:
        return answered(shown())

    @app.post("/cacerts")
    async def begun(request: Request) -> Response:
        said = await body_of(request, Begin)
        body = CacertsBegin(said.id, said.twin, said.leaf_seconds, said.reason)
        return await asked(parts, request, body, said.reason, said.break_glass, shown)

    @app.post("/cacerts/{id_}/anchored")
    async def anchored(id_: str, request: Request) -> Response:
        said = await body_of(request, Anchored)
        if said.confirmed:
            if not said.reason.strip():
                raise Invalid(
                    "to pass over a wait needs a reason", hint='--reason "istioctl proxy-config secret shows both"'
                )
            return await asked(parts, request, CacertsConfirmed(id_), said.reason, said.break_glass, shown)
        now = parts.clock.now()
        await record(parts, request, lambda s: external.anchored(s, id_, missing(s), False, now), said.reason)
        return answered(shown())

    @app.post("/cacerts/{id_}/exported")
    async def exported(id_: str, request: Request) -> Response:
        said = await body_of(request, Reason)
        now = parts.clock.now()
        await record(parts, request, lambda s: external.exported(s, id_, missing(s), now), said.reason)
        return answered(shown())

    @app.post("/cacerts/{id_}/swapped")
    async def swapped(id_: str, request: Request) -> Response:
        said = await body_of(request, Reason)
        now = parts.clock.now()
        await record(parts, request, lambda s: external.swapped(s, id_, now), said.reason)
        return answered(shown())

    @app.post("/cacerts/{id_}/abandon")
    async def abandoned(id_: str, request: Request) -> Response:
        said = await body_of(request, Abandon)
        return await asked(parts, request, CacertsAbandon(id_, said.reason), said.reason, said.break_glass, shown)

    def believed() -> dict[str, Any]:
        state = parts.fold.state
        found = [msgspec.to_builtins(known) for known in state.istio.legacy.values()]
        return {"legacy": found, "mesh_config": legacy.mesh_config(state)}

    @app.get("/legacy")
    async def listed() -> Response:
        return answered(believed())

    @app.put("/legacy/{name}")
    async def added(name: str, request: Request) -> Response:
        said = await body_of(request, LegacyAdd)
        if said.until.tzinfo is None:
            raise Invalid("until has no time zone", hint="RFC 3339, such as 2027-01-31T12:00:00Z")
        body = legacy_approved.LegacyAnchors(name, said.anchors, said.until, said.reason)
        return await asked(parts, request, body, said.reason, said.break_glass, believed)

    @app.post("/legacy/{name}/end")
    async def ended(name: str, request: Request) -> Response:
        said = await body_of(request, Reason)
        by, now = actor(request), parts.clock.now()
        await record(parts, request, lambda s: legacy.end(s, name, by, said.reason, now), said.reason)
        return await listed()

    @app.get("/istio-ca")
    async def protocol() -> Response:
        return answered(door())


def _status(state: ClusterState, stands: external.Course, envelope: Envelope) -> dict[str, Any]:
    known = [_shown(state, one) for one in state.istio.external.values()]
    return {
        "trust_domain": state.trust_domain,
        "step": stands.step,
        "next": stands.next,
        "waits_for": stands.waits_for[:100],
        "until": stands.until,
        "signing": stands.signing,
        "following": stands.following,
        "leaving": stands.leaving,
        # What root-cert.pem must hold: the anchors of this domain alone, in the order in which they came.
        "anchors": [pem([der]).decode() for der in envelope.bundle.x509_authorities],
        "authorities": sorted(known, key=lambda one: str(one["prepared_at"])),
    }


def _shown(state: ClusterState, known: External) -> dict[str, Any]:
    authority = state.authorities[known.id]
    return {
        "id": known.id,
        "status": str(authority.status),
        "issues": "outside",
        "tainted": authority.tainted_at is not None,
        "certificate": pem([authority.twin]).decode() if authority.status is not Status.REMOVED else "",
        "leaf_seconds": known.leaf_seconds,
        "not_after": authority.not_after,
        "prepared_at": known.prepared_at,
        "anchored_at": known.anchored_at,
        "exported_at": known.exported_at,
        "swapped_at": known.swapped_at,
        "retired_at": known.retired_at,
        "last_leaf_not_after": authority.last_leaf_not_after,
    }
