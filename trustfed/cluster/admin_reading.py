"""The admin socket's paths that only read: bundles, the journal, the ledger."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from ca.lifecycle import Level
from trustfed.cluster import grants
from trustfed.cluster.admin_parts import AdminParts, answered, level_of, page
from trustfed.errors import Invalid, NotFound
from trustfed.runtime.paths import Paths
from trustfed.runtime.timestamps import from_ms


def reading_paths(app: Paths, parts: AdminParts) -> None:
    @app.get("/bundles")
    async def bundles() -> Response:
        state, now = parts.fold.state, parts.clock.now()
        imported, standing = state.imports(now), parts.peers()
        found: list[dict[str, Any]] = [
            {
                "trust_domain": state.trust_domain,
                "home": True,
                "level": level_of(state.level),
            }
        ]
        for peer in state.peers.values():
            if peer.trust_domain in imported:
                found.append(
                    {
                        **standing.get(peer.trust_domain, {}),
                        "trust_domain": peer.trust_domain,
                        "home": False,
                        "level": level_of(Level(peer.epoch, peer.sequence)),
                    }
                )
        return answered({"bundles": found})

    @app.get("/bundles/{name}")
    async def bundle(name: str, format: str = "spiffe") -> Response:
        state = parts.fold.state
        if name == state.trust_domain:
            assert state.domain is not None
            data, key = state.envelope, state.domain.publication_key
        else:
            peer = state.peers.get(name)
            if peer is None or name not in state.imports(parts.clock.now()):
                raise NotFound(f"no bundle of trust domain {name[:255]!r} is held here", hint="trustfed grant list")
            data, key = peer.envelope, peer.key
        envelope = grants.held_envelope(data, name, key)
        match format:
            case "envelope":
                return Response(envelope.data, media_type="application/json")
            case "pem":
                return Response(envelope.bundle.x509_pem(), media_type="application/x-pem-file")
            case "spiffe":
                return Response(envelope.body, media_type="application/json")
        raise Invalid(f"format {format[:20]!r} is unknown", hint="spiffe, envelope or pem")

    @app.get("/events")
    async def events(after: int = 0, limit: int = 100) -> Response:
        records = await parts.journal.read(max(after, 0), page(limit))
        more = bool(records) and records[-1].position < parts.fold.position
        return answered(
            {
                "events": [
                    {
                        "position": record.position,
                        **msgspec.to_builtins(record.event),
                        "at": from_ms(record.event.at),
                        "at_ms": record.event.at,
                    }
                    for record in records
                ],
                "next": records[-1].position if more else None,
            }
        )

    @app.get("/issued")
    async def issued(after: int = 0, limit: int = 100) -> Response:
        facts = await parts.ledger.read(max(after, 0), page(limit))
        # The ledger has no head to compare with: an empty page is the last one.
        return answered(
            {
                "issued": [
                    {"position": record.position, **msgspec.to_builtins(record.fact), "at": from_ms(record.fact.at)}
                    for record in facts
                ],
                "next": facts[-1].position if facts else None,
            }
        )
