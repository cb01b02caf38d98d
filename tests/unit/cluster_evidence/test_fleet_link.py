"""The stream of evidence to the hub: resumable, bounded, and believed only as far as signatures go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tests.fakes.fleet import FakeFleet
from tests.fakes.hub import HUB
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from trustfed.cluster.admin_parts import AdminParts
from trustfed.cluster.evidence.admin import evidence_paths
from trustfed.cluster.evidence.alarms import Alarms
from trustfed.cluster.evidence.events import HubLogForgotten, RolloverPaused
from trustfed.cluster.evidence.fleet_link import MAX_QUESTIONS, FleetLink
from trustfed.cluster.evidence.kept import open_kept
from trustfed.cluster.evidence.logs import ClusterLogs
from trustfed.cluster.evidence.witnessing import Witnessing
from trustfed.cluster.identity import OwnIdentity
from trustfed.errors import NotFound, Unavailable
from trustfed.evidence.model import Class, Obligation, Outcome
from trustfed.evidence.model import Level as EvidenceLevel
from trustfed.evidence.store import ChangedRows
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.log_key import open_log_key
from trustfed.journal.events import Fact
from trustfed.journal.memory import MemoryJournal, MemoryLedger
from trustfed.journal.merkle import checkpoint as notes
from trustfed.journal.merkle.checkpoint import Checkpoint, open_checkpoint
from trustfed.journal.merkle.hashing import leaf_hash
from trustfed.journal.merkle.ranges import CompactRange
from trustfed.journal.merkle.vkey import COSIGNATURE, parse_vkey, vkey_of
from trustfed.journal.merkle.witness_files import WitnessFiles
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.paths import Paths
from trustfed.runtime.problems import map_errors
from trustfed.spiffe.ids import TrustDomain

HUB_LOG = f"trustfed/{HUB.name}/journal"


class Rows:
    """An evidence store that holds what it is given."""

    store_id = "store-1"

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, list[int]]] = []
        self.failed: list[Obligation] = []

    async def changed_since(self, cursor: int, limit: int) -> ChangedRows:
        failed = list(self.failed) if cursor < len(self.rows) else []
        return ChangedRows(len(self.rows), self.rows[cursor : cursor + limit], failed, cursor == 0)


class HubLog:
    """The hub's journal and its key; `put` makes it longer, `other` is another past of it."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes_raw()
        self.tree: list[bytes] = []

    def note(self, size: int, salt: bytes = b"") -> bytes:
        tree = CompactRange()
        for number in range(size):
            tree.append(leaf_hash(salt + b"%d" % number))
        checkpoint = Checkpoint(HUB_LOG, size, tree.root())
        key = vkey_of(HUB_LOG, self.key.public_key())
        return notes.assemble(checkpoint, key, self.key.sign(notes.payload_to_sign(checkpoint))).data

    def cosignature(self, note: bytes, *, key: Ed25519PrivateKey | None = None) -> bytes:
        signer, checkpoint = key or self.key, notes.peek_checkpoint(note)
        at = int(datetime.now(UTC).timestamp())
        vkey = vkey_of("trustfed/hub", signer.public_key(), COSIGNATURE)
        signature = signer.sign(notes.cosignature_to_sign(checkpoint, at))
        return notes.cosignature_line(checkpoint, vkey, at, signature).line.encode()


class World:
    def __init__(self, parts: ClusterParts, fleet: FakeFleet, log: HubLog, path: Path) -> None:
        self.parts, self.fleet, self.hub_log, self.path = parts, fleet, log, path
        self.rows, self.standing_bytes = Rows(), b'{"trust_domain":"td-a","as_of_ms":1}'
        self.orders: list[pb.Order] = []
        self.slow = asyncio.Event()
        self.running: asyncio.Task[None] | None = None

    async def open(self) -> None:
        parts, clock, registry = self.parts, SystemClock(), Registry()
        self.alarms = Alarms(clock, registry)
        self.kept = await open_kept(self.path / "kept.db")
        journal: Any = parts.journal
        self.logs = ClusterLogs(
            parts.fold,
            lambda: parts.ledger.position,  # type: ignore[attr-defined]
            journal.log,
            parts.ledger.log,  # type: ignore[attr-defined]
            parts.keys,
            self.kept,
            300,
            self.path / "witness",
            self.alarms,
            clock,
            registry,
        )
        await self.logs.start()
        store = WitnessFiles(self.path / "held")
        self.witnessing = Witnessing(self.logs, store, self.kept, HUB.name, self.alarms, registry)
        identity = OwnIdentity(TrustDomain(TD), parts.issuance, parts.policy.node_ttl, parts.clock)
        await identity.renew()
        hub = parts.state.hub
        assert hub is not None
        state = replace(parts.state, hub=replace(hub, grpc=self.fleet.address))

        async def standing() -> bytes:
            return self.standing_bytes

        async def answer(kind: str, body: bytes) -> bytes:
            if kind == "slow":
                await self.slow.wait()
            if kind == "none":
                raise NotFound("there is none", hint="look elsewhere")
            return b'{"asked":' + body + b"}"

        async def take(order: pb.Order) -> pb.OrderDone:
            self.orders.append(order)
            return pb.OrderDone(id=order.id, outcome="done")

        self.link = FleetLink(
            lambda: state,
            identity,
            lambda: self.rows,
            self.logs,
            self.witnessing,
            standing,
            answer,
            take,
            clock,
            registry,
        )
        self.running = asyncio.create_task(self.link.run())

    async def close(self) -> None:
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
        await self.kept.close()

    async def again(self) -> None:
        await self.close()
        await self.open()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    parts = await ClusterParts.make(journal=MemoryJournal(), ledger=MemoryLedger())
    (tmp_path / "witness").mkdir()
    log = HubLog()
    fleet = await FakeFleet.make(parts.hub, log.public)
    made = World(parts, fleet, log, tmp_path)
    await made.open()
    yield made
    await made.close()
    await fleet.stop()
    await parts.close()


def failed(outcome: Outcome) -> Obligation:
    return Obligation(
        "o1",
        Class.LEAF,
        "spiffe://td-a/x",
        "n1/e1",
        "x509",
        "n1",
        "e1",
        "00",
        1,
        2,
        3,
        4,
        EvidenceLevel.LOADED,
        outcome=outcome,
    )


async def test_what_changed_follows_and_goes_on_from_what_the_hub_holds(world: World) -> None:
    fleet, link = world.fleet, world.link
    world.rows.failed = [failed(Outcome.LATE)]
    world.rows.rows = [("leaf", number, [1, 2]) for number in range(3)]
    (delta,) = await fleet.until(lambda: fleet.of("delta"))
    assert (delta.cursor, delta.whole, [c.bucket_ms for c in delta.counters]) == (3, True, [0, 1, 2])
    assert (delta.failed[0].outcome, delta.failed[0].on_time_ms) == ("late", 3)
    assert (await fleet.until(lambda: fleet.of("standing")))[0] == world.standing_bytes
    hello = fleet.hellos[0]
    assert hello.store == "store-1"
    own = world.parts.state.domain
    assert own is not None
    endorsed = open_log_key(hello.log_key, TrustDomain(TD), PublicationKey(own.publication_key))
    assert parse_vkey(endorsed.vkey) == world.logs.vkey
    world.rows.failed = [failed(Outcome.ON_TIME)]
    world.rows.rows.append(("agent", 9, [1]))
    fleet.welcome.cursor = 3
    fleet.cut()
    await fleet.until(lambda: len(fleet.of("delta")) > 1)
    later = fleet.of("delta")[-1]
    assert (later.cursor, later.whole, len(later.counters), later.failed[0].outcome) == (4, False, 1, "")
    await fleet.until(lambda: link.status()["held"] == 4)
    world.standing_bytes = b'{"trust_domain":"td-a","as_of_ms":2}'  # only later: not said again
    link.changed()
    world.standing_bytes = b'{"trust_domain":"td-a","as_of_ms":3,"nodes":1}'
    link.changed()
    await fleet.until(lambda: world.standing_bytes in fleet.of("standing"))


async def test_the_hub_cosigns_our_journal_and_an_auditor_gets_it(world: World, tmp_path: Path) -> None:
    fleet, logs = world.fleet, world.logs
    await world.parts.ledger.append([Fact(1, "x.y", "k", {})])
    await fleet.until(lambda: world.link.connected)
    signed = await logs.cut()
    ledger: Any = world.parts.ledger
    assert world.parts.state.evidence.checkpoint_size == ledger.position
    assert signed.checkpoint.size == world.parts.fold.position
    offer = (await fleet.until(lambda: fleet.of("checkpoint")))[-1]
    assert (offer.origin, offer.old_size, offer.note) == (logs.journal_origin, 0, signed.data)
    line = world.hub_log.cosignature(offer.note, key=Ed25519PrivateKey.generate())
    fleet.say(pb.FromHub(cosignature=pb.Cosignature(origin=offer.origin, size=signed.checkpoint.size, line=line)))
    line = world.hub_log.cosignature(offer.note)
    fleet.say(pb.FromHub(cosignature=pb.Cosignature(origin=offer.origin, size=signed.checkpoint.size, line=line)))
    await fleet.until(logs.cosigned_note)
    key = vkey_of("trustfed/hub", world.hub_log.key.public_key(), COSIGNATURE)
    opened = open_checkpoint(logs.cosigned_note(), [logs.vkey], origin=logs.journal_origin, cosigners=[key])
    assert [one.name for one in opened.cosignatures] == ["trustfed/hub"]
    assert logs.standing()[0].cosigned_size == signed.checkpoint.size
    paths = [await logs.export() for _ in range(2)]
    assert [Path(path).read_bytes() for path in paths] == [logs.cosigned_note()] * 2 and len(set(paths)) == 2
    day = datetime.now(UTC).date().isoformat()
    assert Path(paths[0]).name == f"{TD}-{day}.checkpoint"
    await world.close()
    await world.open()
    await fleet.until(lambda: world.link.connected)
    logs = world.logs
    # The next one begins where the hub stands, also when it says that it stands elsewhere.
    size = signed.checkpoint.size
    assert logs.standing()[0].cosigned_size == size  # another process knows
    fleet.say(pb.FromHub(cosignature=pb.Cosignature(origin=logs.journal_origin, size=size, line=line)))
    await world.parts.entry()
    await logs.cut()
    offer = (await fleet.until(lambda: [one for one in fleet.of("checkpoint") if one.old_size == size]))[-1]
    assert offer.proof
    fleet.say(pb.FromHub(cosignature=pb.Cosignature(origin=offer.origin, size=2)))
    await fleet.until(lambda: [one for one in fleet.of("checkpoint") if one.old_size == 2])
    assert world.logs.cosigned_note() == Path(paths[0]).read_bytes()
    assert world.logs.standing()[0].checkpoint_size > size


@pytest.mark.parametrize("refused", ["fork", "shrunk"])
async def test_a_hub_that_saw_another_past_of_ours_alarms(world: World, refused: str) -> None:
    await world.fleet.until(lambda: world.link.connected)
    origin = world.logs.journal_origin
    world.fleet.say(pb.FromHub(cosignature=pb.Cosignature(origin=origin, size=9, refused=refused)))
    await world.fleet.until(world.alarms.standing)
    (alarm,) = world.alarms.standing()
    assert (alarm.code, alarm.severity, alarm.subject) == (f"log_{refused}_seen", "page", origin)
    assert world.logs.standing()[0].problem == refused


async def test_the_hubs_log_is_witnessed_over_restarts(world: World) -> None:
    fleet, log = world.fleet, world.hub_log
    await fleet.until(lambda: world.link.connected)

    async def offered(note: bytes, old: int = 0, proof: tuple[bytes, ...] = ()) -> pb.Cosignature:
        count = len(fleet.of("cosignature"))
        offer = pb.CheckpointOffer(origin=HUB_LOG, old_size=old, proof=proof, note=note)
        fleet.say(pb.FromHub(checkpoint=offer))
        await fleet.until(lambda: len(fleet.of("cosignature")) > count)
        said: pb.Cosignature = fleet.of("cosignature")[-1]
        return said

    first = log.note(5)
    said = await offered(first)
    public = world.logs.vkey.public
    data = first + said.line
    name = f"trustfed/{TD}"
    (cosigned,) = open_checkpoint(
        data,
        [vkey_of(HUB_LOG, log.key.public_key())],
        origin=HUB_LOG,
        cosigners=[type(world.logs.vkey)(name, COSIGNATURE, public)],
    ).cosignatures
    assert cosigned.name == name
    await world.again()
    await fleet.until(lambda: world.link.connected)
    assert (await offered(log.note(8))).size == 5  # a proof from elsewhere: from here, please
    assert (await offered(log.note(5, b"other"), 5)).refused == "fork"
    shrunk = await offered(log.note(3), 3)
    assert (shrunk.refused, shrunk.size, shrunk.held) == ("shrunk", 5, first)
    assert {alarm.code for alarm in world.alarms.standing()} == {"hub_log_fork", "hub_log_shrunk"}
    assert (await offered(HubLog().note(9), 5)).refused == "signature"


def _operator(world: World) -> httpx.AsyncClient:
    """The admin socket's paths for evidence, asked by uid 7."""
    none: dict[str, Any] = dict.fromkeys(field.name for field in fields(AdminParts))
    app, parts = Paths(), AdminParts(**none | {"fold": world.parts.fold, "clock": SystemClock()})
    map_errors(app)
    unused: Any = None
    evidence_paths(app, parts, unused, unused, world.witnessing, unused)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=("uid:7", 1)), base_url="http://cluster")


async def _cannot_be_recorded(_: HubLogForgotten) -> None:
    raise Unavailable("the disk is full")


async def test_another_log_key_of_the_hub_is_not_believed_until_an_operator_says_so(world: World) -> None:
    fleet = world.fleet
    await fleet.until(lambda: world.link.connected)
    other = HubLog()
    fleet.welcome.log_key = vkey_of(HUB_LOG, other.key.public_key()).text
    fleet.say(pb.FromHub(checkpoint=pb.CheckpointOffer(origin=HUB_LOG, note=world.hub_log.note(6))))
    await fleet.until(lambda: fleet.of("cosignature") and fleet.of("cosignature")[-1].line)
    await world.again()
    await fleet.until(lambda: [a for a in world.alarms.standing() if a.code == "hub_log_key"])
    fleet.say(pb.FromHub(checkpoint=pb.CheckpointOffer(origin=HUB_LOG, note=other.note(4))))
    await fleet.until(lambda: fleet.of("cosignature")[-1].refused == "signature")
    async with _operator(world) as operator:
        path, said = "/evidence/forget-hub-log", {"reason": "the hub was made anew"}
        assert (await operator.post(path, json={"reason": " "})).status_code == 400
        with pytest.raises(Unavailable):  # nothing is forgotten that could not be recorded
            await world.witnessing.forget(_cannot_be_recorded)
        assert world.alarms.standing()
        # An id that was used before for something else does not keep it out of the journal.
        fold, now = world.parts.fold, SystemClock().now()
        paused = [RolloverPaused("x509", True)]
        await fold.execute(lambda state: paused, command_id="spent", actor="uid:7", now=now)
        answer = await operator.post(path, json=said, headers={"Command-Id": "spent"})
        assert answer.json() == {"forgotten": True}
        assert (await operator.post(path, json=said)).json() == {"forgotten": False}  # nothing is held any more
    assert not world.alarms.standing()
    (event,) = [r.event for r in await world.parts.journal.read(0, 1000) if r.event.kind == "log.hub_forgotten"]
    pinned = vkey_of(HUB_LOG, world.hub_log.key.public_key()).text
    assert (event.actor, event.reason) == ("uid:7", "the hub was made anew")
    assert (event.body["origin"], event.body["vkey"], event.body["size"]) == (HUB_LOG, pinned, 6)
    await world.again()
    await fleet.until(lambda: world.link.connected)
    fleet.say(pb.FromHub(checkpoint=pb.CheckpointOffer(origin=HUB_LOG, note=other.note(4))))
    await fleet.until(lambda: fleet.of("cosignature")[-1].line)


async def test_questions_are_answered_a_few_at_a_time_and_orders_are_handed_on(world: World) -> None:
    fleet = world.fleet
    await fleet.until(lambda: world.link.connected)
    fleet.say(pb.FromHub(question=pb.Question(id=1, kind="identity", body=b'"x"')))
    fleet.say(pb.FromHub(question=pb.Question(id=2, kind="none", body=b"{}")))
    fleet.say(pb.FromHub(question=pb.Question(id=3, kind="identity", body=b"x" * 70_000)))
    answers = await fleet.until(lambda: len(fleet.of("answer")) == 3 and {a.id: a for a in fleet.of("answer")})
    assert answers[1].body == b'{"asked":"x"}' and answers[1].as_of_ms
    assert (answers[2].error_code, answers[3].error_code) == ("not_found", "invalid")
    for number in range(MAX_QUESTIONS + 1):
        fleet.say(pb.FromHub(question=pb.Question(id=10 + number, kind="slow", body=b"1")))
    await fleet.until(lambda: len(fleet.of("answer")) == 4)
    assert (fleet.of("answer")[-1].id, fleet.of("answer")[-1].error_code) == (10 + MAX_QUESTIONS, "unavailable")
    fleet.say(pb.FromHub(order=pb.Order(id="o1", kind="refresh")))
    assert (await fleet.until(lambda: fleet.of("done")))[0].outcome == "done"
    world.slow.set()
    await fleet.until(lambda: len(fleet.of("answer")) == 4 + MAX_QUESTIONS)


async def test_a_hub_without_the_service_is_asked_rarely(world: World) -> None:
    without = await FakeFleet.make(world.parts.hub, known=False)
    await world.close()
    world.fleet, fleet = without, world.fleet
    await world.open()
    await fleet.until(lambda: world.link.error)
    assert world.link._quiet and not world.link.connected
    await without.stop()
    world.fleet = fleet
