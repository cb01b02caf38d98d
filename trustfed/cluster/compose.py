"""Builds a cluster from its configuration, and runs it. The only file of this room that reads configuration."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import grpc

from ca.keys.open import close_keys, open_keys
from ca.keys.port import KeyStore
from ca.lifecycle import Level
from trustfed.cluster import events as e
from trustfed.cluster import fold as folding
from trustfed.cluster import gauges
from trustfed.cluster.admin import admin_app
from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.admission import NodeAdmission
from trustfed.cluster.attestation.open import open_attestors
from trustfed.cluster.authorities import Authorities
from trustfed.cluster.config import ClusterConfig
from trustfed.cluster.doors import bundle_app, spiffe_app
from trustfed.cluster.enrolment import enrol
from trustfed.cluster.grants import held_envelope
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.identity import OwnIdentity
from trustfed.cluster.issuance import Issuance
from trustfed.cluster.presence import Presence
from trustfed.cluster.reported import Reported
from trustfed.cluster.resign import HubCertifier
from trustfed.cluster.rpc import NodeRpc
from trustfed.cluster.sessions import Sessions
from trustfed.cluster.state import ClusterState
from trustfed.cluster.uplink import Uplink
from trustfed.cluster.watching import Watching
from trustfed.errors import Conflict, Unavailable
from trustfed.federation.envelope import Envelope
from trustfed.federation.token import EnrolmentToken
from trustfed.journal.fold import Fold
from trustfed.journal.sqlite import Store, open_store
from trustfed.journal.table import decode_state, encode_state
from trustfed.runtime import logs, web
from trustfed.runtime.clock import Clock, SystemClock
from trustfed.runtime.grpc_server import OPTIONS, ServerIdentity
from trustfed.runtime.health import open_health
from trustfed.runtime.metrics import Registry
from trustfed.runtime.nonces import Nonces
from trustfed.runtime.sockets import address_of, listen_tcp, listen_unix, parse_address
from trustfed.runtime.tls import ReloadingContext
from trustfed.runtime.waiting import together
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster")


class Closable(Protocol):
    """An open door."""

    async def close(self) -> None: ...


@dataclass
class Parts:
    """What init and serve both need."""

    config: ClusterConfig
    store: Store
    keys: KeyStore
    fold: Fold[ClusterState]
    issuance: Issuance
    authorities: Authorities
    registry: Registry
    clock: Clock


async def init(config: ClusterConfig, token_text: str | None) -> dict[str, object]:
    """Enrol by a token. Once enrolled a token is ignored; interrupted at any moment, the same command goes on."""
    parts = await _open(config)
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
        await _close(parts)


async def serve(config: ClusterConfig, stop: asyncio.Event) -> None:
    """Run until `stop`. Everything a cluster does without the hub works from the first moment."""
    parts = await _open(config)
    try:
        if parts.fold.state.hub is None:
            raise Unavailable(f"{config.data_dir} is not enrolled", hint="trustfed cluster init --config F @TOKENFILE")
        await _Running(parts).run(stop)
    finally:
        await _close(parts)


async def _open(config: ClusterConfig) -> Parts:
    logs.configure(config.log.level)
    clock, registry = SystemClock(), Registry()
    store = await asyncio.to_thread(open_store, config.store_directory)
    keys: KeyStore | None = None
    try:
        keys = open_keys(config.keys.within(config.data_dir))
        fold = Fold(
            store.journal,
            store.snapshots,
            ClusterState(),
            folding.apply,
            e.CODEC,
            encode_state,
            lambda data: decode_state(data, ClusterState),
            folding.SCHEMA,
        )
        await fold.start()
    except BaseException:
        await store.close()
        if keys is not None:
            await close_keys(keys)
        raise
    issuance = Issuance(fold, store.ledger, keys, config.policy, clock, os.urandom, registry)
    authorities = Authorities(fold, keys, config.policy, clock, os.urandom, issuance.last_leaf)
    return Parts(config, store, keys, fold, issuance, authorities, registry, clock)


async def _close(parts: Parts) -> None:
    await parts.fold.close()
    await parts.store.close()
    await close_keys(parts.keys)


class _Running:
    """One running cluster: its doors, and the tasks behind them."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._config, self._fold, self._clock = parts, parts.config, parts.fold, parts.clock
        policy = parts.config.policy
        self._presence = Presence()
        self._sessions = Sessions(self._fold.state, self._fold.position, int(policy.reissue_window.total_seconds()))
        self._reported = Reported(lambda: self._fold.state.level, parts.registry)
        domain = TrustDomain.parse(self._fold.state.trust_domain)
        self._identity = OwnIdentity(domain, parts.issuance, policy.node_ttl, self._clock)
        news = HubNews(self._fold, parts.authorities.look, self._reported.note, self._clock, parts.registry)
        self._uplink = Uplink(self._fold, self._identity, self._levels, news, self._clock, parts.registry)
        self._watching = Watching(
            self._fold,
            parts.authorities,
            self._presence,
            self._sessions,
            self._uplink,
            news,
            policy.polled_readers,
            self._clock,
        )
        self._own: tuple[bytes, Envelope] | None = None
        self._doors_open = False

    async def run(self, stop: asyncio.Event) -> None:
        parts, now, watching = self._parts, self._clock.now(), self._watching
        self._presence.load(self._fold.state, now + self._config.policy.node_ttl)
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
        ]
        try:
            await together(jobs, stop)
        finally:
            await server.stop(1)
            for door in doors:
                await door.close()

    async def _open_doors(self) -> tuple[Any, list[Closable]]:
        config, parts = self._config, self._parts
        identity = ServerIdentity(self._identity.keypair, self._twins())
        https = ReloadingContext(self._identity.keypair, (), client="none", alpn=("http/1.1",))
        self._identity.on_change(lambda keypair: identity.replace(keypair, self._twins()))
        self._identity.on_change(https.replace)
        parts.authorities.on_step(lambda: identity.replace(anchors=self._twins()))
        server = grpc.aio.server(options=OPTIONS)
        rpc = NodeRpc(
            self._fold,
            parts.store.journal,
            e.CODEC,
            lambda: self._own_envelope().bundle,
            parts.issuance,
            self._presence,
            self._sessions,
            self._watching.levels_changed,
            self._reported.note,
            self._clock,
        )
        server.add_generic_rpc_handlers((rpc.handlers(),))
        spiffe = listen_tcp(config.bundle_spiffe.listen)
        listening = _listen_grpc(server, config.grpc.listen, identity.credentials())
        addresses = {
            "grpc": config.grpc.advertise or listening,
            "bundle_spiffe": config.bundle_spiffe.advertise or address_of(spiffe),
        }
        await server.start()
        admission = NodeAdmission(
            self._fold,
            parts.issuance,
            open_attestors(),
            self._presence,
            Nonces(os.urandom),
            config.policy,
            addresses["grpc"],
            self._clock,
        )
        doors: list[Closable] = [
            await web.serve(spiffe_app(self._own_envelope, self._fold, admission), spiffe, https.context)
        ]
        if config.bundle_web is not None:
            context = web.web_pki_context(config.bundle_web.certificate_file, config.bundle_web.key_file.path)
            listener = listen_tcp(config.bundle_web.listen)
            addresses["bundle_web"] = address_of(listener)
            doors.append(await web.serve(bundle_app(self._own_envelope), listener, context))
        admin = self._admin_parts(addresses)
        gauges.show(admin)
        doors.append(await web.serve(admin_app(admin), listen_unix(config.admin_path)))
        if config.health:
            listener = listen_tcp(config.health)
            addresses["health"] = address_of(listener)
            doors.append(await open_health(listener, self._not_ready, parts.registry))
        self._doors_open = True
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
        )

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
        return self._own_envelope().bundle.x509_authorities

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
