"""The hub, built from its configuration: the only place here that knows every part.

init(config)         once: keys, root, root set version 1, the hub's own authority, and the first events
serve(config, stop)  the process: fold, doors, chores, publisher; returns when `stop` is set
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

from bundle_publisher.publish import Publisher
from bundle_publisher.targets.open import open_targets
from ca.keys.open import close_keys, open_keys
from ca.keys.port import KeyStore
from trustfed.errors import Conflict
from trustfed.federation import envelope
from trustfed.federation.enrolment import MAX_REQUEST
from trustfed.federation.roots import RootSet
from trustfed.hub import roots
from trustfed.hub.api import Parts
from trustfed.hub.approvals_alarm import GlassAlarms
from trustfed.hub.calls import Calls
from trustfed.hub.chores import CONCERNS, Chores
from trustfed.hub.clusters_door import ClustersDoor
from trustfed.hub.config import HubConfig
from trustfed.hub.dashboard.compose import HubDashboard, hosts_of
from trustfed.hub.events import SCHEMA, HubCreated, RootCreated, RootPrepared, RootRetired, codec
from trustfed.hub.evidence.compose import HubEvidenceParts
from trustfed.hub.identity import Identity, IdentityPolicy, Present
from trustfed.hub.manifest_files import ManifestFiles
from trustfed.hub.mesh.compose import HubMeshParts
from trustfed.hub.operations import Operations
from trustfed.hub.peers import Peers
from trustfed.hub.protection import Protection
from trustfed.hub.public import API, both_doors
from trustfed.hub.publication import Publication
from trustfed.hub.publication_metrics import measure_publication
from trustfed.hub.relay import Relay
from trustfed.hub.rpc import Federation
from trustfed.hub.signing import RootPolicy, RootSigner, current_root_set
from trustfed.hub.state import HubState, apply
from trustfed.journal.fold import Fold
from trustfed.journal.recorder import LedgerRecorder
from trustfed.journal.sqlite import Store, open_store
from trustfed.journal.table import decode_state, encode_state
from trustfed.runtime import logs, process
from trustfed.runtime.clock import Clock, SystemClock
from trustfed.runtime.files import private_directory
from trustfed.runtime.health import open_health
from trustfed.runtime.metrics import Registry
from trustfed.runtime.sockets import address_of, listen_admin, listen_tcp
from trustfed.runtime.tls import ReloadingContext
from trustfed.runtime.version import SOFTWARE
from trustfed.runtime.waiting import together
from trustfed.runtime.web import HttpDoor, web_pki_context

WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104 (compared with, not bound to)

_log = logs.get("hub")


@dataclass(frozen=True)
class _Ground:
    """What both commands stand on: the fold over an open store, the keys, and what signs with them."""

    store: Store
    fold: Fold[HubState]
    keys: KeyStore
    signer: RootSigner
    identity: Identity


async def init(config: HubConfig, *, clock: Clock | None = None) -> RootSet:
    """Set the hub up: its root, its own authority, its first events. Conflict when it was set up before."""
    now = (clock or SystemClock()).now()
    async with _ground(config) as ground:
        state = ground.fold.state
        if state.position:
            raise Conflict(f"{config.data_dir} holds a hub already", hint="trustfed hub serve")
        created = HubCreated(os.urandom(16).hex(), config.trust_domain.name)
        root: RootCreated = await ground.signer.first(config.trust_domain, now)
        begun = apply(apply(state, created), root)
        authority = await ground.identity.new_authority(config.trust_domain, ground.signer, begun, now)
        await ground.fold.execute(
            lambda state: roots.create(state, created, root, authority),
            command_id=created.instance,
            actor=f"uid:{os.getuid()}",
            reason="trustfed hub init",
            now=now,
        )
        return current_root_set(ground.fold.state, now)


async def serve(config: HubConfig, stop: asyncio.Event | None = None, *, clock: Clock | None = None) -> None:
    """Serve until `stop` is set. Conflict when it was not set up, or another process has its data directory."""
    stop, clock = stop or asyncio.Event(), clock or SystemClock()
    async with _ground(config) as ground:
        state = ground.fold.state
        if not state.position:
            raise Conflict(f"{config.data_dir} holds no hub yet", hint="trustfed hub init")
        if state.trust_domain != config.trust_domain.name:
            raise Conflict(
                f"{config.data_dir} belongs to the hub of {state.trust_domain}, not of {config.trust_domain}",
                hint="correct trust_domain or data_dir",
            )
        await _Hub(config, ground, clock).serve(stop)


class _Hub:
    """The serving process."""

    def __init__(self, config: HubConfig, ground: _Ground, clock: Clock) -> None:
        self._config, self._ground, self._clock = config, ground, clock
        self._ready = False
        self._started: datetime = clock.now()
        self._https_tls: ReloadingContext | None = None
        targets = open_targets(config.publication)
        self._publisher = Publisher(targets, clock, random.SystemRandom().random) if targets else None
        self._manifests = ManifestFiles(config.data_dir / "manifests")
        self._publication = Publication(self._publisher, self._manifests)
        self._relay = Relay(self._publication.pushed)
        self._publication.on_arrival(self._relay.pushed)
        ttl = config.publication.timestamp_ttl
        self._protection = Protection(
            lambda: ground.fold.state, ground.keys, clock, ttl, self._begin_round, self._manifests
        )
        if self._publisher:
            self._publisher.add_round(self._protection)
        self._chores = Chores(ground.fold, ground.signer, ground.identity, clock, os.urandom, self._renewed)
        self._clusters = ClustersDoor()
        self._mesh: HubMeshParts | None = None
        self._evidence: HubEvidenceParts | None = None
        self._dashboard: HubDashboard | None = None

    async def serve(self, stop: asyncio.Event) -> None:
        """Open the doors, follow the journal, and close in reverse."""
        fold, config = self._ground.fold, self._config
        position = fold.position
        await self._chores.do()
        await asyncio.to_thread(self._publication.start, fold.state)
        https = listen_tcp(config.https.listen)
        admin = listen_admin(config.admin_path, config.admin_group)
        addresses = {
            "grpc": self._advertised(config.grpc.advertise, self._clusters.bind(config.grpc.listen)),
            "https": self._advertised(config.https.advertise, address_of(https)),
            "admin_socket": str(config.admin_path),
        }
        metrics = self._metrics()
        operations = Operations(
            fold,
            self._ground.signer,
            self._clock,
            os.urandom,
            addresses["https"],
            self._manifests,
            config.approvals.expiry,
            metrics.counter("hub_glass_broken_total", "CA commands that one person did without a second."),
        )
        self._mesh = HubMeshParts(operations, self._relay, self._clock, config.mesh.reach(), metrics)
        self._mesh.relay.start(fold.state)
        peers = Peers(lambda: fold.state)
        self._evidence = self._evidence_parts(Calls(peers, self._clock), metrics)
        await self._evidence.start()
        parts = Parts(
            operations=operations,
            relay=self._relay,
            publication=self._publication,
            journal=self._ground.store.journal,
            metrics=metrics,
            addresses=addresses,
            started=self._started,
            software=SOFTWARE,
            svid_not_after=lambda: self._ground.identity.present.not_after,
            protection=self._protection,
            mesh=self._mesh,
            evidence=self._evidence,
        )
        self._clusters.add(
            Federation(operations, self._relay, peers, self._clock, self._protection.refuse, self._mesh).handlers()
        )
        self._clusters.add(self._evidence.handlers())
        public, operators = both_doors(parts, config.policy.intermediate_ttl, lambda: self._ready)
        larger = {"/v1/enrol": MAX_REQUEST, "/v1/resign": MAX_REQUEST, "/v1/envelopes/": envelope.MAX_BYTES}
        self._https_tls = ReloadingContext(self._ground.identity.present.keypair, (), client="none")
        doors = [
            HttpDoor(public, https, tls=self._https_tls.context, larger=larger),
            HttpDoor(operators, admin),
        ]
        if config.web:
            web = listen_tcp(config.web.listen)
            addresses["web"] = address_of(web)
            tls = web_pki_context(config.web.certificate_file, config.web.key_file.path)
            doors.append(HttpDoor(public, web, tls=tls, larger=larger))
        async with contextlib.AsyncExitStack() as closing:
            closing.push_async_callback(self._evidence.close)
            if config.dashboard.enabled:
                self._dashboard = await self._open_dashboard(parts, self._evidence)
                closing.push_async_callback(self._dashboard.close)
                self._dashboard.mount(public, operators, API)
            # At the same time: each may take three seconds, and the shutdown has ten.
            closing.push_async_callback(lambda: asyncio.gather(*(door.close() for door in doors)))
            for door in doors:
                await door.open()
            if self._dashboard:
                closing.callback(self._dashboard.hush)  # before the doors: a page that is open would hold its door open
            if config.health:
                health = listen_tcp(config.health)
                addresses["health"] = address_of(health)
                answering = await open_health(health, lambda: [] if self._ready else ["doors"], parts.metrics)
                closing.push_async_callback(answering.close)
            await self._clusters.open()
            closing.push_async_callback(self._clusters.close)
            for name, address in addresses.items():
                _log.info("listening", door=name, address=address)
            self._ready = True
            process.settle()
            _log.info("ready", trust_domain=config.trust_domain.name, position=fold.position)
            await self._until(stop, position)
            self._ready = False

    async def _until(self, stop: asyncio.Event, position: int) -> None:
        """Run what runs beside the doors, until `stop` is set or one of it fails."""
        work = [self._follow(position), self._chores.run()]
        if self._mesh:
            work.append(self._mesh.intake.run())
        if self._evidence:
            work.extend(self._evidence.work())
            work.append(GlassAlarms(lambda: self._ground.fold.state, self._evidence.fleet, self._clock).run())
        if self._dashboard:
            work.append(self._dashboard.run())
        if self._publisher:
            work.append(self._publisher.run())
        await together(work, stop)

    async def _follow(self, position: int) -> None:
        """Tell every part what the journal says."""
        fold = self._ground.fold
        async for at, event in fold.subscribe(position):
            state = fold.state
            self._relay.on_event(at, event, state)
            if self._mesh:
                self._mesh.on_event(at, event, state)
            if self._evidence:
                self._evidence.on_event(at, event, state)
            if self._dashboard:
                self._dashboard.on_event(event)
            self._publication.on_event(event, state)
            self._protection.on_event(event)
            if isinstance(event, RootPrepared | RootRetired):
                self._present()
            if isinstance(event, CONCERNS):
                self._chores.news.set()

    def _evidence_parts(self, calls: Calls, metrics: Registry) -> HubEvidenceParts:
        config, ground = self._config, self._ground
        return HubEvidenceParts(
            config.evidence,
            config.alerts,
            config.data_dir / "evidence",
            ground.fold,
            ground.store,
            ground.keys,
            config.keys.store,
            calls,
            self._clock,
            os.urandom,
            metrics,
        )

    async def _open_dashboard(self, parts: Parts, evidence: HubEvidenceParts) -> HubDashboard:
        config, addresses = self._config, parts.addresses
        port = addresses.get("web", "").rpartition(":")[2]
        web = f"{config.dns_names[0]}{'' if port == '443' else f':{port}'}" if port else ""
        listening = (config.https.listen, config.web.listen if config.web else "")
        return await HubDashboard.open(
            parts,
            evidence.fleet,
            evidence.questions,
            evidence.orders,
            directory=config.data_dir,
            address=config.dashboard.address.rstrip("/") or f"https://{web or addresses['https']}",
            hosts=hosts_of(*config.dns_names, addresses["https"], config.dashboard.address, *listening),
            oidc=config.oidc,
            clock=self._clock,
            randomness=os.urandom,
        )

    def _begin_round(self) -> None:
        if self._publisher:
            self._publisher.want_round(self._protection.name)

    def _renewed(self, present: Present) -> None:
        if self._https_tls:
            self._https_tls.replace(keypair=present.keypair)
        self._present()

    def _present(self) -> None:
        certificates = [root.certificate for root in self._ground.fold.state.trusted_roots]
        self._clusters.present(self._ground.identity.present.keypair, certificates)

    def _advertised(self, configured: str, bound: str) -> str:
        """What others are told: as configured, or as bound; for a wildcard the first DNS name."""
        host, _, port = bound.rpartition(":")
        return configured or (f"{self._config.dns_names[0]}:{port}" if host in WILDCARDS else bound)

    def _svid_end(self) -> float:
        return self._ground.identity.present.not_after.timestamp()

    def _metrics(self) -> Registry:
        registry, fold = Registry(), self._ground.fold
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "hub_journal_position": ("Events folded.", lambda: fold.position),
            "hub_clusters_connected": ("Clusters with an open stream.", self._relay.connected),
            "hub_domains_enrolled": ("Trust domains that take part.", lambda: _enrolled(fold.state)),
            "hub_svid_not_after_seconds": (
                "End of the hub's own SVID, Unix seconds.",
                self._svid_end,
            ),
        }
        gauges["hub_publication_root_not_after_seconds"] = (
            "End of the protected publication's root, Unix seconds; 0 without one.",
            self._protection.root_end,
        )
        gauges["hub_publication_timestamp_not_after_seconds"] = (
            "End of the protected publication's newest timestamp, Unix seconds; 0 before the first.",
            self._protection.timestamp_end,
        )
        for name, (help_text, read) in gauges.items():
            registry.gauge(name, help_text).read(read)
        measure_publication(registry, self._publication, self._clock)
        return registry


@contextlib.asynccontextmanager
async def _ground(config: HubConfig) -> AsyncIterator[_Ground]:
    policy = config.policy
    private_directory(config.data_dir)
    store = await asyncio.to_thread(open_store, config.store_directory)
    async with contextlib.AsyncExitStack() as closing:
        closing.push_async_callback(store.close)
        fold = Fold(
            store.journal,
            store.snapshots,
            HubState(),
            apply,
            codec(),
            encode_state,
            lambda data: decode_state(data, HubState),
            SCHEMA,
        )
        await fold.start()
        closing.push_async_callback(fold.close)
        keys = open_keys(config.keys.within(config.data_dir))
        closing.push_async_callback(close_keys, keys)
        recorder = LedgerRecorder(store.ledger)
        root_policy = RootPolicy(policy.root_ttl, policy.intermediate_ttl, config.publication.crl_url)
        identity_policy = IdentityPolicy(config.dns_names, policy.hub_svid_ttl, policy.hub_authority_ttl)
        yield _Ground(
            store=store,
            fold=fold,
            keys=keys,
            signer=RootSigner(keys, recorder, root_policy, os.urandom),
            identity=Identity(keys, recorder, identity_policy, os.urandom),
        )


def _enrolled(state: HubState) -> int:
    return sum(1 for domain in state.domains.values() if domain.status == "enrolled")
