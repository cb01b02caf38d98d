"""One simulated cluster: the production store, keys, authorities, enrolment, evidence and stream to the hub, and no doors.

What a cluster learns at its doors comes from trustfed.demo.fleet.workloads instead. It takes no orders: there is nobody who
could carry them out. Everything is in its folder, so that the process may be killed and started again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from ca.authority_state import Consumer
from ca.keys.open import KeysConfig
from ca.lifecycle import Kind, signer
from trustfed.cluster import enrolment
from trustfed.cluster import events as e
from trustfed.cluster.authorities import Authorities
from trustfed.cluster.config import ClusterConfig, Door, Policy
from trustfed.cluster.evidence.alarms import Alarms
from trustfed.cluster.evidence.availability import Availability, sign_probe
from trustfed.cluster.evidence.config import EvidenceConfig
from trustfed.cluster.evidence.fleet_link import FleetLink
from trustfed.cluster.evidence.kept import Kept, open_kept
from trustfed.cluster.evidence.logs import ClusterLogs
from trustfed.cluster.evidence.mirror import Mirror
from trustfed.cluster.evidence.mirrored import Mirrored
from trustfed.cluster.evidence.own_standing import OwnStanding
from trustfed.cluster.evidence.records import Records
from trustfed.cluster.evidence.runner import Runner
from trustfed.cluster.evidence.witnessing import Witnessing
from trustfed.cluster.freshness import Freshness
from trustfed.cluster.identity import OwnIdentity
from trustfed.cluster.parts import Parts, close_parts, open_parts
from trustfed.cluster.presence import Presence
from trustfed.cluster.resign import HubCertifier, push_envelope
from trustfed.cluster.state import ClusterState
from trustfed.demo.fleet.scenes import Fault, Scene
from trustfed.demo.fleet.workloads import Simulation
from trustfed.errors import TrustfedError, Unavailable
from trustfed.federation.token import EnrolmentToken
from trustfed.journal.events import TypedEvent
from trustfed.journal.merkle.witness_files import WitnessFiles
from trustfed.journal.ports import MAX_FACTS, MAX_READ
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.files import private_directory
from trustfed.runtime.logs import LogConfig
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.waiting import together
from trustfed.spiffe.ids import TrustDomain

log = logs.get("demo.fleet")

TICK_SECONDS = 2.0
FAREWELL_SECONDS = 5.0
"""How long a DEAD cluster stays once the hub has all of it."""
STUCK_POLICY = Policy(
    svid_ttl=timedelta(minutes=20),
    svid_ttl_max=timedelta(minutes=30),
    jwt_ttl_max=timedelta(minutes=30),
    node_ttl=timedelta(minutes=30),
    authority_ttl=timedelta(hours=3),
)
"""With authorities that are two hours old, the last safe moment is 20 minutes away."""
STUCK_AGE, STANDBY_AGE = timedelta(hours=2), timedelta(minutes=75)
"""Of the active authorities, and of what stands by for them since a quarter of their life: of these 95 minutes less than a
quarter is left, so that the rollover is stuck from the start."""
LINT_POLICY = Policy(node_ttl=timedelta(minutes=8))
GONE, AUDITOR = "gone", "auditor"


class Earlier(SystemClock):
    """The time some while ago: keys that are made by it look older than they are."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        """Wall time, moved."""
        return super().now() - self._by


class SimulatedCluster:
    """`await open()`, then `enrol` unless `enrolled`, then `run` until its stop; `close` in any case."""

    def __init__(self, scene: Scene, folder: Path, seed: str) -> None:
        self.scene, self._folder, self._seed = scene, folder, seed
        self._presence = Presence()
        self._parts: Parts | None = None
        self._kept: Kept | None = None

    @property
    def gone(self) -> bool:
        """Whether it went away for good, maybe in an earlier process."""
        return (self._folder / GONE).exists()

    @property
    def enrolled(self) -> bool:
        """Whether the hub knows it."""
        return self._held.fold.state.hub is not None

    @property
    def _held(self) -> Parts:
        assert self._parts is not None, "open() comes first"
        return self._parts

    async def open(self) -> None:
        """Open its store and its keys. Raises Conflict, Corrupt, Unavailable."""
        await asyncio.to_thread(private_directory, self._folder / AUDITOR)
        self._parts = await open_parts(configuration(self.scene, self._folder))

    async def enrol(self, token: EnrolmentToken) -> None:
        """Enrol, and journal its nodes and entries. Raises what the enrolment of any cluster does."""
        parts = self._held
        if self.scene.fault is Fault.STUCK:
            await self._grow_old()
        await enrolment.enrol(parts.fold, parts.keys, parts.authorities, token, parts.clock)

    async def _grow_old(self) -> None:
        """Make the authorities, and what stands by for them, as if it had been done in their time."""
        parts, domain = self._held, TrustDomain.parse(self.scene.name)
        for before in (Earlier(STUCK_AGE), Earlier(STANDBY_AGE)):
            then = Authorities(
                parts.fold, parts.keys, parts.config.policy, before, os.urandom, parts.issuance.last_leaf
            )
            await enrolment.make_keys(parts.fold, parts.keys, then, domain, before)

    async def run(self, stop: asyncio.Event) -> None:
        """Do what a cluster does behind its doors, until `stop`, or until it goes away for good."""
        parts, clock = self._held, self._held.clock
        self._kept = kept = await open_kept(self._folder / "evidence" / "kept.db")
        records = Records(parts.store.ledger, kept, clock)
        await records.start()
        simulation = Simulation(self.scene, self._seed, to_ms(clock.now()))
        await self._inhabit(simulation)
        await self._begin(simulation, records)
        state, registry = self._state, parts.registry
        alarms = Alarms(clock, registry)
        evidence = parts.config.evidence
        own_logs = ClusterLogs(
            parts.fold,
            lambda: parts.store.ledger.position,
            parts.store.events_log,
            parts.store.facts_log,
            parts.keys,
            kept,
            evidence.checkpoint_every.total_seconds(),
            evidence.witness_directory,
            alarms,
            clock,
            registry,
        )
        await own_logs.start()
        hub = state().hub
        witness = WitnessFiles(self._folder / "evidence" / "witness")
        witnessing = Witnessing(own_logs, witness, kept, hub.trust_domain if hub else "", alarms, registry)
        policy = parts.authorities.lifecycle_policy()
        freshness = Freshness(parts.fold, parts.config.policy.stale_limit, clock, registry)
        own = OwnStanding(state, parts.config, self._presence, self._consumers, policy, freshness, clock)
        probes = {"sign": sign_probe(state, parts.keys, clock)}
        availability = Availability(probes, evidence.probe_every.total_seconds(), records, clock, registry)
        runner = Runner(
            self._folder / "evidence",
            parts.store,
            records,
            own,
            own_logs,
            availability,
            alarms,
            evidence,
            clock,
            registry,
        )
        await runner.begin()
        identity = OwnIdentity(TrustDomain.parse(self.scene.name), parts.issuance, parts.config.policy.node_ttl, clock)
        await self._present()
        while await parts.authorities.advance(self._consumers(clock.now())):
            pass
        await identity.renew()
        link = FleetLink(
            state,
            identity,
            lambda: runner.store,
            own_logs,
            witnessing,
            runner.standing,
            runner.answer,
            _takes_nothing,
            clock,
            registry,
            features=("simulated",),
        )
        runner.on_change(link.changed)
        parts.authorities.on_step(identity.authorities_changed)
        certifier = HubCertifier(lambda: False, _no_stream, parts.fold, parts.keys, clock)
        mirror = Mirror(
            parts.fold, parts.store.journal, records, Mirrored(parts.config.keys.store, policy), clock, registry
        )
        jobs: list[Coroutine[Any, Any, None]] = [
            records.run(),
            mirror.run(),
            availability.run(),
            own_logs.run(),
            *runner.jobs(),
            identity.run(),
            parts.authorities.run(self._consumers),
            parts.authorities.certify(certifier),
            self._live(simulation, records),
            self._publish(),
            self._follow(runner, link),  # it ends for who goes away, and all with it
        ]
        try:
            await together(jobs, stop)
        finally:
            await runner.close()
            await records.save()

    async def close(self) -> None:
        """Close what is open."""
        if self._kept is not None:
            await self._kept.close()
        if self._parts is not None:
            await close_parts(self._parts)

    def _state(self) -> ClusterState:
        return self._held.fold.state

    def _consumers(self, now: datetime) -> list[Consumer]:
        return self._presence.consumers(self.scene.name, now)

    async def _inhabit(self, simulation: Simulation) -> None:
        """Journal the nodes and the entries, once."""
        parts, now = self._held, self._held.clock.now()
        made: list[TypedEvent] = [
            e.NodeAttested(node, ("default",), "simulated", f"simulated {node}", "", (), now)
            for node in simulation.nodes
        ]
        for entry, spiffe_id in simulation.entries.items():
            names = ("unix:uid:1000",), 3600, 300, (), (), "", False, "leaf", None, self.scene.owner, now
            made.append(e.EntryPut(entry, spiffe_id, "group/default", *names))
        await parts.fold.execute(
            lambda held: [] if held.nodes else made,
            command_id=uuid4().hex,
            actor="simulation",
            reason="nodes and workloads that are played",
            now=now,
        )

    async def _begin(self, simulation: Simulation, records: Records) -> None:
        """The history, once; or what an earlier process left."""
        ledger, position = self._held.store.ledger, 0
        if ledger.position:
            while found := await ledger.read(position, MAX_READ):
                for record in found:
                    simulation.resume(record.fact)
                position = found[-1].position
            simulation.resumed()
            return
        simulation.signs(self._signer(Kind.X509), self._signer(Kind.JWT))
        simulation.begin()
        await self._append(simulation, records)

    async def _append(self, simulation: Simulation, records: Records) -> None:
        facts = list(simulation.until(to_ms(self._held.clock.now())))
        for begin in range(0, len(facts), MAX_FACTS):
            await records.append(facts[begin : begin + MAX_FACTS])

    async def _live(self, simulation: Simulation, records: Records) -> None:
        """What happens from now on."""
        while True:
            await self._held.clock.sleep(TICK_SECONDS)
            simulation.signs(self._signer(Kind.X509), self._signer(Kind.JWT))
            await self._append(simulation, records)
            await self._present()

    async def _present(self) -> None:
        """The nodes that are heard, each with the newest bundle; the laggard of a STUCK cluster stays where it was."""
        state, now = self._state(), self._held.clock.now()
        nodes = sorted((name for name, _ in state.nodes.items()), key=lambda name: (len(name), name))
        for node in nodes:
            last = node == nodes[-1]
            if last and self.scene.fault is Fault.SILENT:
                self._presence.alive(node, now - timedelta(minutes=1))
                continue
            self._presence.alive(node, now + timedelta(hours=1))
            held = self._presence.get(node)
            if last and self.scene.fault is Fault.STUCK and held is not None and held.levels:
                continue
            level = state.level
            if last and self.scene.fault is Fault.STUCK:
                level = type(level)(1, 1)
            self._presence.says(node, [(self.scene.name, level)])
        self._held.authorities.look()

    async def _publish(self) -> None:
        """Give the hub each new bundle by its open door: there is no stream of trust."""
        told, clock = self._state().envelope, self._held.clock
        while True:
            await clock.sleep(TICK_SECONDS)
            if (state := self._state()).envelope != told:
                try:
                    await push_envelope(state)
                except TrustfedError as error:
                    log.warning("the hub does not take a bundle", domain=self.scene.name, error=error.message)
                else:
                    told = state.envelope

    async def _follow(self, runner: Runner, link: FleetLink) -> None:
        """Tell the hub; a DEAD cluster stops when the hub has everything."""
        await runner.opened.wait()
        following = asyncio.create_task(link.run())
        try:
            while self.scene.fault is not Fault.DEAD or not _told(link):
                await self._held.clock.sleep(TICK_SECONDS)
                if following.done():
                    following.result()
            await self._held.clock.sleep(FAREWELL_SECONDS)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        (self._folder / GONE).touch()
        log.info("this simulated cluster is dead from now on", domain=self.scene.name)

    def _signer(self, kind: Kind) -> str:
        authority = signer(list(self._state().authorities.values()), kind, self._held.clock.now())
        return authority.id if authority is not None else ""


def configuration(scene: Scene, folder: Path) -> ClusterConfig:
    """What a cluster of this kind would be configured as."""
    policies = {Fault.STUCK: STUCK_POLICY, Fault.LINT: LINT_POLICY}
    nowhere = Door("127.0.0.1:0")
    return ClusterConfig(
        data_dir=folder,
        grpc=nowhere,
        bundle_spiffe=nowhere,
        admin_socket=Path("/nowhere.sock"),
        keys=KeysConfig(directory=folder / "keys", workers=0),
        policy=policies.get(scene.fault, Policy()),
        log=LogConfig("warning"),
        evidence=EvidenceConfig(orders=(), witness_directory=folder / AUDITOR),
    )


def _told(link: FleetLink) -> bool:
    said = link.status()
    return bool(said["connected"] and said["cursor"] and said["cursor"] == said["held"])


async def _takes_nothing(order: pb.Order) -> pb.OrderDone:
    return pb.OrderDone(id=order.id[:64], outcome="denied", error="a simulated cluster takes no orders")


async def _no_stream(authority: str, csr: bytes) -> bytes:
    raise Unavailable("a simulated cluster has no stream of trust")
