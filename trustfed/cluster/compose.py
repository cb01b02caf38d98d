"""Builds a cluster from its configuration, and runs it. The only file of this room that reads configuration."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Protocol

import grpc

from ca.lifecycle import Level
from trustfed.cluster import events as e
from trustfed.cluster import gauges
from trustfed.cluster.addresses import Addresses
from trustfed.cluster.admin import admin_app
from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.admission import NodeAdmission
from trustfed.cluster.apart import Apart
from trustfed.cluster.attestation.open import open_attestors
from trustfed.cluster.config import ClusterConfig
from trustfed.cluster.doors import bundle_app, spiffe_app
from trustfed.cluster.enrolment import enrol
from trustfed.cluster.evidence.compose import EvidenceParts, Neighbours
from trustfed.cluster.foreign import compose as foreign
from trustfed.cluster.grants import held_envelope
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.identity import OwnIdentity
from trustfed.cluster.istio_ca.inside import Inside
from trustfed.cluster.mesh.compose import MAX_BODY as MAX_MESH_BODY
from trustfed.cluster.mesh.compose import MeshParts
from trustfed.cluster.parts import Parts, close_parts, open_parts
from trustfed.cluster.presence import Presence
from trustfed.cluster.publication import OwnRole
from trustfed.cluster.reported import Reported
from trustfed.cluster.resign import HubCertifier
from trustfed.cluster.rpc import NodeRpc
from trustfed.cluster.sessions import Sessions
from trustfed.cluster.store_fallback import store_fallback
from trustfed.cluster.uplink import Uplink
from trustfed.cluster.watching import Watching
from trustfed.errors import Conflict, Unavailable
from trustfed.federation.envelope import Envelope
from trustfed.federation.token import EnrolmentToken
from trustfed.journal.events import TypedEvent
from trustfed.journal.ports import MAX_READ
from trustfed.runtime import logs, process, web
from trustfed.runtime.grpc_server import OPTIONS, ServerIdentity
from trustfed.runtime.health import open_health
from trustfed.runtime.nonces import Nonces
from trustfed.runtime.sockets import address_of, listen_admin, listen_tcp, parse_address
from trustfed.runtime.tls import ReloadingContext
from trustfed.runtime.waiting import together
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster")


class Closable(Protocol):
    """An open door."""

    async def close(self) -> None: ...


async def init(config: ClusterConfig, token_text: str | None) -> dict[str, object]:
    """Enrol by a token. Once enrolled a token is ignored; interrupted at any moment, the same command goes on."""
    parts = await open_parts(config)
    try:
        if parts.fold.state.hub is None:
            if token_text is None:
                raise Unavailable("this cluster is not enrolled", hint="trustfed cluster init @TOKENFILE")
            token = EnrolmentToken.decode(token_text, "cluster")
            await enrol(parts.fold, parts.keys, parts.authorities, token, parts.clock)
            new = True
        else:
            new = False
        state = parts.fold.state
        return {"trust_domain": state.trust_domain, "enrolled": True, "new": new}
    finally:
        await close_parts(parts)


async def serve(config: ClusterConfig, stop: asyncio.Event) -> None:
    """Run until `stop`. Everything a cluster does without the hub works from the first moment."""
    parts = await open_parts(config)
    try:
        if parts.fold.state.hub is None:
            raise Unavailable(f"{config.data_dir} is not enrolled", hint="trustfed cluster init --config F @TOKENFILE")
        await _Running(parts).run(stop)
    finally:
        await close_parts(parts)


class _Running:
    """One running cluster: its doors, and the tasks behind them."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._config, self._fold, self._clock = parts, parts.config, parts.fold, parts.clock
        policy = parts.config.policy
        self._presence = Presence()
        self._apart = Apart(
            self._fold,
            parts.keys,
            policy,
            parts.authorities.lifecycle_policy(),
            parts.config.data_dir,
            self._clock,
            parts.registry,
        )
        freshness, spread = self._apart.freshness, int(policy.reissue_window.total_seconds())
        self._sessions = Sessions(self._fold.state, self._fold.position, spread, freshness)
        self._addresses = Addresses()
        self._reported = Reported(lambda: self._fold.state.level, parts.registry)
        domain = TrustDomain.parse(self._fold.state.trust_domain)
        self._identity = OwnIdentity(domain, parts.issuance, policy.node_ttl, self._clock)
        news = HubNews(
            self._fold,
            parts.authorities.look,
            self._reported.note,
            self._clock,
            parts.registry,
            freshness,
            self._apart.intake,
        )
        self._uplink = Uplink(
            self._fold,
            self._identity,
            self._levels,
            news,
            self._clock,
            parts.registry,
            lambda: self._addresses.bundle_endpoints,
        )
        self._watching = Watching(
            self._fold,
            parts.authorities,
            self._presence,
            self._sessions,
            self._uplink,
            news,
            policy.polled_readers,
            self._clock,
            self._on_event,
        )
        self._role = OwnRole(self._fold, parts.keys, self._clock, self._uplink.look)
        self._uplink.also_send(self._role.message)
        registry = parts.registry
        registry.gauge(
            "cluster_manifests_too_long",
            "1 while what is rendered is too long to be published, and an older file stays",
        ).read(lambda: float(self._role.too_long()))
        self._foreign = foreign.Foreign(
            self._fold,
            parts.keys,
            parts.config.foreign,
            freshness.note,
            policy.refresh_hint.total_seconds,
            self._clock,
            parts.registry,
        )
        self._own: tuple[bytes, Envelope] | None = None
        self._inside = Inside(self._own_envelope, self._fold)
        self._mesh = MeshParts(parts, self._uplink, news, self._own_envelope)
        self._mesh.publish(self._role)
        beside = Neighbours(
            self._presence,
            self._uplink,
            news,
            self._watching,
            self._identity,
            self._inside,
            self._apart,
            self._mesh.feeds.feeds,
        )
        self._evidence = EvidenceParts(parts, beside)
        self._doors_open = False

    async def run(self, stop: asyncio.Event) -> None:
        parts, now, watching = self._parts, self._clock.now(), self._watching
        self._presence.load(self._fold.state, now + self._config.policy.node_ttl)
        await self._earlier()
        await self._apart.freshness.load()
        await self._evidence.open()
        while await parts.authorities.advance(watching.consumers(now)):
            pass
        await self._identity.renew()
        server, doors = await self._open_doors()
        parts.authorities.on_step(self._identity.authorities_changed)
        certifier = HubCertifier(
            lambda: self._uplink.connected_since is not None,
            self._uplink.calls.certify,
            self._fold,
            parts.keys,
            self._clock,
        )
        jobs = [
            watching.events(),
            watching.grant_times(),
            parts.authorities.run(watching.consumers),
            parts.authorities.certify(certifier),
            self._identity.run(),
            self._uplink.run(),
            self._uplink.calls.tell_decisions(),
            *self._foreign.jobs(),
            *self._apart.jobs(),
            *self._mesh.jobs(),
            *self._evidence.jobs(),
            self._role.run(),
            *self._store_jobs(),
        ]
        try:
            await together(jobs, stop)
        finally:
            await self._mesh.close()
            # At the same time: each may take three seconds, and the shutdown has ten.
            await asyncio.gather(server.stop(1), *(door.close() for door in doors))
            await self._apart.freshness.save()
            await self._evidence.close()

    def _on_event(self, event: TypedEvent) -> None:
        self._apart.on_event(event)
        self._role.on_event(event)
        self._mesh.on_event(event)

    def _store_jobs(self) -> list[Coroutine[Any, Any, None]]:
        """Reading peers' envelopes from the store, if one is configured."""
        config = self._config
        if config.store is None:
            return []
        fallback = store_fallback(
            config.store,
            config.data_dir,
            self._fold,
            self._apart.freshness,
            self._clock,
            self._parts.registry,
            self._apart.intake,
        )
        self._apart.store_status = fallback.status
        return [fallback.run()]

    async def _earlier(self) -> None:
        """What an earlier process recorded last: agents that come back resume after it."""
        at = self._sessions.position
        floor = max(at - MAX_READ, 0)
        records = await self._parts.store.journal.read(floor, MAX_READ)
        known = [e.CODEC.decode(record.event) for record in records if record.position <= at]
        self._sessions.earlier(known, floor, self._fold.state)

    async def _open_doors(self) -> tuple[Any, list[Closable]]:
        config, parts = self._config, self._parts
        identity = ServerIdentity(self._identity.keypair, self._twins())
        https = ReloadingContext(self._identity.keypair, (), client="none", alpn=("http/1.1",))
        self._identity.on_change(lambda keypair: identity.replace(keypair, self._twins()))
        self._identity.on_change(https.replace)
        parts.authorities.on_step(lambda: identity.replace(anchors=self._twins()))
        server = grpc.aio.server(options=OPTIONS)
        spiffe = listen_tcp(config.bundle_spiffe.listen)
        listening = _listen_grpc(server, config.grpc.listen, identity.credentials())
        self._evidence.bundle_probe.listens(address_of(spiffe))
        told = Addresses(config.grpc.addresses(listening), config.bundle_spiffe.addresses(address_of(spiffe)))
        self._addresses = told
        self._apart.join(self._uplink, told, config.foreign.reach())
        rpc = NodeRpc(
            self._fold,
            self._inside.bundle,
            parts.issuance,
            self._presence,
            self._sessions,
            self._levels_changed,
            self._reported.note,
            self._clock,
            told,
            config.policy.reserve_ttl_max,
            self._mesh.proxies.heard,
            self._evidence.shown,
            self._evidence.told,
        )
        server.add_generic_rpc_handlers((rpc.handlers(), *self._mesh.handlers(), *self._evidence.handlers()))
        addresses = {"grpc": told.grpc[0], "bundle_spiffe": told.https[0]}
        await server.start()
        attestors = open_attestors(config.attestation, TrustDomain.parse(self._fold.state.trust_domain), self._clock)
        self._role.open(told, attestors)
        admission = NodeAdmission(
            self._fold,
            parts.issuance,
            attestors,
            self._presence,
            Nonces(os.urandom),
            config.policy,
            told,
            self._clock,
        )
        confirmed, readers = self._apart.confirmation, self._evidence.others(self._foreign.seen("https_spiffe"))
        doors: list[Closable] = [
            await web.serve(
                spiffe_app(self._own_envelope, self._fold, admission, readers, confirmed),
                spiffe,
                https.context,
            )
        ]
        if config.bundle_web is not None:
            context = web.web_pki_context(config.bundle_web.certificate_file, config.bundle_web.key_file.path)
            listener = listen_tcp(config.bundle_web.listen)
            addresses["bundle_web"] = address_of(listener)
            doors.append(
                await web.serve(
                    bundle_app(self._own_envelope, self._foreign.seen("https_web"), confirmed), listener, context
                )
            )
        admin = self._admin_parts(addresses)
        gauges.show(admin)
        application = self._mesh.admin(self._foreign.admin(admin_app(admin), admin), admin)
        application = self._evidence.admin(application, admin)
        larger = {"/foreign/": foreign.MAX_BODY, "/mesh/": MAX_MESH_BODY}
        doors.append(await web.serve(application, listen_admin(config.admin_path, config.admin_group), larger=larger))
        if config.health:
            listener = listen_tcp(config.health)
            addresses["health"] = address_of(listener)
            doors.append(await open_health(listener, self._not_ready, parts.registry))
        self._doors_open = True
        process.settle()
        log.info("cluster is up", trust_domain=self._fold.state.trust_domain, admin=str(config.admin_path), **addresses)
        return server, doors

    def _admin_parts(self, addresses: dict[str, str]) -> AdminParts:
        parts = self._parts
        return AdminParts(
            self._fold,
            parts.store.journal,
            parts.store.ledger,
            self._presence,
            parts.config.policy,
            self._clock,
            parts.registry,
            self._watching.consumers,
            parts.authorities.lifecycle_policy(),
            parts.issuance.last_leaf,
            lambda: self._uplink.status,
            self._reported,
            addresses,
            self._not_ready,
            self._apart.status,
            self._apart.peers,
            self._mesh.proxies.status,
            parts.config.approvals.expiry,
        )

    def _levels_changed(self) -> None:
        self._watching.levels_changed()
        self._evidence.gaps.look()

    def _levels(self) -> dict[str, tuple[Level, tuple[str, ...], int]]:
        return self._presence.levels(self._fold.state, self._clock.now())

    def _own_envelope(self) -> Envelope:
        state = self._fold.state
        if self._own is None or self._own[0] is not state.envelope:
            assert state.domain is not None
            opened = held_envelope(state.envelope, state.trust_domain, state.domain.publication_key)
            self._own = (state.envelope, opened)
        return self._own[1]

    def _twins(self) -> tuple[bytes, ...]:
        return self._inside.anchors()

    def _not_ready(self) -> list[str]:
        missing = [] if self._doors_open else ["doors"]
        if self._identity.not_after <= self._clock.now() + timedelta(seconds=1):
            missing.append("own SVID expired")
        return missing


def _listen_grpc(server: Any, listen: str, credentials: Any) -> str:
    """Open the gRPC door; gives HOST:PORT with the port that it got. Raises Invalid, Conflict."""
    host, _ = parse_address(listen)
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError:
        raise Conflict(f"cannot listen at {listen}", hint="is another process there? Choose another address") from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
