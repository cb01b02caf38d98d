"""Each side keeps the other's last checkpoint: cosignatures, another log key, forks and shrinks, both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.keys.port import ED25519
from tests.unit.hub_evidence.evidence_house import EvidenceHouse, FakeCluster, FakeStream, until
from trustfed.errors import Conflict, NotFound
from trustfed.evidence.facts import AUTHORITY_STEP
from trustfed.journal.memory import MemoryJournal
from trustfed.journal.merkle.checkpoint import cosignature_line, cosignature_to_sign, open_checkpoint, peek_checkpoint
from trustfed.journal.merkle.note import parse_note, parse_signatures
from trustfed.journal.merkle.proofs import verify_consistency
from trustfed.journal.merkle.vkey import COSIGNATURE, Vkey, parse_vkey
from trustfed.proto import evidence_pb2 as pb


async def offered(
    cluster: FakeCluster, stream: FakeStream, old: int, journal: MemoryJournal | None = None
) -> pb.Cosignature:
    await stream.say(await cluster.offer(old, journal))
    answer = await stream.until("cosignature")
    assert answer.origin == cluster.origin
    assert isinstance(answer, pb.Cosignature)
    return answer


def codes(house: EvidenceHouse, domain: str) -> list[str]:
    return [one.what.code for one in house.evidence.fleet.alarms(domain)]


async def test_the_hub_cosigns_what_continues_the_past(house: EvidenceHouse) -> None:
    cluster = await house.cluster("west")
    hub_key = Vkey("trustfed/hub.example", COSIGNATURE, house.evidence.own_log.vkey.public)
    async with cluster.stream() as stream:
        await cluster.grow("a", "b")
        first = await offered(cluster, stream, 0)
        (line,) = parse_signatures(first.line.decode())
        note = (await cluster.offer(0)).checkpoint.note
        assert first.size == 2 and hub_key.verifies(parse_note(note).text, line.value)
        await cluster.grow("c")
        behind = await offered(cluster, stream, 1)
        assert (behind.size, behind.line, behind.refused) == (2, b"", "")  # make the proof from 2
        assert (await offered(cluster, stream, 2)).size == 3
    await house.shut()
    await house.open()  # what is held survives
    async with cluster.stream() as stream:
        assert (await offered(cluster, stream, 0)).size == 3
    assert house.hub.state.evidence.pins["west"].vkey == cluster.key.text
    assert codes(house, "west") == []


@pytest.mark.parametrize("how", ["fork", "shrunk"])
async def test_a_fork_and_a_shrink_are_alarms_that_name_what_is_held(house: EvidenceHouse, how: str) -> None:
    cluster = await house.cluster("west")
    async with cluster.stream() as stream:
        await cluster.grow("a", "b", "c")
        held = await cluster.offer(0)
        await offered(cluster, stream, 0)
        other, cluster.journal = cluster.journal, MemoryJournal()
        await cluster.grow(*(("a", "x", "c", "d") if how == "fork" else ("a", "b")))
        refused = await offered(cluster, stream, 3 if how == "fork" else 2)
        assert refused.refused == how and refused.held == held.checkpoint.note and not refused.line
        (alarm,) = house.evidence.fleet.alarms("west")
        assert (alarm.what.code, alarm.what.severity, alarm.what.subject) == (
            "log_inconsistent",
            "page",
            cluster.origin,
        )
        cluster.journal = other
        assert (await offered(cluster, stream, 3)).line
        assert codes(house, "west") == []


async def test_a_restored_log_begins_anew_by_an_operators_word_only(house: EvidenceHouse) -> None:
    cluster, witness = await house.cluster("west"), house.evidence.witness
    async with cluster.stream() as stream:
        await cluster.grow("a", "b")
        await offered(cluster, stream, 0)
        cluster.journal = MemoryJournal()
        await cluster.grow("a")
        assert (await offered(cluster, stream, 0)).refused == "shrunk"
        await witness.accept_logs("west", "uid:0", "restored from a backup")
        assert (await offered(cluster, stream, 0)).line and codes(house, "west") == []


async def test_another_log_key_opens_nothing_until_it_is_accepted(house: EvidenceHouse) -> None:
    cluster, witness = await house.cluster("west"), house.evidence.witness
    await cluster.grow("a")
    async with cluster.stream() as stream:
        await stream.until("welcome")
    pinned = cluster.key.text
    await cluster.new_key("log-2")
    async with cluster.stream() as stream:
        assert (await offered(cluster, stream, 0)).refused == "signature"
        assert codes(house, "west") == ["log_key"] and witness.waiting_keys() == {"west": cluster.key.text}
        with pytest.raises(Conflict, match="shows the log key"):
            await witness.accept_key("west", pinned, "uid:0", "wrong")
        with pytest.raises(NotFound):
            await witness.accept_key("east", pinned, "uid:0", "wrong")
        await witness.accept_key("west", cluster.key.text, "uid:0", "it was restored")
        assert codes(house, "west") == [] and (await offered(cluster, stream, 0)).line
    assert house.hub.state.evidence.pins["west"].vkey == cluster.key.text


async def test_a_key_that_the_domain_did_not_endorse_ends_the_stream(house: EvidenceHouse) -> None:
    west, east = await house.cluster("west"), await house.cluster("east")
    west.log_key = east.log_key
    async with west.stream() as stream:
        await stream.refused()
    assert "west" not in house.hub.state.evidence.pins
    async with west.stream(log_key=b"") as stream:
        await west.grow("a")
        assert (await offered(west, stream, 0)).refused == "signature"


async def test_a_signature_of_another_key_is_an_alarm(house: EvidenceHouse) -> None:
    cluster = await house.cluster("west")
    async with cluster.stream() as stream:
        await stream.until("welcome")
        public = await cluster.domain.keys.create("stolen", ED25519)
        cluster.key, cluster.key_name = Vkey(cluster.origin, 1, public.public_bytes_raw()), "stolen"
        await cluster.grow("a")
        assert (await offered(cluster, stream, 0)).refused == "signature"
        assert codes(house, "west") == ["log_inconsistent"]


async def test_clusters_cosign_the_hubs_checkpoint_from_where_they_stand(house: EvidenceHouse) -> None:
    cluster, own = await house.cluster("west"), house.evidence.own_log
    await own.cut()
    assert own.note is not None
    async with cluster.stream() as stream:
        welcome = await stream.until("welcome")
        offer = await stream.until("checkpoint")
        key = parse_vkey(welcome.log_key)
        held = open_checkpoint(offer.note, [key], origin="trustfed/hub.example/journal").checkpoint
        await stream.say(pb.FromCluster(cosignature=pb.Cosignature(origin=held.origin, size=held.size)))
        again = await stream.until("checkpoint")
        newest = peek_checkpoint(again.note)
        verify_consistency(held.size, held.root, newest.size, newest.root, tuple(again.proof))
        cosigner = Vkey("trustfed/west", COSIGNATURE, cluster.key.public)
        (signature,) = await cluster.domain.keys.sign("log", [cosignature_to_sign(newest, 1_700_000_000)])
        line = cosignature_line(newest, cosigner, 1_700_000_000, signature).line.encode()
        forged = pb.Cosignature(origin=newest.origin, size=newest.size, line=line.replace(b"A", b"B"))
        await stream.say(pb.FromCluster(cosignature=forged))
        said = pb.Cosignature(origin=newest.origin, size=newest.size, line=line)
        await stream.say(pb.FromCluster(cosignature=said))
        await until(lambda: b"trustfed/west" in (own.note.data if own.note else b""))
        opened = open_checkpoint(own.note.data, [key], origin=newest.origin, cosigners=[cosigner])
        assert [one.name for one in opened.cosignatures] == ["trustfed/west"]


@pytest.mark.parametrize("refused", ["fork", "shrunk"])
async def test_a_cluster_that_refuses_the_hubs_log_is_an_alarm_of_the_hub(house: EvidenceHouse, refused: str) -> None:
    cluster = await house.cluster("west")
    await house.evidence.own_log.cut()
    async with cluster.stream() as stream:
        offer = await stream.until("checkpoint")
        await stream.say(pb.FromCluster(cosignature=pb.Cosignature(origin=offer.origin, size=1, refused=refused)))
        await until(lambda: codes(house, "") == ["log_inconsistent"])


async def test_checkpoints_cover_the_ledger_and_go_to_the_witness_daily(house: EvidenceHouse, tmp_path: Path) -> None:
    own, hub = house.evidence.own_log, house.hub
    await until(lambda: house.logs.ledger.position >= 3)  # the first root's steps
    own._witness_directory = tmp_path / "witness"
    note = await own.cut()
    (covered,) = hub.state.evidence.checkpoints[-1:]
    assert covered.origin == "trustfed/hub.example/ledger" and covered.size == house.logs.ledger.position
    assert note.checkpoint.size == hub.fold.position
    assert await own.cut() is note  # nothing was recorded since
    own.want()
    day, folder = hub.clock.now().date().isoformat(), tmp_path / "witness"
    names = [f"trustfed_hub.example_journal-{day}.note", "trustfed_hub.example_journal.vkey"]
    await until(lambda: folder.exists() and sorted(path.name for path in folder.iterdir()) == names)


async def test_the_hub_is_a_row_of_its_own_fleet(house: EvidenceHouse) -> None:
    evidence, ledger = house.evidence, house.logs.ledger
    await until(lambda: ledger.position >= 3)
    await until(lambda: evidence.fleet.standing("hub.example") is not None)  # opened behind the doors
    await evidence.own._opened().follow()
    await evidence.own.tell()
    row = evidence.fleet.domain("hub.example")
    assert row.connected and row.age.state == "live"
    (root,) = evidence.fleet.board("hub.example")
    assert (root.what.id, root.what.kind, root.what.state) == ("root-1", "root", "active")
    status = await evidence.questions.ask("hub.example", "facts", {"kind": AUTHORITY_STEP, "key": "root-1"})
    assert len(status.json["facts"]) == 3
    with pytest.raises(NotFound, match="no question of kind"):
        await evidence.questions.ask("hub.example", "no such kind", {})


async def test_steps_of_the_roots_are_facts_once(house: EvidenceHouse) -> None:
    ledger = house.logs.ledger
    await until(lambda: ledger.position >= 3)
    prepared, version = await house.hub.signer.next(house.hub.state, house.hub.clock.now())
    del version
    await house.hub.fold.execute(lambda _: [prepared], command_id="p", actor="uid:0", now=house.hub.clock.now())
    await until(lambda: ledger.position >= 6)
    await house.shut()
    await house.open()
    await until(lambda: True)
    steps = [fact.fact.body for fact in await ledger.read(0, 100) if fact.fact.kind == AUTHORITY_STEP]
    assert [(one["authority"], one["step"]) for one in steps] == [
        ("root-1", "prepared"),
        ("root-1", "published"),
        ("root-1", "activated"),
        ("root-2", "prepared"),
        ("root-2", "certified"),
        ("root-2", "published"),
    ]
    assert all(one["kind"] == "root" and one["journal"] for one in steps)
