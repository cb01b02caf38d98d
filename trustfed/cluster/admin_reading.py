"""The admin socket's paths that only read: bundles, the journal, the ledger."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI, Response

from trustfed.cluster import grants
from trustfed.cluster.admin_parts import AdminParts, answered, page
from trustfed.errors import Invalid, NotFound


def reading_paths(app: FastAPI, parts: AdminParts) -> None:
    @app.get("/bundles")
    async def bundles() -> Response:
        state, now = parts.fold.state, parts.clock.now()
        imported = state.imports(now)
        found = [
            {
                "trust_domain": state.trust_domain,
                "home": True,
                "epoch": state.level.epoch,
                "sequence": state.level.sequence,
            }
        ]
        for peer in state.peers.values():
            if peer.trust_domain in imported:
                found.append(
                    {
                        "trust_domain": peer.trust_domain,
                        "home": False,
                        "epoch": peer.epoch,
                        "sequence": peer.sequence,
                    }
                )
        return answered(found)

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
        return answered([{"position": record.position, **msgspec.to_builtins(record.event)} for record in records])

    @app.get("/issued")
    async def issued(after: int = 0, limit: int = 100) -> Response:
        facts = await parts.ledger.read(max(after, 0), page(limit))
        return answered([{"position": record.position, **msgspec.to_builtins(record.fact)} for record in facts])
