"""The pure rules: who may enrol, what a grant may be, and what every refusal says."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from tests.fakes.journals import FaultyJournal
from tests.unit.hub.hub_parts import ADMIN, DAY, HUB, HubParts, request_of, settle
from tests.unit.hub.newcomer import Newcomer
from trustfed.errors import Conflict, Denied, Invalid, NotFound, TrustfedError, Unavailable
from trustfed.federation import envelope
from trustfed.hub import domains, grants
from trustfed.hub.approvals import DomainRemoval, root_activation, root_preparation
from trustfed.hub.events import EnvelopeAccepted, IntermediateRevoked, codec
from trustfed.hub.signing import crls_due
from trustfed.hub.state import HubState
from trustfed.hub.turns import MESSAGES, Turns
from trustfed.journal.events import MAX_EVENT_BYTES, Event, canonical
from trustfed.journal.table import decode_state, encode_state
from trustfed.spiffe.ids import TrustDomain

WEST, EAST = TrustDomain("west"), TrustDomain("east")


def _invite(now: datetime, **changes: object) -> domains.Invite:
    values: dict[str, object] = {
        "name": WEST,
        "owner": "team",
        "dns_suffixes": (),
        "token_hash": "sha256:1",
        "expires": now + timedelta(hours=1),
    }
    return domains.Invite(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"name": HUB}, Conflict, "own trust domain"),
        ({"owner": ""}, Invalid, "owner"),
        ({"owner": "a\nb"}, Invalid, "printable"),
        ({"dns_suffixes": ("UPPER.example",)}, Invalid, "UPPER.example"),
        ({"dns_suffixes": ("a..b",)}, Invalid, "a..b"),
        ({"dns_suffixes": tuple(f"s{n}.example" for n in range(17))}, Invalid, "too many"),
        ({"dns_suffixes": ("taken.example",)}, Conflict, "overlaps taken.example"),
        ({"dns_suffixes": ("sub.taken.example",)}, Conflict, "overlaps taken.example"),
        ({"dns_suffixes": ("example",)}, Conflict, "overlaps taken.example"),
    ],
)
async def test_an_invitation_that_breaks_a_rule(
    hub: HubParts, changes: dict[str, object], kind: type[TrustfedError], words: str
) -> None:
    await hub.operations.invite(ADMIN, TrustDomain("taken"), "other", ["taken.example"], DAY)
    with pytest.raises(kind, match=words):
        domains.invite(hub.state, _invite(hub.clock.now(), **changes), hub.clock.now())


@pytest.mark.parametrize("life", [timedelta(0), timedelta(seconds=-1), timedelta(days=31)])
async def test_a_token_that_lives_too_short_or_too_long(hub: HubParts, life: timedelta) -> None:
    now = hub.clock.now()
    with pytest.raises(Invalid, match="30 days"):
        domains.invite(hub.state, _invite(now, expires=now + life), now)


async def test_a_new_invitation_closes_the_one_before(hub: HubParts) -> None:
    domain = await Newcomer.make("west")
    first = await hub.operations.invite(ADMIN, WEST, "team", [], DAY)
    second = await hub.operations.invite(ADMIN, WEST, "team", [], DAY)
    with pytest.raises(Denied, match="not known"):
        await hub.operations.enrol(await request_of(domain, first))
    await hub.operations.enrol(await request_of(domain, second))
    with pytest.raises(Conflict, match="enrolled already"):
        await hub.operations.invite(ADMIN, WEST, "team", [], DAY)


async def test_the_same_answer_ends_with_the_token(hub: HubParts) -> None:
    domain = await Newcomer.make("west")
    token = await hub.operations.invite(ADMIN, WEST, "team", [], timedelta(hours=1))
    request = await request_of(domain, token)
    first = await hub.operations.enrol(request)
    position = hub.state.position
    assert await hub.operations.enrol(request) == first
    assert hub.state.position == position
    hub.clock.move(3600)
    with pytest.raises(Denied, match="expired"):
        await hub.operations.enrol(request)


async def test_a_token_is_on_record_as_a_hash_only(hub: HubParts) -> None:
    token = await hub.operations.invite(ADMIN, WEST, "team", [], DAY)
    journal = b"".join(record.canonical for record in await hub.journal.read(0, 1000))
    assert token.secret_hash().encode() in journal
    assert token.secret not in journal and token.encode().encode() not in journal
    assert token.encode().split("-", 3)[3].encode() not in journal


async def test_the_serial_is_on_record_before_the_decision(hub: HubParts) -> None:
    await hub.enrolled("west")
    signed = next(iter(hub.state.intermediates.values()))
    assert signed.serial in [draft.key for draft in hub.recorded.drafts]


async def test_who_enrols_anew_goes_on_above_the_old_level(hub: HubParts) -> None:
    old = await hub.enrolled("west")
    await hub.operations.accept_envelope("west", await old.envelope())
    await hub.alone(DomainRemoval("west", "rebuilt"))
    fresh = await Newcomer.make("west")
    token = await hub.operations.invite(ADMIN, WEST, "team", [], DAY)
    with pytest.raises(Denied, match="goes back"):
        await hub.operations.enrol(await request_of(fresh, token))
    fresh.sequence = old.sequence
    await hub.operations.enrol(await request_of(fresh, token))


async def test_intermediates_of_one_domain_are_bounded_and_expired_ones_forgotten(hub: HubParts) -> None:
    west = await hub.enrolled("west")
    for number in range(domains.MAX_INTERMEDIATES - 1):
        other = await Newcomer.make("west")
        await hub.operations.sign_intermediate("west", other.authority, other.csr)
        assert len(hub.state.signed_for("west")) == number + 2
    other = await Newcomer.make("west")
    with pytest.raises(Conflict, match="gets no more"):
        await hub.operations.sign_intermediate("west", other.authority, other.csr)
    await hub.operations.sign_intermediate("west", west.authority, west.csr)  # what is on record is given again
    hub.clock.move(86_400 + 60)
    await hub.operations.sign_intermediate("west", other.authority, other.csr)
    assert len(hub.state.signed_for("west")) == len(hub.state.intermediates) == 1


async def test_an_envelope_that_the_journal_could_not_hold_is_refused(hub: HubParts) -> None:
    await hub.enrolled("west")
    with pytest.raises(Invalid, match=f"more than the {envelope.MAX_BYTES}"):
        await hub.operations.accept_envelope("west", b"x" * (envelope.MAX_BYTES + 1))


def test_the_largest_envelope_fits_into_one_event() -> None:
    kind, version, body = codec().encode(EnvelopeAccepted("w" * 255, 1, 1, bytes(envelope.MAX_BYTES)))
    event = Event("i" * 128, "c" * 128, 1, "a" * 256, "o" * 256, "r" * 2048, kind, version, body)
    assert len(canonical(event)) <= MAX_EVENT_BYTES


async def test_a_cluster_that_publishes_too_fast_waits(hub: HubParts) -> None:
    turns = Turns(hub.clock)
    for _ in range(MESSAGES[0]):
        await asyncio.wait_for(turns.envelopes.turn("west", hub.clock), 20)
    await asyncio.wait_for(turns.envelopes.turn("east", hub.clock), 20)  # nobody pays for another
    waiting = asyncio.create_task(turns.envelopes.turn("west", hub.clock))
    await hub.clock.advance(0.5)
    assert not waiting.done()
    await hub.clock.advance(0.5)
    assert waiting.done()


async def test_an_intermediate_is_revoked_by_its_serial_as_openssl_writes_it(hub: HubParts) -> None:
    await hub.enrolled("west")
    (serial,) = hub.state.intermediates
    written = ":".join(serial[at : at + 2] for at in range(0, len(serial), 2)).upper()
    (revoked,) = domains.revoke(hub.state, written, "keyCompromise", hub.clock.now())
    assert isinstance(revoked, IntermediateRevoked) and revoked.serial == serial
    with pytest.raises(NotFound, match="no intermediate has the serial"):
        domains.revoke(hub.state, "ab" + written, "keyCompromise", hub.clock.now())


async def test_removal_ends_grants_and_revokes_intermediates(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    grant = await hub.granted(east, west)
    await hub.alone(DomainRemoval("west", "gone"))
    assert hub.state.grants[grant].status == "ended"
    mine = [signed for signed in hub.state.intermediates.values() if signed.domain == "west"]
    assert mine and all(signed.revoked_ms for signed in mine)
    assert not any(s.revoked_ms for s in hub.state.intermediates.values() if s.domain == "east")
    assert crls_due(hub.state, hub.clock.now()) == ["root-1"]
    await hub.alone(DomainRemoval("west", "twice is fine"))
    with pytest.raises(Denied, match="removed"):
        await hub.operations.accept_envelope("west", await west.envelope())
    with pytest.raises(Denied, match="removed"):
        domains.enrolled(hub.state, "west")


def _offer(now: datetime, **changes: object) -> grants.Offer:
    values: dict[str, object] = {
        "id": "g1",
        "importer": EAST,
        "exporter": WEST,
        "until": now + DAY,
        "reason": "because",
    }
    return grants.Offer(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"importer": WEST}, Invalid, "for itself"),
        ({"exporter": TrustDomain("nobody")}, NotFound, "not registered"),
        ({"importer": TrustDomain("waiting")}, Conflict, "has not enrolled"),
        ({"until": datetime.fromisoformat("2020-01-01T00:00:00+00:00")}, Invalid, "before it began"),
        ({"reason": ""}, Invalid, "reason is needed"),
        ({"reason": "two\nlines"}, Invalid, "one line"),
        ({"importer": WEST, "exporter": EAST}, Conflict, "has the open grant"),
    ],
)
async def test_an_offer_that_breaks_a_rule(
    hub: HubParts, changes: dict[str, object], kind: type[TrustfedError], words: str
) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    await hub.operations.invite(ADMIN, TrustDomain("waiting"), "team", [], DAY)
    await hub.granted(west, east)
    with pytest.raises(kind, match=words):
        grants.offer(hub.state, _offer(hub.clock.now(), **changes), hub.clock.now())


async def test_a_grant_ends_by_itself_and_cannot_be_accepted_then(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    grant = await hub.operations.offer(
        ADMIN, importer=EAST, exporter=WEST, until=hub.clock.now() + timedelta(hours=1), reason="short"
    )
    assert grants.next_end(hub.state) == grant.until_ms
    hub.clock.move(3601)
    with pytest.raises(Conflict, match="time is over"):
        grants.accept(hub.state, grant.id, "east", by="x", fingerprint=west.key.fingerprint, now=hub.clock.now())
    await hub.chores.do()
    assert hub.state.grants[grant.id].ended_reason == "the grant reached its end"
    assert grants.next_end(hub.state) is None
    del east


async def test_of_two_opposed_decisions_at_once_one_state_results(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    grant = await hub.operations.offer(ADMIN, importer=EAST, exporter=WEST, until=hub.clock.now() + DAY, reason="race")
    decide = hub.operations.decide
    results = await asyncio.gather(
        decide("east", grant.id, "end", actor="a", reason="no", fingerprint=""),
        decide("east", grant.id, "accept", actor="b", reason="yes", fingerprint=west.key.fingerprint),
        return_exceptions=True,
    )
    assert hub.state.grants[grant.id].status == "ended"
    assert isinstance(results[1], Conflict)
    del east


async def test_a_disk_that_fails_records_nothing_and_says_so() -> None:
    journal = FaultyJournal()
    hub = await HubParts.make(journal)
    journal.fail(Unavailable("the disk is full"))
    with pytest.raises(Unavailable, match="disk is full"):
        await hub.operations.invite(ADMIN, WEST, "team", [], DAY)
    assert "west" not in hub.state.domains
    await hub.operations.invite(ADMIN, WEST, "team", [], DAY)
    await hub.close()


async def test_snapshot_and_replay_give_the_same_state(hub: HubParts) -> None:
    west, east = await hub.enrolled("west"), await hub.enrolled("east")
    await hub.granted(east, west)
    await hub.operations.issue_token(ADMIN, "ci", "viewer", DAY)
    await hub.alone(DomainRemoval("east", "gone"))
    await hub.alone(root_preparation(hub.state))
    await hub.chores.do()
    assert decode_state(encode_state(hub.state), HubState) == hub.state
    replayed = await _replayed(hub)
    assert replayed == hub.state and replayed.position == hub.fold.position


async def _replayed(hub: HubParts) -> HubState:
    from trustfed.hub.events import codec
    from trustfed.hub.state import apply

    state = HubState()
    for record in await hub.journal.read(0, 1000):
        state = apply(state, codec().decode(record.event))
    return state


async def test_the_hubs_own_svid_renews_at_half_life_and_moves_to_a_new_root(hub: HubParts) -> None:
    await hub.chores.do()
    first = hub.presented[-1]
    await hub.chores.do()
    assert hub.presented == [first]
    hub.clock.move(1801)
    await hub.chores.do()
    assert hub.presented[-1] is not first and hub.presented[-1].authority == first.authority
    await hub.alone(root_preparation(hub.state))
    await hub.chores.do()
    assert hub.presented[-1].authority == first.authority  # prepared is not active
    await hub.alone(root_activation(hub.state))
    await hub.chores.do()
    newest = hub.presented[-1]
    assert newest.authority != first.authority
    assert len(newest.keypair.chain) == 3  # leaf, intermediate, and the cross-certificate for who knows the old root
    hub.clock.move(2 * 86400)
    await hub.chores.do()
    assert hub.presented[-1].authority != newest.authority
    await settle()
