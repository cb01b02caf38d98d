"""Puts the parts of this room together, and gives the cluster's own composition one thing to hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from ca.lifecycle import Level
from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.apart import Apart
from trustfed.cluster.callers import Callers
from trustfed.cluster.evidence.admin import evidence_paths
from trustfed.cluster.evidence.admin_packs import pack_paths
from trustfed.cluster.evidence.alarms import Alarms
from trustfed.cluster.evidence.availability import Availability, BundleProbe, sign_probe
from trustfed.cluster.evidence.fleet_link import FleetLink
from trustfed.cluster.evidence.gaps import Gaps
from trustfed.cluster.evidence.heard import Nodes
from trustfed.cluster.evidence.intake import Intake
from trustfed.cluster.evidence.kept import open_kept
from trustfed.cluster.evidence.logs import ClusterLogs
from trustfed.cluster.evidence.mirror import Mirror
from trustfed.cluster.evidence.mirrored import Mirrored
from trustfed.cluster.evidence.node_door import NodeDoor
from trustfed.cluster.evidence.orders import Orders, pause_command
from trustfed.cluster.evidence.own_standing import OwnStanding
from trustfed.cluster.evidence.packing import Packing
from trustfed.cluster.evidence.records import Records
from trustfed.cluster.evidence.reporting import Reporting
from trustfed.cluster.evidence.runner import Runner
from trustfed.cluster.evidence.serials import Serials
from trustfed.cluster.evidence.shown import Shown
from trustfed.cluster.evidence.signed import Signatures
from trustfed.cluster.evidence.witness import OfIssuance
from trustfed.cluster.evidence.witnessing import Witnessing
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.identity import OwnIdentity
from trustfed.cluster.istio_ca.inside import Inside
from trustfed.cluster.parts import Parts
from trustfed.cluster.presence import Presence
from trustfed.cluster.uplink import Uplink
from trustfed.cluster.watching import Watching
from trustfed.errors import TrustfedError
from trustfed.evidence.rollovers import stuck
from trustfed.journal.approvals import Proposal
from trustfed.journal.merkle.witness_files import WitnessFiles
from trustfed.runtime import logs
from trustfed.runtime.paths import Paths
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.waiting import together
from trustfed.spiffe.x509svid import X509Svid

FOLDER = "evidence"
_RETRY_SECONDS = 2.0

log = logs.get("cluster.evidence")


@dataclass
class Neighbours:
    """The parts of the cluster that this room looks at."""

    presence: Presence
    uplink: Uplink
    news: HubNews
    watching: Watching
    identity: OwnIdentity
    inside: Inside
    apart: Apart
    feeds: Callable[[], list[dict[str, Any]]]


class EvidenceParts:
    """`await EvidenceParts.open(...)` before the doors; `jobs` while they are open; `close` after them."""

    def __init__(self, parts: Parts, beside: Neighbours) -> None:
        self._parts, self._beside = parts, beside
        self._fold, self._clock, self._config = parts.fold, parts.clock, parts.config.evidence
        self._folder = parts.config.data_dir / FOLDER
        self._nodes = Nodes()
        self._admin: AdminParts | None = None
        self._reporting: Reporting | None = None
        self.alarms = Alarms(parts.clock, parts.registry)
        self.bundle_probe = BundleProbe(lambda: parts.fold.state, beside.inside.anchors)

    async def open(self) -> None:
        """Read what was kept and what the ledger says since, and make the log key. Raises Unavailable, Corrupt, Invalid."""
        parts, beside, clock, registry = self._parts, self._beside, self._clock, self._parts.registry
        store = parts.store
        self._kept = await open_kept(self._folder / "kept.db")
        self.records = Records(store.ledger, self._kept, clock)
        await self.records.start()
        registry.gauge("cluster_evidence_catching_up", "facts to be read before reports of agents are taken").read(
            lambda: float(self.records.left)
        )
        serials = Serials(store.ledger.find)
        self._signatures = Signatures(store.ledger, clock, registry)
        parts.issuance.witness = OfIssuance(serials, self._signatures, self._state, clock)
        self.gaps = Gaps(
            self._state,
            beside.presence,
            self.records,
            self._kept,
            self._importers,
            self._config.silent_after.total_seconds(),
            clock,
        )
        await self.gaps.begin()
        self._shown = Shown(self.records, serials, clock)
        intake = Intake(self.records, serials, self._state, self._nodes, self.alarms, clock, registry)
        callers = Callers(beside.inside.bundle, clock)
        self._door = NodeDoor(self._state, callers, intake, self._reported)
        policy = parts.authorities.lifecycle_policy()
        mirrored = Mirrored(parts.config.keys.store, policy)
        self._mirror = Mirror(parts.fold, store.journal, self.records, mirrored, clock, registry)
        probes = {
            "sign": sign_probe(self._state, parts.keys, clock),
            "bundle": self.bundle_probe.ask,
            "feed": self._feed,
        }
        every = self._config.probe_every.total_seconds()
        self.availability = Availability(probes, every, self.records, clock, registry)
        self.logs = ClusterLogs(
            parts.fold,
            lambda: store.ledger.position,
            store.events_log,
            store.facts_log,
            parts.keys,
            self._kept,
            self._config.checkpoint_every.total_seconds(),
            self._config.witness_directory,
            self.alarms,
            clock,
            registry,
        )
        await self.logs.start()
        hub = parts.fold.state.hub
        witness = WitnessFiles(self._folder / "witness")
        hub_name = hub.trust_domain if hub is not None else ""
        self.witnessing = Witnessing(self.logs, witness, self._kept, hub_name, self.alarms, registry)
        self._orders = Orders(
            parts.fold,
            self._config.orders,
            self._approving,
            beside.uplink.again,
            self._refresh,
            int(parts.config.policy.reissue_window.total_seconds()),
            store.journal,
            clock,
            registry,
        )
        self._own = own = OwnStanding(
            self._state,
            parts.config,
            beside.presence,
            beside.watching.consumers,
            policy,
            beside.apart.freshness,
            clock,
        )
        registry.gauge(
            "cluster_rollovers_stuck", "rollovers that something holds back, their last safe moment near"
        ).read(lambda: float(len(stuck(own.authorities(), to_ms(clock.now())))))
        self.runner = Runner(
            self._folder,
            store,
            self.records,
            own,
            self.logs,
            self.availability,
            self.alarms,
            self._config,
            clock,
            registry,
        )
        if self.records.ready.is_set():
            await self.runner.begin()
        self.link = FleetLink(
            self._state,
            beside.identity,
            lambda: self.runner.store,
            self.logs,
            self.witnessing,
            self.runner.standing,
            self._answer,
            self._orders.take,
            clock,
            registry,
        )
        self.runner.on_change(self.link.changed)

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the cluster does."""
        return [
            self.records.run(),
            self._signatures.run(),
            self._caught_up(),
            self.logs.run(),
            *self.runner.jobs(),
            self._link(),
        ]

    def handlers(self) -> list[Any]:
        """gRPC services beside the agents', for `Server.add_generic_rpc_handlers`."""
        return [self._door.handlers()]

    def admin(self, app: Paths, parts: AdminParts) -> Paths:
        """The admin application with the paths of this room."""
        parts.approvals.add(pause_command())
        parts.approvals.on_broken(self._alone)
        self._admin = parts
        evidence_paths(app, parts, self.runner, self.logs, self.witnessing, self.link)
        config, store = self._parts.config, self._parts.store
        self._reporting = reporting = Reporting(
            self._state,
            config,
            lambda: self.runner.store,
            store.journal,
            lambda: store.ledger.first,
            self.logs,
            self._own.authorities,
            lambda: parts.addresses,
            self._clock,
        )
        packing = Packing(self._fold, store, config.policy, self.logs, self.witnessing, self._folder, self._clock)
        pack_paths(app, reporting, packing)
        return app

    def _alone(self, broken: Proposal) -> None:
        says = f"{broken.proposed_by} did alone what takes two people: {broken.command}: {broken.reason}"
        self.alarms.happened("glass_broken", broken.id, says, "trustfed approval list --broken")

    def shown(self, node: str, svid: X509Svid) -> None:
        """A node called, or joined, and proved that it has this SVID's key."""
        self._shown.saw(node, svid)
        self.gaps.look_at(node)

    def told(self, node: str, milliseconds: int) -> None:
        """A node is told the time."""
        if node:
            self._nodes.of(node).tell(milliseconds)

    def others(self, seen: Callable[..., None]) -> Callable[..., None]:
        """`seen` for everybody but the own probe."""

        def saw(request: Request, *rest: Any) -> None:
            if not self.bundle_probe.own(request.query_params):
                seen(request, *rest)

        return saw

    async def close(self) -> None:
        """Write what is left, and close the files."""
        await self.runner.close()
        try:
            await self.records.save()
        except TrustfedError as error:  # the ledger has it all, and is read again at the next start
            log.warning("what is known of the ledger is not saved", error=error.message, hint=error.hint)
        await self._kept.close()

    async def _caught_up(self) -> None:
        """What adds to the ledger by what is in it, once that is read."""
        begun = self.records.ready.is_set()
        await self.records.ready.wait()
        while not begun:
            try:
                await self.runner.begin()
                begun = True
            except TrustfedError as error:
                log.error("the definition of the figures is not recorded yet", error=error.message, hint=error.hint)
                await self._clock.sleep(_RETRY_SECONDS)
        jobs = [self._shown.run(), self._mirror.run(), self.gaps.run(), self.availability.run()]
        await together(jobs, asyncio.Event())

    async def _link(self) -> None:
        await self.runner.opened.wait()
        await self.link.run()

    def _state(self) -> Any:
        return self._fold.state

    def _reported(self, node: str, svid: X509Svid) -> None:
        self._shown.saw(node, svid)
        self.gaps.called(node)

    async def _answer(self, kind: str, body: bytes) -> bytes:
        """What the hub asks: a report, or one of trustfed.evidence.queries."""
        if kind == "report" and self._reporting is not None:
            return await self._reporting.answer(body)
        return await self.runner.answer(kind, body)

    def _approving(self) -> Any:
        assert self._admin is not None, "admin() comes before anything is ordered"
        return self._admin.approvals

    async def _feed(self) -> bool | None:
        feeds = self._beside.feeds()
        return any(feed["connected"] and feed["current"] for feed in feeds) if feeds else None

    async def _refresh(self) -> int:
        return self._beside.apart.ask_all()

    def _importers(self) -> dict[str, Level]:
        found: dict[str, Any] = self._beside.news.importers()
        levels = {name: held["level"] for name, held in found.items() if held["level"]}
        return {name: Level(level["epoch"], level["sequence"]) for name, level in levels.items()}
