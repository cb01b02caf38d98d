"""Puts the parts of this room together, and gives the hub's own composition one thing to hold."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import grpc

from ca.keys.port import KeyStore
from trustfed.errors import TrustfedError
from trustfed.hub.calls import Calls
from trustfed.hub.dashboard.events import OwnerChanged
from trustfed.hub.events import DomainEnrolled, DomainRemoved, EnvelopeAccepted
from trustfed.hub.evidence.alerts import Alerts
from trustfed.hub.evidence.config import AlertsConfig, EvidenceConfig
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.keeper import Keeper
from trustfed.hub.evidence.measures import Measures
from trustfed.hub.evidence.mirror import RootMirror
from trustfed.hub.evidence.orders import Orders
from trustfed.hub.evidence.own import OwnEvidence
from trustfed.hub.evidence.own_log import MerkleLog, OwnLog
from trustfed.hub.evidence.questions import Questions
from trustfed.hub.evidence.reporting import FleetReporting
from trustfed.hub.evidence.service import FleetService
from trustfed.hub.evidence.session import Sessions
from trustfed.hub.evidence.store import FleetStore
from trustfed.hub.evidence.webhook import Webhook, read_secret
from trustfed.hub.evidence.witness import HubWitness
from trustfed.hub.records import Domain
from trustfed.hub.state import HubState
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.journal.merkle.witness_files import WitnessFiles
from trustfed.journal.ports import Journal, Ledger
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.files import private_directory
from trustfed.runtime.guarded_fetch import post
from trustfed.runtime.metrics import Registry

FORGET_SECONDS = 5.0
_log = logs.get("hub.evidence")


class Logs(Protocol):
    """The hub's store, as far as evidence goes (trustfed.journal.sqlite.Store)."""

    @property
    def ledger(self) -> Any:
        """The facts; `position` is the last durable one."""

    @property
    def events_log(self) -> MerkleLog:
        """The tree over the journal."""

    @property
    def facts_log(self) -> MerkleLog:
        """The tree over the ledger."""


class HubEvidenceParts:
    """Evidence at the hub. `start`, then `work`, then `close`; `on_event` hears the journal from `start` on."""

    def __init__(
        self,
        evidence: EvidenceConfig,
        alerts: AlertsConfig,
        directory: Path,
        fold: Fold[HubState],
        logs_of: Logs,
        keys: KeyStore,
        custodian: str,
        calls: Calls,
        clock: Clock,
        randomness: Callable[[int], bytes],
        registry: Registry,
    ) -> None:
        """`directory` is this room's own; `custodian` names the kind of key store."""
        self._directory, self._fold, self._clock = directory, fold, clock
        self._alerts_config, self._randomness, self._registry = alerts, randomness, registry
        self._calls, self._gone = calls, asyncio.Queue[str]()
        self.fleet, self.sessions = Fleet(clock), Sessions()
        self.questions = Questions(self.sessions, self.fleet)
        self.orders = Orders(fold, self.sessions, clock, randomness)
        ledger: Ledger = logs_of.ledger
        self.own_log = OwnLog(
            fold,
            keys,
            logs_of.events_log,
            logs_of.facts_log,
            lambda: int(logs_of.ledger.position),
            clock,
            directory / "log",
            every=evidence.checkpoint_every,
            witness_directory=evidence.witness_directory,
            randomness=randomness,
        )
        files = WitnessFiles(directory / "witnessed")
        self._files, self._custodian = files, custodian
        self.witness = HubWitness(fold, self.own_log, files, self.sessions, self.fleet, clock, randomness)
        self.own = OwnEvidence(fold, logs_of.ledger, self.fleet, self.own_log, clock, custodian)
        self._mirror = RootMirror(fold, ledger, clock, custodian)
        self._measures = Measures(self.fleet, clock, registry)
        self._webhook: Webhook | None = None
        self._alerts: Alerts | None = None
        self._store: FleetStore | None = None
        self._keeper: Keeper | None = None
        self._service: FleetService | None = None

    async def start(self) -> None:
        """Show what was kept, and have a log key."""
        await asyncio.to_thread(private_directory, self._directory)
        self._store = await asyncio.to_thread(FleetStore.open, self._directory / "fleet.db")
        self._keeper = Keeper(self.fleet, self._store, self._clock)
        domains = self._fold.state.domains
        enrolled = [name for name, domain in domains.items() if domain.status == "enrolled"]
        for domain in self._keeper.load(await asyncio.to_thread(self._store.load), enrolled):
            self._gone.put_nowait(domain)
        for name in enrolled:
            self._know(domains[name])
        await self.own_log.start()
        self.own.start(self._directory)
        self.questions.local[self.own.domain] = self.own.answer
        self._webhook = await self._open_webhook()
        silence: timedelta = self._alerts_config.silence
        self._alerts = Alerts(self.fleet, self._clock, self._registry, silence, self._webhook)
        self._service = FleetService(
            self._calls,
            self.sessions,
            self.fleet,
            self._keeper,
            self.questions,
            self.orders,
            self.witness,
            self._clock,
            self._registry,
        )

    def handlers(self) -> grpc.GenericRpcHandler:
        """What the clusters' door serves besides; after `start`."""
        assert self._service is not None
        return self._service.handlers()

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the doors, each until cancelled; after `start`."""
        assert self._keeper is not None and self._alerts is not None
        running = [
            self._keeper.run(),
            self._alerts.run(),
            self._measures.run(),
            self._mirror.run(),
            self.own_log.run(),
            self.own.run(),
            self.orders.run(),
            self._forget(),
        ]
        return [*running, self._webhook.run()] if self._webhook else running

    def on_event(self, position: int, event: TypedEvent, state: HubState) -> None:
        """One event of the hub's journal, after it was folded."""
        match event:
            case DomainEnrolled():
                self._know(state.domains[event.name])
            case EnvelopeAccepted():
                self.fleet.published(event.domain, event.epoch, event.sequence)
            case OwnerChanged() if state.domains[event.domain].status == "enrolled":
                self._know(state.domains[event.domain])
            case DomainRemoved():
                self.fleet.forget(event.name)
                self.witness.forget(event.name)
                if self._service is not None:
                    self._service.removed(event.name)
                self._gone.put_nowait(event.name)
        self.orders.on_event(event)

    def reporting(self, journal: Journal, addresses: Mapping[str, str]) -> FleetReporting:
        """Reports of the whole fleet; `addresses` are the hub's doors."""
        fold, files, custodian = self._fold, self._files, self._custodian
        return FleetReporting(
            lambda: fold.state, self.fleet, self.questions, self.own_log, files, journal, addresses, custodian
        )

    async def days(self, domain: str, class_: str) -> list[tuple[int, list[int]]]:
        """The counts of days that are older than 35: (Unix ms, counts)."""
        assert self._store is not None
        return await self._store.days(domain, class_)

    async def close(self) -> None:
        """Keep what waits, and close the store; twice is fine."""
        if self._keeper is not None and self._store is not None:
            with contextlib.suppress(TrustfedError):
                await self._keeper.flush()
            await self._store.close()
        await self.own.close()

    async def _open_webhook(self) -> Webhook | None:
        config = self._alerts_config
        if not config.webhook or config.key_file is None:
            return None
        secret = read_secret(await asyncio.to_thread(config.key_file.read))
        context = await asyncio.to_thread(_trusting, config.ca_file)
        reach = config.reach()

        def send(body: bytes, headers: dict[str, str]) -> None:
            post(config.webhook, context, body, headers, reach=reach)

        path = self._directory / "webhook.json"
        webhook = Webhook(path, send, secret, self._clock, self._randomness, self._registry)
        await webhook.start()
        return webhook

    def _know(self, record: Domain) -> None:
        self.fleet.know(record.name, owner=record.owner, simulated=record.simulated)
        if record.envelope:
            self.fleet.published(record.name, record.epoch, record.sequence)

    async def _forget(self) -> None:
        """Keep nothing of domains that were removed; one that has enrolled again meanwhile begins anew all the same."""
        while True:
            domain = await self._gone.get()
            for _ in range(100):  # what its stream brought last is still being kept
                if self.sessions.get(domain) is None:
                    break
                await asyncio.sleep(0.05)
            try:
                assert self._keeper is not None
                await self._keeper.forget(domain)
                await self.witness.begin_anew(domain)
                record = self._fold.state.domains.get(domain)
                if record is not None and record.status == "enrolled":
                    self._know(record)
            except TrustfedError as error:
                _log.error("what is kept of a removed domain is not forgotten yet", domain=domain, error=error.message)
                self._gone.put_nowait(domain)
                await self._clock.sleep(FORGET_SECONDS)


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
