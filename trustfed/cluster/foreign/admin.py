"""The admin socket's paths for foreign peers, and for who reads our own bundle: what `trustfed peer` talks to."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trustfed.cluster.admin_parts import AdminParts, Reason, actor, answered, body_of, record
from trustfed.cluster.foreign import commands
from trustfed.cluster.foreign.commands import Settings
from trustfed.cluster.foreign.poller import ForeignPeers, Order
from trustfed.cluster.foreign.watch import Watch
from trustfed.errors import Invalid
from trustfed.runtime.paths import Paths


class PeerPut(msgspec.Struct, forbid_unknown_fields=True):
    profile: str
    url: str
    until: datetime
    reason: str
    endpoint_id: str = ""
    ca: list[bytes] = []  # DER, base64
    bundle: bytes = b""  # a SPIFFE bundle document, base64
    readers: list[str] = []


class Acceptance(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""
    keys: str = ""


def foreign_paths(app: Paths, parts: AdminParts, peers: ForeignPeers, watch: Watch) -> None:
    """Add the paths to the admin application."""

    def shown(name: str) -> Response:
        return answered(watch.status(commands.known(parts.fold.state, name)))

    @app.get("/foreign")
    async def listed() -> Response:
        return answered({"peers": [watch.status(peer) for peer in parts.fold.state.foreign.values()]})

    @app.get("/readers")
    async def readers() -> Response:
        return answered({"readers": watch.readers()})

    @app.get("/foreign/{name}")
    async def one(name: str) -> Response:
        return shown(name)

    @app.put("/foreign/{name}")
    async def put(name: str, request: Request) -> Response:
        said = await body_of(request, PeerPut)
        if said.until.tzinfo is None:
            raise Invalid("until has no time zone", hint="RFC 3339, such as 2027-01-31T12:00:00Z")
        ca, readers = tuple(said.ca), tuple(said.readers)
        given = Settings(name, said.profile, said.url, said.endpoint_id, ca, said.bundle, readers)
        grant, now = f"local-{uuid4().hex[:16]}", parts.clock.now()
        await record(parts, request, lambda s: commands.put(s, given, said.until, said.reason, grant, now), said.reason)
        return shown(name)

    @app.post("/foreign/{name}/refresh")
    async def refreshed(name: str) -> Response:
        await peers.refresh(name)
        return shown(name)

    @app.post("/foreign/{name}/accept")
    async def accepted(name: str, request: Request) -> Response:
        said = await body_of(request, Acceptance)
        await peers.accept(name, Order(actor(request), said.reason, said.keys))
        return shown(name)

    @app.post("/foreign/{name}/remove")
    async def removed(name: str, request: Request) -> Response:
        said = await body_of(request, Reason)
        by = actor(request)
        await record(
            parts, request, lambda s: commands.remove(s, name, by, said.reason, parts.clock.now()), said.reason
        )
        return answered({"trust_domain": name, "removed": True})
