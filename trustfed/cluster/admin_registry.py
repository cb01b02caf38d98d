"""The admin socket's paths for registration entries, named peers, and nodes."""

from __future__ import annotations

import secrets
from typing import Any
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from trustfed.cluster import entries, nodes
from trustfed.cluster.admin_parts import AdminParts, Reason, answered, body_of, level_of, record, seconds
from trustfed.cluster.entries import EntrySpec, Ttls
from trustfed.cluster.events import EntryPut
from trustfed.cluster.reserves import reserve_seconds, set_reserve
from trustfed.cluster.state import newest_roots
from trustfed.errors import Conflict, Invalid, NotFound, Unavailable
from trustfed.federation.enrolment import text as text_of
from trustfed.federation.names import cluster_id
from trustfed.federation.token import EnrolmentToken, secret_hash
from trustfed.runtime.config import duration
from trustfed.runtime.paths import Paths
from trustfed.spiffe.ids import TrustDomain


class TokenRequest(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    groups: tuple[str, ...] = ()
    ttl: str = "10m"


class ReserveRequest(msgspec.Struct, forbid_unknown_fields=True):
    ttl: str = "0s"  # no longer
    reason: str = ""


class PeersRequest(msgspec.Struct, forbid_unknown_fields=True):
    members: tuple[str, ...] = ()


def entry_paths(app: Paths, parts: AdminParts) -> None:
    policy = parts.policy
    ttls = Ttls(
        seconds(policy.svid_ttl), seconds(policy.svid_ttl_max), seconds(policy.jwt_ttl), seconds(policy.jwt_ttl_max)
    )

    @app.get("/entries")
    async def listed() -> Response:
        return answered({"entries": [_entry(entry) for entry in parts.fold.state.entries.values()]})

    @app.get("/entries/{id_}")
    async def shown(id_: str) -> Response:
        entry = parts.fold.state.entries.get(id_)
        if entry is None:
            raise NotFound(f"entry {id_[:128]!r} does not exist", hint="trustfed entry list")
        return answered(_entry(entry))

    @app.post("/entries")
    async def created(request: Request) -> Response:
        spec = await body_of(request, EntrySpec)
        if len(parts.fold.state.entries) >= policy.max_entries:
            raise Unavailable(
                f"this cluster has {policy.max_entries} entries, its limit", hint="raise policy.max_entries"
            )
        new_id = uuid4().hex[:16]
        recorded = await record(parts, request, lambda s: entries.put_entry(s, spec, new_id, ttls, parts.clock.now()))
        # What was recorded, also for a command that is repeated: its entry may have changed since, or be gone.
        return answered(recorded[0].event.body)

    @app.put("/entries/{id_}")
    async def updated(id_: str, request: Request) -> Response:
        spec = msgspec.structs.replace(await body_of(request, EntrySpec), id=id_)
        recorded = await record(
            parts, request, lambda s: entries.put_entry(s, spec, id_, ttls, parts.clock.now(), update=True)
        )
        return answered(recorded[0].event.body)

    @app.delete("/entries/{id_}")
    async def deleted(id_: str, request: Request) -> Response:
        await record(parts, request, lambda s: entries.delete_entry(s, id_))
        return answered({"id": id_, "deleted": True})

    @app.put("/peers/{name}")
    async def named(name: str, request: Request) -> Response:
        members = (await body_of(request, PeersRequest)).members
        await record(parts, request, lambda s: entries.set_peers(s, name, members))
        return answered({"name": name, "members": parts.fold.state.peer_lists.get(name) or ()})

    @app.get("/peers")
    async def peers() -> Response:
        return answered(
            {"peers": [{"name": name, "members": members} for name, members in parts.fold.state.peer_lists.items()]}
        )


def node_paths(app: Paths, parts: AdminParts) -> None:
    @app.post("/nodes/tokens")
    async def token(request: Request) -> Response:
        wanted = await body_of(request, TokenRequest)
        state, now = parts.fold.state, parts.clock.now().replace(microsecond=0)
        if state.hub is None or state.domain is None:
            raise Unavailable("this cluster is not enrolled yet")
        domain, root_set = TrustDomain.parse(state.trust_domain), newest_roots(state)
        secret, ttl = secrets.token_bytes(32), duration(wanted.ttl)
        if ttl > nodes.MAX_TOKEN_TTL:  # before it is added to a time
            raise Invalid(f"a token life of {wanted.ttl[:40]} is out of bounds", hint="1 second to 7 days")
        groups = wanted.groups or ("default",)
        recorded = await record(
            parts, request, lambda s: nodes.invite(s, secret_hash(secret), wanted.name, groups, ttl, now)
        )
        if recorded[0].event.body.get("token_hash") != secret_hash(secret):
            raise Conflict(
                "this command has made a token already, and its secret is not kept", hint="use another Command-Id"
            )
        text = EnrolmentToken(
            kind="node",
            address=f"https://{parts.addresses['bundle_spiffe']}",
            name=domain,
            server_id=cluster_id(domain),
            newcomer=wanted.name,
            root_version=root_set.version,
            root_hash=root_set.hash,
            secret=secret,
            expires_at=now + ttl,
            publication_key=text_of(state.domain.publication_key),
        ).encode()
        return answered({"token": text, "name": wanted.name, "groups": groups, "expires_at": now + ttl})

    @app.get("/nodes")
    async def listed() -> Response:
        found = []
        for node in parts.fold.state.nodes.values():
            held = parts.presence.get(node.name)
            found.append(
                {
                    "name": node.name,
                    "groups": node.groups,
                    "attestor": node.attestor,
                    "attested_at": node.attested_at,
                    "banned": node.banned or None,
                    "connected": bool(held and held.streams),
                    "live_until": held.live_until if held else None,
                    "software": held.software if held else "",
                    "reserve_seconds": reserve_seconds(parts.fold.state, node.groups, parts.policy.reserve_ttl_max),
                    "levels": {d: level_of(at) for d, at in held.levels.items()} if held else {},
                }
            )
        return answered({"nodes": found})

    @app.get("/reserves")
    async def reserves() -> Response:
        kept = sorted(parts.fold.state.reserves.items())
        return answered({"reserves": [{"group": group, "ttl_seconds": ttl} for group, ttl in kept]})

    @app.post("/reserves/{group}")
    async def reserve(group: str, request: Request) -> Response:
        said = await body_of(request, ReserveRequest)
        ttl, most = duration(said.ttl), parts.policy.reserve_ttl_max
        await record(parts, request, lambda s: set_reserve(s, group, ttl, most, said.reason), said.reason)
        return answered({"group": group, "ttl_seconds": parts.fold.state.reserves.get(group) or 0})

    @app.post("/nodes/{name}/ban")
    async def ban(name: str, request: Request) -> Response:
        reason = (await body_of(request, Reason)).reason
        await record(parts, request, lambda s: nodes.ban(s, name, reason, parts.clock.now()), reason)
        return answered({"name": name, "banned": reason})


def _entry(entry: EntryPut) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(entry)
    return shown
