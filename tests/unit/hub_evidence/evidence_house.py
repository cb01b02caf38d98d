"""A hub with its evidence room at a real clusters' door, and clusters made by hand that speak to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import msgspec

from ca.keys.port import ED25519
from tests.unit.hub.hub_parts import HubParts, settle
from tests.unit.hub.newcomer import Newcomer
from trustfed.evidence.model import BUCKET_MS, COUNTS
from trustfed.evidence.standing import Standing
from trustfed.federation import log_key
from trustfed.hub.calls import Calls
from trustfed.hub.clusters_door import ClustersDoor
from trustfed.hub.evidence.compose import HubEvidenceParts
from trustfed.hub.evidence.config import AlertsConfig, EvidenceConfig
from trustfed.hub.evidence.service import SERVICE
from trustfed.hub.peers import Peers
from trustfed.journal.events import Event
from trustfed.journal.memory import MemoryJournal, MemoryLedger
from trustfed.journal.merkle.checkpoint import Checkpoint, assemble, origin_of, payload_to_sign
from trustfed.journal.merkle.vkey import Vkey, vkey_of
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.metrics import Registry

SECONDS = 20.0


def row(class_: str = "leaf", ago: int = 1, *, at_ms: int, **counts: int) -> tuple[str, int, list[int]]:
    """A counter `ago` buckets before `at_ms`."""
    return class_, (at_ms // BUCKET_MS - ago) * BUCKET_MS, [counts.get(name, 0) for name in COUNTS]


def pem(certificate: bytes) -> bytes:
    from ssl import DER_cert_to_PEM_cert

    return DER_cert_to_PEM_cert(certificate).encode()


class Logs:
    """Memory drivers, as a Store has them."""

    def __init__(self, journal: MemoryJournal) -> None:
        self.ledger = MemoryLedger()
        self.events_log, self.facts_log = journal.log, self.ledger.log


class EvidenceHouse:
    """`await EvidenceHouse.make(folder)`, `await close()`."""

    def __init__(self, hub: HubParts, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.registry = Registry()
        assert isinstance(hub.journal, MemoryJournal)
        self.logs = Logs(hub.journal)
        self.door = ClustersDoor()
        self.evidence: HubEvidenceParts
        self.address = ""
        self._jobs: list[asyncio.Task[None]] = []

    @classmethod
    async def make(cls, folder: Path) -> EvidenceHouse:
        made = cls(await HubParts.make(), folder)
        await made.open()
        return made

    async def open(self) -> None:
        hub = self.hub
        calls = Calls(Peers(lambda: hub.state), hub.clock)
        self.registry, self.door = Registry(), ClustersDoor()
        self.evidence = HubEvidenceParts(
            EvidenceConfig(checkpoint_every=timedelta(minutes=5)),
            AlertsConfig(),
            self.folder / "evidence",
            hub.fold,
            self.logs,
            hub.keys,
            "memory",
            calls,
            hub.clock,
            os.urandom,
            self.registry,
        )
        await self.evidence.start()
        present = await hub.identity.renew(hub.state, hub.clock.now())
        self.door.present(present.keypair, [root.certificate for root in hub.state.trusted_roots])
        self.address = self.door.bind("127.0.0.1:0")
        self.door.add(self.evidence.handlers())
        await self.door.open()
        self._jobs = [asyncio.create_task(job) for job in (*self.evidence.work(), self._follow())]
        # The hub answers while it still reads its own ledger; what a test asks for is there.
        own, fleet = self.evidence.own, self.evidence.fleet
        await until(lambda: fleet.standing(own.domain) is not None)

    async def shut(self) -> None:
        """The process ends; the journal and the folder stay."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self.door.close()
        await self.evidence.close()

    async def close(self) -> None:
        await self.shut()
        await self.hub.close()

    async def cluster(self, name: str, *, simulated: bool = False) -> FakeCluster:
        return await FakeCluster.make(self, await self.hub.enrolled(name, simulated=simulated))

    async def _follow(self) -> None:
        async for position, event in self.hub.fold.subscribe(self.hub.fold.position):
            self.evidence.on_event(position, event, self.hub.state)


class FakeCluster:
    """One enrolled domain, its log, and what it says at the hub's door."""

    def __init__(self, house: EvidenceHouse, domain: Newcomer) -> None:
        self.house, self.domain = house, domain
        self.journal = MemoryJournal()
        self.key: Vkey
        self.log_key = b""
        self.seen: list[pb.FromHub] = []

    @classmethod
    async def make(cls, house: EvidenceHouse, domain: Newcomer) -> FakeCluster:
        made = cls(house, domain)
        await made.new_key("log")
        return made

    @property
    def name(self) -> str:
        return self.domain.trust_domain.name

    @property
    def origin(self) -> str:
        return origin_of(self.name, "journal")

    async def new_key(self, key_name: str) -> None:
        public = await self.domain.keys.create(key_name, ED25519)
        self.key_name, self.key = key_name, vkey_of(self.origin, public)
        payload = log_key.payload_to_sign(self.domain.trust_domain, self.key.text)
        (signature,) = await self.domain.keys.sign("publication", [payload])
        self.log_key = log_key.assemble(self.domain.trust_domain, self.key.text, signature, self.domain.key).data

    async def grow(self, *words: str) -> None:
        head = len(await self.journal.read(0, 1_000))
        at = [Event(f"{word}-{n}", word, 0, "a", "", "", "k", 1, {"w": word}) for n, word in enumerate(words, head)]
        await self.journal.append(head, at)
        await self.journal.log.integrated(head + len(at))

    async def offer(self, old: int, journal: MemoryJournal | None = None) -> pb.FromCluster:
        """The newest checkpoint of its journal, with the proof from `old`."""
        log = (journal or self.journal).log
        checkpoint = Checkpoint(self.origin, log.size, await log.root(log.size))
        (signature,) = await self.domain.keys.sign(self.key_name, [payload_to_sign(checkpoint)])
        note = assemble(checkpoint, self.key, signature).data
        proof = await log.consistency(old, log.size) if old <= log.size else []
        offer = pb.CheckpointOffer(origin=self.origin, old_size=old, proof=proof, note=note)
        return pb.FromCluster(checkpoint=offer)

    def standing(self, **fields: Any) -> pb.FromCluster:
        at = int(self.house.hub.clock.now().timestamp() * 1000)
        said = Standing(**{"trust_domain": self.name, "as_of_ms": at, **fields})
        return pb.FromCluster(standing=msgspec.json.encode(said))

    def delta(
        self, cursor: int, rows: Sequence[tuple[str, int, list[int]]] = (), *, whole: bool = False, **more: Any
    ) -> pb.FromCluster:
        counters = [pb.Counter(class_=class_, bucket_ms=at, counts=counts) for class_, at, counts in rows]
        return pb.FromCluster(delta=pb.Delta(cursor=cursor, counters=counters, whole=whole, **more))

    @asynccontextmanager
    async def stream(self, **hello: Any) -> AsyncIterator[FakeStream]:
        pair = await self.domain.svid()
        roots = b"".join(pem(root.certificate) for root in self.house.hub.state.trusted_roots)
        credentials = grpc.ssl_channel_credentials(roots, pair.key_pem(), pair.chain_pem())
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(self.house.address, credentials, options) as channel:
            method = channel.stream_stream(
                f"/{SERVICE}/Follow", pb.FromCluster.SerializeToString, pb.FromHub.FromString
            )
            stream = FakeStream(method(timeout=60))
            now = int(self.house.hub.clock.now().timestamp() * 1000)
            said = {"protocol_min": 1, "protocol_max": 1, "store": "one", "log_key": self.log_key, "time_ms": now}
            await stream.say(pb.FromCluster(hello=pb.FleetHello(**{**said, **hello})))
            try:
                yield stream
            finally:
                stream.call.cancel()
                await stream.pump


class FakeStream:
    """One open Follow stream. A task of its own reads: a cancelled read ends the call."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._came: asyncio.Queue[pb.FromHub | None] = asyncio.Queue()
        self.pump = asyncio.create_task(self._pump())

    async def say(self, *messages: pb.FromCluster) -> None:
        # The hub may have ended the call before all is written: what it said then is what `until` and `refused` give.
        with suppress(grpc.aio.AioRpcError):
            for message in messages:
                await self.call.write(message)

    async def until(self, kind: str) -> Any:
        """The next message of this kind."""
        while True:
            async with asyncio.timeout(SECONDS):
                message = await self._came.get()
            assert message is not None, (await self.call.code(), await self.call.details())
            if message.WhichOneof("message") == kind:
                return getattr(message, kind)

    async def refused(self) -> tuple[grpc.StatusCode, str]:
        """How the hub ended it."""
        async with asyncio.timeout(SECONDS):
            while await self._came.get() is not None:
                pass
            return await self.call.code(), await self.call.details()

    async def _pump(self) -> None:
        try:
            while (message := await self.call.read()) is not grpc.aio.EOF:
                self._came.put_nowait(message)
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        self._came.put_nowait(None)


async def until(condition: Any) -> None:
    """Wait for something that others bring about."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)
    await settle()


__all__ = ["EvidenceHouse", "FakeCluster", "FakeStream", "row", "until"]
