"""A hub without doors or disks: its fold, signer and operations over memory drivers, with a clock that tests move."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from ca.keys.memory import MemoryKeys
from tests.fakes.clocks import ManualClock
from tests.unit.hub.newcomer import Kept, Newcomer
from trustfed.federation.enrolment import binary
from trustfed.federation.token import EnrolmentToken
from trustfed.hub import roots
from trustfed.hub.access import Caller
from trustfed.hub.api import Parts
from trustfed.hub.chores import Chores
from trustfed.hub.enrol import EnrolRequest
from trustfed.hub.events import SCHEMA, HubCreated, codec
from trustfed.hub.identity import Identity, IdentityPolicy, Present
from trustfed.hub.manifest_files import ManifestFiles
from trustfed.hub.operations import Operations
from trustfed.hub.publication import Publication
from trustfed.hub.relay import Relay
from trustfed.hub.signing import RootPolicy, RootSigner
from trustfed.hub.state import HubState, apply
from trustfed.journal.fold import Fold
from trustfed.journal.memory import MemoryJournal, MemorySnapshots
from trustfed.journal.ports import Journal
from trustfed.journal.table import decode_state, encode_state
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.ids import TrustDomain

HUB = TrustDomain("hub.example")
ADMIN = Caller("uid:0", "admin")
DAY = timedelta(days=1)


class HubParts:
    """`await HubParts.make()`; `await close()` at the end."""

    def __init__(self, journal: Journal | None) -> None:
        # Newcomers issue by the real time, so the hub's clock starts there too.
        self.clock = ManualClock(datetime.now(UTC))
        self.journal = journal or MemoryJournal()
        self.keys, self.recorded = MemoryKeys(), Kept()
        self.signer = RootSigner(self.keys, self.recorded, RootPolicy(365 * DAY, DAY), os.urandom)
        self.identity = Identity(
            self.keys, self.recorded, IdentityPolicy(("localhost",), timedelta(hours=1), 3 * DAY), os.urandom
        )
        self.fold = Fold(
            self.journal,
            MemorySnapshots(),
            HubState(),
            apply,
            codec(),
            encode_state,
            lambda data: decode_state(data, HubState),
            SCHEMA,
        )
        self._folder = TemporaryDirectory()
        self.manifests = ManifestFiles(Path(self._folder.name) / "manifests")
        self.operations = Operations(self.fold, self.signer, self.clock, os.urandom, "hub.example:9443", self.manifests)
        self.relay, self.publication = Relay(), Publication(None, self.manifests)
        self.presented: list[Present] = []
        self.chores = Chores(self.fold, self.signer, self.identity, self.clock, os.urandom, self.presented.append)
        self._following: asyncio.Task[None] | None = None

    @classmethod
    async def make(cls, journal: Journal | None = None) -> HubParts:
        made = cls(journal)
        await made.fold.start()
        now = made.clock.now()
        created = HubCreated("instance", HUB.name)
        root = await made.signer.first(HUB, now)
        begun = apply(apply(HubState(), created), root)
        authority = await made.identity.new_authority(HUB, made.signer, begun, now)
        await made.fold.execute(
            lambda state: roots.create(state, created, root, authority), command_id="init", actor="uid:0", now=now
        )
        made._following = asyncio.create_task(made._follow())
        return made

    @property
    def state(self) -> HubState:
        return self.fold.state

    def parts(self) -> Parts:
        return Parts(
            operations=self.operations,
            relay=self.relay,
            publication=self.publication,
            journal=self.journal,
            metrics=Registry(),
            addresses={"grpc": "hub.example:8443"},
            started=self.clock.now(),
            software="test",
            svid_not_after=self.clock.now,
        )

    async def alone(self, body: Struct) -> None:
        """A command that takes two people, with the glass broken: for tests that are not about that."""
        await self.operations.ask(ADMIN, body, "a test of one person", break_glass=True)

    async def enrolled(self, name: str, *, simulated: bool = False) -> Newcomer:
        """A domain that went through an enrolment."""
        domain = await Newcomer.make(name)
        life = timedelta(hours=1)
        token = await self.operations.invite(ADMIN, domain.trust_domain, "team", [], life, simulated=simulated)
        admitted = await self.operations.enrol(await request_of(domain, token))
        domain.intermediate = admitted.intermediate.certificate
        await settle()
        return domain

    async def granted(self, importer: Newcomer, exporter: Newcomer) -> str:
        """A grant that its importing owner accepted."""
        grant = await self.operations.offer(
            ADMIN,
            importer=importer.trust_domain,
            exporter=exporter.trust_domain,
            until=self.clock.now() + DAY,
            reason="test",
        )
        await self.operations.decide(
            importer.trust_domain.name,
            grant.id,
            "accept",
            actor="uid:1",
            reason="yes",
            fingerprint=exporter.key.fingerprint,
        )
        await settle()
        return grant.id

    async def _follow(self) -> None:
        async for position, event in self.fold.subscribe(0):
            self.relay.on_event(position, event, self.state)
            self.publication.on_event(event, self.state)

    async def close(self) -> None:
        if self._following:
            self._following.cancel()
        await self.fold.close()
        self._folder.cleanup()


async def settle() -> None:
    """Let subscribers follow."""
    for _ in range(20):
        await asyncio.sleep(0)


async def request_of(domain: Newcomer, token: EnrolmentToken) -> EnrolRequest:
    document = await domain.enrolment(token.encode())
    return EnrolRequest(token.secret_hash(), domain.key, domain.authority, domain.csr, binary(document, "envelope"))
