"""What a cluster tells the hub of its own mesh: signed, changes only, all of it when the digests differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fakes.mesh_world import export, gateway, import_
from tests.unit.cluster.cluster_parts import TD
from tests.unit.cluster_mesh.hub_house import HubHouse
from trustfed.cluster import events as e
from trustfed.cluster.mesh import telling
from trustfed.cluster.mesh.telling import Telling, sequence_of
from trustfed.cluster.uplink import Uplink
from trustfed.errors import Unavailable
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.mesh_digest import digest
from trustfed.federation.mesh_statement import open_statement
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.ids import TrustDomain


@pytest_asyncio.fixture
async def house() -> AsyncIterator[HubHouse]:
    made = await HubHouse.make()
    yield made
    await made.close()


def teller(house: HubHouse) -> Telling:
    return Telling(house.parts.fold, house.parts.keys, lambda: None)


async def said(told: Telling) -> list[pb.MeshReport]:
    return [message.mesh async for message in told.messages()]


async def follow(house: HubHouse, told: Telling, after: int) -> None:
    """What the cluster's watcher does."""
    for position in range(after, house.parts.fold.position):
        (record,) = await house.parts.journal.read(position, 1)
        told.on_event(e.CODEC.decode(record.event))


def state_digest(house: HubHouse) -> bytes:
    state = house.parts.state
    return digest({at: str(sequence_of(state, own.sequence)) for at, own in state.mesh.own.items()})


async def test_a_hub_that_holds_it_all_is_told_nothing(house: HubHouse) -> None:
    await house.put(gateway(), export(TD))
    told = teller(house)
    told.begin(pb.HubHello(mesh_digest=state_digest(house)))
    assert await said(told) == []
    told.begin(pb.HubHello(mesh_digest=digest({})))
    (report,) = await said(told)
    assert (report.snapshot, report.last, len(report.items)) == (True, True, 2)
    assert await said(told) == []


async def test_a_hello_says_what_there_is(house: HubHouse) -> None:
    await house.put(gateway(), export(TD))
    hello = pb.ClusterHello()
    teller(house).greet(hello)
    assert hello.mesh_digest == state_digest(house)


async def test_a_bundle_waits_for_no_more_than_one_message_of_a_long_report(house: HubHouse) -> None:
    parts, sent, done = house.parts, list[str](), asyncio.Event()

    class Slow:
        """Signs, say, and meanwhile an authority is replaced."""

        async def messages(self) -> AsyncIterator[pb.FromCluster]:
            for number in range(3):
                if number == 1:
                    await parts.record(e.EpochBegun(7, 1, parts.now))
                    await parts.round()
                yield pb.FromCluster(mesh=pb.MeshReport())
            done.set()

    class Opened:
        async def send_message(self, message: pb.FromCluster) -> None:
            sent.append(str(message.WhichOneof("message")))

    uplink = Uplink(parts.fold, None, dict, house.news, parts.clock, Registry())  # type: ignore[arg-type]
    uplink.join(Slow())  # type: ignore[arg-type]
    sending = asyncio.create_task(uplink._send(Opened()))
    async with asyncio.timeout(10):
        await done.wait()
    sending.cancel()
    assert sent[:5] == ["envelope", "mesh", "mesh", "envelope", "mesh"]


async def test_a_hub_that_knows_nothing_of_meshes_is_told_nothing(house: HubHouse) -> None:
    await house.put(gateway())
    told = teller(house)
    told.begin(pb.HubHello())
    assert await said(told) == []


async def test_statements_are_signed_by_the_publication_key(house: HubHouse) -> None:
    await house.put(gateway(), export(TD), import_("td-east"))
    told = teller(house)
    told.begin(pb.HubHello(mesh_digest=b"other"))
    (report,) = await said(told)
    domain = house.parts.state.domain
    assert domain is not None
    for item in report.items:
        opened = open_statement(item.statement, TrustDomain(TD), PublicationKey(domain.publication_key))
        assert (opened.kind, opened.name, opened.sequence) == (item.kind, item.name, item.sequence)


async def test_then_changes_alone_and_the_newest_of_each(house: HubHouse) -> None:
    await house.put(gateway(), export(TD))
    told = teller(house)
    told.begin(pb.HubHello(mesh_digest=b"other"))
    await said(told)
    position = house.parts.fold.position
    await house.put(gateway(address="198.51.100.8"), gateway(address="198.51.100.9"))
    await house.drop(export(TD))
    await follow(house, told, position)
    (report,) = await said(told)
    assert not report.snapshot
    assert [item.name for item in report.items] == ["gw-1"]
    assert report.items[0].statement != b""
    assert [name.kind for name in report.removed] == ["export"]
    assert report.removed[0].sequence > report.items[0].sequence
    assert await said(told) == []


async def test_a_snapshot_of_nothing_is_said_too(house: HubHouse) -> None:
    told = teller(house)
    told.begin(pb.HubHello(mesh_digest=digest({"gateway/old": "1"})))
    (report,) = await said(told)
    assert (report.snapshot, report.last, len(report.items)) == (True, True, 0)


async def test_parts_are_bounded_and_signed_in_batches(house: HubHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "MAX_PART_ITEMS", 4)
    monkeypatch.setattr(telling, "SIGNED_AT_ONCE", 3)
    await house.put(*[gateway(f"g{n}") for n in range(10)])
    told = teller(house)
    told.begin(pb.HubHello(mesh_digest=b"other"))
    reports = await said(told)
    assert [len(report.items) for report in reports] == [4, 4, 2]
    assert [report.last for report in reports] == [False, False, True]


async def test_what_is_signed_is_signed_once(house: HubHouse) -> None:
    await house.put(gateway(), export(TD))
    told = teller(house)
    told.begin(pb.HubHello(mesh_digest=b"other"))
    (first,) = await said(told)
    told.begin(pb.HubHello(mesh_digest=b"other"))
    (second,) = await said(told)
    assert [item.statement for item in first.items] == [item.statement for item in second.items]


async def test_a_key_store_that_is_away_delays_and_loses_nothing(
    house: HubHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.put(gateway())
    told = teller(house)
    told.begin(pb.HubHello(mesh_digest=b"other"))

    async def away(name: str, messages: object) -> list[bytes]:
        raise Unavailable("the key store is away")

    with monkeypatch.context() as patched:
        patched.setattr(house.parts.keys, "sign", away)
        assert await said(told) == []
    (report,) = await said(told)
    assert (report.snapshot, len(report.items)) == (True, 1)


async def test_a_new_epoch_makes_everything_newer(house: HubHouse) -> None:
    """Restored from a backup: the journal's numbers are used once more, and the hub holds higher ones."""
    await house.put(gateway())
    told = teller(house)
    told.begin(pb.HubHello(mesh_digest=b"other"))
    (before,) = await said(told)
    state = house.parts.state
    position = house.parts.fold.position
    await house.parts.record(e.BundlePublished(state.level.epoch + 1, state.level.sequence + 1, (), state.envelope))
    await follow(house, told, position)
    (after,) = await said(told)
    assert after.snapshot
    assert after.items[0].sequence >= before.items[0].sequence + (1 << 32)


async def test_what_was_taken_back_takes_no_memory(house: HubHouse) -> None:
    told = teller(house)
    told.begin(pb.HubHello(mesh_digest=state_digest(house)))
    for number in range(3):
        start = house.parts.fold.position
        await house.put(gateway(f"gw-{number}"))
        await follow(house, told, start)
        assert len(await said(told)) == 1
        start = house.parts.fold.position
        await house.drop(gateway(f"gw-{number}"))
        await follow(house, told, start)
        assert len(await said(told)) == 1
    assert not told._signed
