"""The life of a domain's authorities as the cluster carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca import lifecycle
from ca.issuance import LeafRequest
from ca.lifecycle import SIGNING, Consumer, Kind, Level, Status
from ca.profiles import SYSTEM_SVID
from tests.fakes.journals import FaultyJournal
from tests.unit.cluster.cluster_parts import HOUR, MINUTE, TD, ClusterParts, csr_of, spki
from trustfed.cluster import authority_commands as commands
from trustfed.cluster import events as e
from trustfed.cluster.grants import held_envelope
from trustfed.cluster.state import newest_roots
from trustfed.errors import Conflict, Invalid, NotFound, Unavailable
from trustfed.federation.envelope import MAX_NUMBER
from trustfed.federation.names import cluster_id
from trustfed.journal.events import Event
from trustfed.proto import node_pb2 as pb
from trustfed.spiffe.ids import TrustDomain

HALF = timedelta(hours=36)


def behind(parts: ClusterParts, name: str = "node n1") -> Consumer:
    return Consumer(name, Level(1, 1), parts.now + 100 * HOUR)


def holds(parts: ClusterParts, name: str = "node n1") -> Consumer:
    return Consumer(name, parts.level(), parts.now + 100 * HOUR)


async def test_the_first_authorities_wait_for_nobody(parts: ClusterParts) -> None:
    x509, jwt = parts.one(Kind.X509, Status.ACTIVE), parts.one(Kind.JWT, Status.ACTIVE)
    assert parts.level() == (1, 1)
    assert set(parts.state.carries) == {x509.id, jwt.id}
    assert x509.intermediate


async def test_a_successor_is_gated_by_nodes_importers_and_its_intermediate(parts: ClusterParts) -> None:
    first = parts.one(Kind.X509, Status.ACTIVE)
    slow, importer = behind(parts), behind(parts, "cluster td-b")
    await parts.round(slow, importer, at=HALF)
    second = parts.one(Kind.X509, Status.PREPARED)
    assert second.first_level == parts.level() > Level(1, 1)
    await parts.round(holds(parts), importer)
    assert parts.one(Kind.X509, Status.PREPARED) == second  # the importer
    await parts.round(holds(parts), holds(parts, "cluster td-b"))
    assert parts.one(Kind.X509, Status.PREPARED) == second  # the root
    await parts.authorities.certify_one(second, parts)
    await parts.round(holds(parts), holds(parts, "cluster td-b"))
    assert parts.one(Kind.X509, Status.ACTIVE).id == second.id
    assert parts.state.authorities[first.id].status is Status.RETIRING
    activated = [r.event for r in await parts.journal.read(0, 1000) if r.event.kind == "authority.activated"][-1]
    assert activated.body["forced"] is False


async def test_a_jwt_authority_does_not_wait_for_the_root(parts: ClusterParts) -> None:
    first = parts.one(Kind.JWT, Status.ACTIVE)
    await parts.round(behind(parts), at=HALF)
    await parts.round(holds(parts))
    assert parts.one(Kind.JWT, Status.ACTIVE).id != first.id
    assert parts.one(Kind.X509, Status.PREPARED)


async def test_the_last_safe_moment_names_who_is_missing(parts: ClusterParts) -> None:
    await parts.round(behind(parts), at=HALF)
    await parts.authorities.certify_one(parts.one(Kind.X509, Status.PREPARED), parts)
    await parts.round(behind(parts), at=timedelta(hours=11, minutes=49))
    assert parts.one(Kind.X509, Status.PREPARED)
    await parts.round(behind(parts), at=2 * MINUTE)
    assert not [a for a in parts.all() if a.status is Status.PREPARED]
    events = [r.event for r in await parts.journal.read(0, 1000) if r.event.kind == "authority.activated"]
    assert [event.body["missing"] for event in events[-2:]] == [["node n1"], ["node n1"]]
    assert events[-1].body["forced"] is True


async def test_envelopes_are_cut_exactly_when_the_set_changes(parts: ClusterParts) -> None:
    await parts.round(holds(parts))
    await parts.round(holds(parts), at=HOUR)
    assert parts.level() == (1, 1)
    await parts.round(behind(parts), at=HALF)
    cut = parts.level()
    await parts.authorities.certify_one(parts.one(Kind.X509, Status.PREPARED), parts)
    await parts.round(holds(parts))  # activation changes no bundle
    assert parts.level() == cut
    domain = parts.state.domain
    assert domain is not None
    opened = held_envelope(parts.state.envelope, TD, domain.publication_key)
    assert (opened.level.epoch, opened.level.sequence) == cut
    assert len(opened.bundle.x509_authorities) == 2


async def test_an_authority_leaves_after_its_last_leaf_and_its_key_is_destroyed(parts: ClusterParts) -> None:
    await parts.node()
    await parts.entry(id="web", x509_ttl=7200)
    first = parts.one(Kind.X509, Status.ACTIVE)
    await parts.round(behind(parts), at=HALF)
    await _issue(parts, "web")  # of two hours, right before the successor takes over
    await parts.authorities.certify_one(parts.one(Kind.X509, Status.PREPARED), parts)
    await parts.round(holds(parts))
    assert parts.state.authorities[first.id].status is Status.RETIRING
    await parts.round(holds(parts), at=2 * HOUR)
    assert parts.state.authorities[first.id].status is Status.RETIRING
    await parts.round(holds(parts), at=2 * MINUTE)
    assert parts.state.authorities[first.id].status is Status.REMOVED
    with pytest.raises(NotFound):
        await parts.keys.public_key(first.key_name)
    assert first.id not in parts.state.carries


async def test_a_leaf_that_is_being_signed_while_its_authority_retires_counts(parts: ClusterParts) -> None:
    await parts.node()
    await parts.entry(id="short", x509_ttl=60)
    await parts.entry(id="long", spiffe_id=f"spiffe://{TD}/long", x509_ttl=86_400)
    await _issue(parts, "short")
    first = parts.one(Kind.X509, Status.ACTIVE)
    seen: list[object] = []
    real = parts.keys.sign

    async def slow(name: str, messages: object) -> object:
        seen.append(parts.issuance.last_leaf(first, parts.now))  # what an activation at this moment would record
        return await real(name, messages)  # type: ignore[arg-type]

    parts.keys.sign = slow  # type: ignore[method-assign,assignment]
    await _issue(parts, "long")
    assert seen == [parts.now + timedelta(hours=24)]


@pytest.mark.parametrize("kind", ["x509", "jwt"])
async def test_an_operator_replaces_an_authority(parts: ClusterParts, kind: str) -> None:
    first = parts.one(Kind(kind), Status.ACTIVE)
    await parts.decide(lambda s: commands.replace_authority(s, kind))
    await parts.round(behind(parts))
    successor = parts.one(Kind(kind), Status.PREPARED)
    with pytest.raises(Conflict, match="prepared already"):
        await parts.decide(lambda s: commands.replace_authority(s, kind))
    if kind == "x509":
        await parts.authorities.certify_one(successor, parts)
    await parts.round(holds(parts))
    assert parts.one(Kind(kind), Status.ACTIVE).id == successor.id
    assert not parts.state.authorities[first.id].replace


async def test_taint_goes_in_its_order(parts: ClusterParts) -> None:
    first = parts.one(Kind.X509, Status.ACTIVE)
    await parts.decide(lambda s: commands.taint(s, first.id, False, parts.now))
    with pytest.raises(Unavailable, match="may sign now"):
        parts.issuance._signer(Kind.X509)
    await parts.round(behind(parts))
    assert parts.one(Kind.X509, Status.ACTIVE).id != first.id  # nobody is waited for
    assert parts.state.authorities[first.id].status is Status.RETIRING
    assert parts.state.authorities[first.id].reissue_at is None
    await parts.round(holds(parts))
    assert parts.state.authorities[first.id].reissue_at is not None
    assert first.id in parts.state.carries
    await parts.round(holds(parts), at=6 * MINUTE)
    assert first.id not in parts.state.carries
    with pytest.raises(NotFound):
        await parts.keys.public_key(first.key_name)


async def test_revoke_takes_it_out_first(parts: ClusterParts) -> None:
    first, before = parts.one(Kind.X509, Status.ACTIVE), parts.level()
    await parts.decide(lambda s: commands.revoke(s, first.id, parts.now))
    await parts.authorities.advance((behind(parts),))
    assert parts.state.authorities[first.id].status is Status.REMOVED
    assert first.id not in parts.state.carries
    assert parts.level() > before
    await parts.round(behind(parts))
    assert parts.one(Kind.X509, Status.ACTIVE)


async def test_a_step_is_not_carried_out_when_an_operator_was_faster(parts: ClusterParts) -> None:
    await parts.round(behind(parts), at=HALF)
    second = parts.one(Kind.JWT, Status.PREPARED)
    # Tainted between the look and the record: it must not become active.
    steps = parts.authorities._due(parts.state, (holds(parts),), parts.now)
    await parts.decide(lambda s: commands.taint(s, second.id, False, parts.now))
    for step in steps:
        await parts.authorities._carry_out(step, (holds(parts),), parts.now)
    assert parts.state.authorities[second.id].status is Status.PREPARED


class CrashingJournal(FaultyJournal):
    """Fails at the append with this number, having recorded it or not; the process is taken to be dead then."""

    crash_at = 0
    recorded = False

    async def append(self, expected: int, events: Sequence[Event]) -> int:
        if self.appends + 1 == self.crash_at:
            self.fail(Unavailable("crash"), after_recording=self.recorded)
        return await super().append(expected, events)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("nth", range(1, 9))
async def test_crash_between_any_two_steps_then_restart_continues(nth: int, recorded: bool) -> None:
    journal = CrashingJournal()
    parts = await ClusterParts.make(journal=journal)
    first = {a.id for a in parts.all()}
    parts.clock.move(HALF.total_seconds())
    journal.crash_at, journal.recorded = journal.appends + nth, recorded
    with pytest.raises(Unavailable, match="crash"):
        await _roll_over(parts)
    parts = await parts.restart()
    await _roll_over(parts)
    assert {parts.one(kind, Status.ACTIVE).id for kind in SIGNING}.isdisjoint(first)
    await parts.round(holds(parts), at=30 * HOUR)
    assert all(parts.state.authorities[id_].status is Status.REMOVED for id_ in first)
    await parts.close()


async def _roll_over(parts: ClusterParts) -> None:
    for _ in range(6):
        await parts.round(holds(parts))
        for authority in [a for a in parts.all() if commands.uncertified(a)]:
            await parts.authorities.certify_one(authority, parts)
    await parts.round(holds(parts), at=25 * HOUR)


async def test_a_key_left_over_by_a_crash_is_destroyed_by_the_next_process(parts: ClusterParts) -> None:
    first = parts.one(Kind.X509, Status.ACTIVE)
    await parts.record(e.AuthorityRemoved(first.id, "crash right after this"))
    assert await parts.keys.public_key(first.key_name)
    again = await parts.restart()
    await again.round()
    with pytest.raises(NotFound):
        await again.keys.public_key(first.key_name)
    await again.close()


async def test_intermediates_that_would_end_issuance_are_refused(parts: ClusterParts) -> None:
    await parts.round(behind(parts), at=timedelta(0))
    await parts.decide(lambda s: commands.replace_authority(s, "x509"))
    await parts.round(behind(parts))
    prepared = parts.one(Kind.X509, Status.PREPARED)
    csr = await csr_of(parts, prepared)
    other = parts.one(Kind.X509, Status.ACTIVE)
    own = newest_roots(parts.state)
    stranger = await ClusterParts.make(enrolled=False)
    good = await parts.hub.intermediate(TD, prepared.id, csr)
    cases = {
        "garbage": b"\x30\x03\x02\x01\x01",
        "another's": other.intermediate,
        "short": await parts.hub.intermediate(TD, prepared.id, csr, ttl=HOUR),
        "foreign root": await stranger.hub.intermediate(TD, prepared.id, csr),
        "not a CA": (await parts.node())[0].chain[0],
    }
    for name, bad in cases.items():
        with pytest.raises(Invalid):
            await parts.authorities.adopt_intermediate(prepared.id, bad, own)
        assert not parts.state.authorities[prepared.id].intermediate, name
    await parts.authorities.adopt_intermediate(prepared.id, good, own)
    assert parts.state.authorities[prepared.id].intermediate == good
    await stranger.close()


async def test_a_short_intermediate_moves_no_moment_of_its_authority(parts: ClusterParts) -> None:
    await parts.round(holds(parts), at=timedelta(0))
    await parts.decide(lambda s: commands.replace_authority(s, "x509"))
    await parts.round(behind(parts))
    prepared = parts.one(Kind.X509, Status.PREPARED)
    policy = parts.authorities.lifecycle_policy()
    before, until = lifecycle.last_safe_moment(prepared, policy), timedelta(hours=24, minutes=11)
    short = await parts.hub.intermediate(TD, prepared.id, await csr_of(parts, prepared), ttl=until)
    await parts.authorities.adopt_intermediate(prepared.id, short, newest_roots(parts.state))
    held = parts.state.authorities[prepared.id]
    assert (held.not_after, lifecycle.last_safe_moment(held, policy)) == (prepared.not_after, before)
    assert held.intermediate_not_after is not None
    assert held.intermediate_not_after < held.not_after
    enough = parts.policy.longest_leaf + parts.policy.safety_margin
    assert not commands.wants_root(held, parts.now, enough)
    await parts.round(holds(parts))
    parts.clock.move(23.5 * 3600)
    assert commands.wants_root(parts.state.authorities[prepared.id], parts.now, enough)
    # Longer than the root's chain holds: without it, rather than shorter.
    request = LeafRequest(
        cluster_id(TrustDomain(TD)), spki(ec.generate_private_key(ec.SECP256R1())), 3600, profile=SYSTEM_SVID
    )
    issued, _ = await parts.issuance.own(request)
    assert len(issued.chain) == 1
    assert issued.not_after == parts.now + HOUR
    longer = await parts.hub.intermediate(TD, prepared.id, await csr_of(parts, prepared), ttl=timedelta(days=9))
    await parts.authorities.adopt_intermediate(prepared.id, longer, newest_roots(parts.state))
    issued, _ = await parts.issuance.own(request)
    assert len(issued.chain) == 2
    await parts.authorities.adopt_intermediate(prepared.id, longer, newest_roots(parts.state))
    assert parts.state.authorities[prepared.id].intermediate == longer


async def test_an_activation_names_a_hundred_and_counts_the_rest(parts: ClusterParts) -> None:
    await parts.decide(lambda s: commands.replace_authority(s, "jwt"))
    await parts.round(behind(parts))
    prepared, names = parts.one(Kind.JWT, Status.PREPARED), tuple(f"cluster c{n}" for n in range(300))
    (event,) = commands.activate(parts.state, prepared.id, lambda a: parts.now, "now", parts.now, names)
    assert isinstance(event, e.AuthorityActivated)
    assert (len(event.missing), event.missing_count) == (100, 300)


async def test_a_new_epoch_is_above_all_that_was_reported(parts: ClusterParts) -> None:
    await parts.decide(lambda s: commands.begin_epoch(s, Level(3, 9), 0, parts.now))
    with pytest.raises(Conflict, match="being begun"):
        await parts.decide(lambda s: commands.begin_epoch(s, Level(3, 9), 0, parts.now))
    await parts.round()
    assert parts.level() == (4, 10)
    again = await parts.restart()
    await again.round()
    assert again.level() == (4, 10)
    await again.round(behind(again), at=HALF)
    assert again.level() == (4, 11)
    await again.close()


async def test_a_new_epoch_that_no_envelope_can_bear(parts: ClusterParts) -> None:
    lie = Level(MAX_NUMBER, MAX_NUMBER)
    for reported in (lie, Level(1 + commands.MAX_EPOCHS + 1, 1), Level(1, 1 + commands.MAX_SEQUENCES + 1)):
        with pytest.raises(Conflict, match="too far above"):
            await parts.decide(lambda s, reported=reported: commands.begin_epoch(s, reported, 0, parts.now))
    with pytest.raises(Invalid, match="cannot follow"):
        await parts.decide(lambda s: commands.begin_epoch(s, lie, 1, parts.now))
    await parts.decide(lambda s: commands.begin_epoch(s, lie, 2, parts.now))
    await parts.round()
    assert parts.level() == (2, 2)


@pytest.mark.parametrize("call", ["taint", "revoke", "activate", "kind"])
async def test_commands_on_authorities_that_are_not_there(parts: ClusterParts, call: str) -> None:
    with pytest.raises((NotFound, Invalid)):
        match call:
            case "taint":
                commands.taint(parts.state, "nope", False, parts.now)
            case "revoke":
                commands.revoke(parts.state, "nope", parts.now)
            case "activate":
                commands.activate(parts.state, "nope", lambda a: parts.now, "", parts.now, ())
            case "kind":
                commands.replace_authority(parts.state, "x.509")


async def _issue(parts: ClusterParts, entry: str) -> pb.IssueX509Response:
    slot = pb.X509Slot(entry_id=entry, slot="x509", public_key=spki(ec.generate_private_key(ec.SECP256R1())))
    answer = await parts.issuance.x509(parts.state.nodes["n1"], pb.IssueX509Request(slots=[slot]))
    assert not answer.results[0].error, answer
    return answer
