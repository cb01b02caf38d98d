"""A bundle is as fresh as its domain says, whoever brings it: the hub can withhold, it can confirm nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.waiting import until
from tests.unit.cluster.cluster_parts import HOUR, MINUTE, TD, ClusterParts
from tests.unit.hub.newcomer import Newcomer
from trustfed.cluster import events as e
from trustfed.cluster import freshness as module
from trustfed.cluster import grants
from trustfed.cluster.apart import Apart
from trustfed.cluster.confirming import Confirming
from trustfed.cluster.freshness import Freshness, Standing, standing
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.sessions import Sessions, View
from trustfed.errors import Conflict, Denied, Invalid, Unavailable
from trustfed.federation import confirmation
from trustfed.federation.envelope import Level, PublicationKey
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms

DAY, HINT, LIMIT = timedelta(days=1), timedelta(seconds=60), timedelta(days=30)


class World:
    """A cluster that imports td-b, and td-b's own keys."""

    def __init__(self, parts: ClusterParts, peer: Newcomer, file: Path | None = None) -> None:
        self.parts, self.peer = parts, peer
        self.freshness = Freshness(parts.fold, LIMIT, parts.clock, Registry(), file)
        self.news = HubNews(parts.fold, lambda: None, lambda who, level: None, parts.clock, Registry(), self.freshness)

    async def granted(self, until: timedelta = 300 * DAY) -> None:
        parts, now = self.parts, self.parts.now
        await parts.record(
            e.GrantOffered("g", TD, "td-b", now, now + until, "", self.peer.key.spki, 1),
            e.GrantAccepted("g", self.peer.key.spki, now),
        )

    async def brings(self, data: bytes | None = None, *, endpoints: tuple[str, ...] = ()) -> None:
        """The hub brings an envelope."""
        envelope = await self.peer.envelope() if data is None else data
        said = pb.PeerEnvelope(trust_domain="td-b", envelope=envelope, bundle_endpoints=endpoints)
        await self.news.take(pb.FromHub(envelope=said))

    async def says(self, data: bytes, domain: str = "td-b") -> None:
        """The hub brings a confirmation."""
        peers = [pb.PeerConfirmation(trust_domain=domain, confirmation=data)]
        await self.news.take(pb.FromHub(confirmations=pb.Confirmations(peers=peers)))

    async def confirmed(
        self, at: datetime | None = None, sequence: int | None = None, by: Newcomer | None = None
    ) -> bytes:
        return await confirmed(by or self.peer, at or self.parts.now, sequence or self.peer.sequence)

    def standing(self) -> Standing:
        (peer,) = self.freshness.peers()
        return peer.standing

    def passes(self, period: timedelta) -> None:
        self.parts.clock.move(period.total_seconds())


async def confirmed(domain: Newcomer, at: datetime, sequence: int) -> bytes:
    level = Level(domain.trust_domain, domain.epoch, sequence)
    (signature,) = await domain.keys.sign("publication", [confirmation.payload_to_sign(level, at)])
    return confirmation.assemble(level, at, signature, domain.key).data


@pytest_asyncio.fixture
async def world(parts: ClusterParts) -> AsyncIterator[World]:
    made = World(parts, await Newcomer.make("td-b"))
    await made.granted()
    await made.brings()
    yield made


async def test_fresh_then_stale_then_closed_and_open_again(world: World) -> None:
    await world.says(await world.confirmed())
    assert world.standing() is Standing.FRESH
    world.passes(HINT)
    assert world.standing() is Standing.STALE
    world.passes(LIMIT - HINT - timedelta(seconds=1))
    assert world.standing() is Standing.STALE
    world.passes(timedelta(seconds=1))
    assert world.standing() is Standing.CLOSED
    await world.says(await world.confirmed())
    assert world.standing() is Standing.FRESH
    assert not world.news.refused


async def test_a_bundle_that_was_never_confirmed_counts_from_when_it_came_and_is_never_fresh(world: World) -> None:
    assert world.freshness.confirmed_at("td-b") is None
    assert world.freshness.counted_from("td-b") == world.parts.now
    assert world.standing() is Standing.STALE
    world.passes(LIMIT)
    assert world.standing() is Standing.CLOSED


async def test_old_envelopes_let_out_one_by_one_make_nothing_younger(world: World) -> None:
    first = world.parts.now
    held_back = [await world.peer.envelope() for _ in range(5)]  # all were made on the first day
    for envelope in held_back:
        world.passes(LIMIT - DAY)
        await world.brings(envelope)
        assert world.freshness.counted_from("td-b") == first
        assert world.standing() is (Standing.STALE if world.parts.now < first + LIMIT else Standing.CLOSED)
    assert world.parts.state.peers["td-b"].sequence == world.peer.sequence
    await world.says(await world.confirmed())
    assert world.standing() is Standing.FRESH


async def test_what_is_granted_anew_counts_from_there_and_a_longer_grant_renews_nothing(world: World) -> None:
    parts, key, first = world.parts, world.peer.key.spki, world.parts.now
    world.passes(10 * DAY)
    until = parts.now + 300 * DAY
    await parts.record(
        e.GrantOffered("longer", TD, "td-b", parts.now, until, "", key, 1), e.GrantAccepted("longer", key, parts.now)
    )
    assert world.freshness.counted_from("td-b") == first
    await parts.record(e.GrantEnded("g", "uid:1", "", parts.now), e.GrantEnded("longer", "uid:1", "", parts.now))
    world.passes(LIMIT)
    await parts.record(
        e.GrantOffered("anew", TD, "td-b", parts.now, until, "", key, 1), e.GrantAccepted("anew", key, parts.now)
    )
    assert world.freshness.counted_from("td-b") == parts.now
    assert world.standing() is Standing.STALE


async def test_a_hub_that_withholds_can_confirm_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    first = await world.confirmed()
    await world.says(first)
    began = world.parts.now
    stranger = await Newcomer.make("td-b")
    stranger.sequence = world.peer.sequence
    for _ in range(31):
        world.passes(DAY)
        await world.says(first)  # the old one, again
        await world.says(await world.confirmed(sequence=world.peer.sequence + 1))  # of a bundle that it holds back
        await world.says(await world.confirmed(by=stranger))  # by a key of the hub's own
        other = await Newcomer.make("td-c")
        await world.says(await confirmed(other, world.parts.now, 1))  # another domain's
        await world.says(await world.confirmed(at=world.parts.now + HOUR))  # of tomorrow
        world.freshness.look()
        assert world.freshness.confirmed_at("td-b") == began
    assert world.standing() is Standing.CLOSED
    assert world.freshness.withheld("td-b")
    assert "has not come yet" in world.news.refused["confirmation of td-b"]
    assert [r.levelname for r in caplog.records if "bundle of a peer" in r.message] == ["WARNING", "ERROR"]


async def test_envelopes_that_trickle_make_nothing_fresher(world: World) -> None:
    await world.says(await world.confirmed())
    at = world.parts.now
    kept = [await world.peer.envelope() for _ in range(3)]
    for envelope in kept:
        world.passes(12 * DAY)
        await world.brings(envelope)
        assert world.freshness.confirmed_at("td-b") == at
    assert world.standing() is Standing.CLOSED


async def test_a_confirmation_of_what_came_before_counts_for_what_follows(world: World) -> None:
    at = await world.confirmed()
    world.passes(MINUTE)
    await world.brings()
    assert world.freshness.take("td-b", at)
    assert world.freshness.confirmed_at("td-b") == world.parts.now - MINUTE


async def test_a_confirmation_may_come_before_its_envelope(world: World) -> None:
    later = await world.peer.envelope()
    assert not world.freshness.take("td-b", await world.confirmed())
    assert world.freshness.withheld("td-b")
    assert world.freshness.confirmed_at("td-b") is None
    await world.brings(later)
    assert world.freshness.confirmed_at("td-b") == world.parts.now
    assert not world.freshness.withheld("td-b")


async def test_who_is_not_granted_confirms_nothing(world: World) -> None:
    with pytest.raises(Denied, match="no accepted grant"):
        world.freshness.take("td-x", await world.confirmed())
    with pytest.raises((Invalid, Denied)):
        world.freshness.take("td-b", b"{}")


async def test_what_another_key_signed_is_forgotten_when_an_operator_pins_anew(world: World) -> None:
    await world.says(await world.confirmed())
    world.peer = await Newcomer.make("td-b")
    await world.parts.record(e.GrantRepinned("g", world.peer.key.spki))
    world.passes(MINUTE)
    assert world.freshness.confirmed_at("td-b") is None
    await world.brings()
    assert world.freshness.confirmed_at("td-b") is None
    await world.says(await world.confirmed())
    assert world.freshness.confirmed_at("td-b") == world.parts.now


async def test_agents_are_told_with_the_bundle_and_then_in_heartbeats(world: World) -> None:
    parts = world.parts
    await parts.node()
    await world.says(await world.confirmed())
    sessions = Sessions(parts.state, parts.fold.position, 300, world.freshness)
    view = View("n1", ("default",), parts.fold.position)
    sessions.join(view, parts.state, snapshot=True)
    (bundle,) = [m.bundle for m in sessions.take(view, parts.state, parts.now) if m.bundle.trust_domain == "td-b"]
    assert (bundle.confirmed_at_ms, bundle.stale_limit_seconds) == (to_ms(parts.now), LIMIT.total_seconds())
    (beat,) = sessions.beats(view, parts.state, parts.now)
    assert not beat.heartbeat.confirmed  # the bundle said so itself
    world.passes(MINUTE)
    await world.says(await world.confirmed())
    (beat,) = sessions.beats(view, parts.state, parts.now)
    ((said),) = beat.heartbeat.confirmed
    assert (said.trust_domain, said.at_ms) == ("td-b", to_ms(parts.now))
    assert not sessions.beats(view, parts.state, parts.now)[0].heartbeat.confirmed
    resumed = View("n1", ("default",), parts.fold.position)
    sessions.join(resumed, parts.state, snapshot=False)
    assert sessions.beats(resumed, parts.state, parts.now)[0].heartbeat.confirmed


async def test_a_grant_may_have_a_limit_of_its_own(world: World) -> None:
    parts, sessions = world.parts, Sessions(world.parts.state, world.parts.fold.position, 300, world.freshness)
    await parts.node()
    view = View("n1", ("default",), parts.fold.position)
    sessions.join(view, parts.state, snapshot=False)
    await parts.decide(lambda s: grants.limit(s, "g", 7 * DAY))
    sessions.on_event(parts.fold.position, e.GrantLimited("g", 7 * 86_400), parts.state)
    (message,) = list(sessions.take(view, parts.state, parts.now))
    assert message.bundle.stale_limit_seconds == 7 * 86_400
    await world.says(await world.confirmed())
    world.passes(7 * DAY)
    assert world.standing() is Standing.CLOSED
    await parts.decide(lambda s: grants.limit(s, "g", timedelta(0)))
    assert world.standing() is Standing.STALE
    await parts.record(
        e.GrantLimited("g", 60),
        e.GrantOffered("h", TD, "td-b", parts.now, parts.now + DAY, "", world.peer.key.spki, 1),
        e.GrantAccepted("h", world.peer.key.spki, parts.now),
    )
    assert parts.state.grants["h"].stale_limit == 60  # one domain, one limit
    for bad in (timedelta(days=400), timedelta(milliseconds=5)):
        with pytest.raises(Invalid, match="out of range"):
            grants.limit(parts.state, "g", bad)
    await parts.record(e.GrantEnded("g", "uid:1", "", parts.now))
    with pytest.raises(Conflict, match="has ended"):
        grants.limit(parts.state, "g", DAY)


async def test_the_next_process_knows_what_was_confirmed_and_believes_no_more(world: World, tmp_path: Path) -> None:
    file = tmp_path / "confirmations.json"
    kept = World(world.parts, world.peer, file)
    await kept.says(await world.confirmed())
    at = world.parts.now
    await kept.freshness.save()
    world.passes(DAY)
    again = World(world.parts, world.peer, file)
    await again.freshness.load()
    assert again.freshness.confirmed_at("td-b") == at
    stranger = await Newcomer.make("td-b")
    forged = await confirmed(stranger, world.parts.now, world.peer.sequence)
    import base64

    for content in (json.dumps({"td-b": base64.b64encode(forged).decode()}), "[1]", "{", '{"td-b": 5}', ""):
        file.write_text(content)
        file.chmod(0o600)
        fresh = World(world.parts, world.peer, file)
        await fresh.freshness.load()
        assert fresh.freshness.confirmed_at("td-b") is None


async def test_the_file_is_kept_while_it_runs(world: World, tmp_path: Path) -> None:
    import asyncio

    kept = World(world.parts, world.peer, tmp_path / "f.json")
    running = asyncio.create_task(kept.freshness.run())
    await kept.says(await world.confirmed())
    await world.parts.clock.advance(75)
    await until((tmp_path / "f.json").exists)
    assert "td-b" in (tmp_path / "f.json").read_text()
    running.cancel()


def test_standing_by_hint_and_limit() -> None:
    at = datetime.fromisoformat("2026-03-01T00:00:00Z")
    assert standing(None, HINT, LIMIT, at) is Standing.STALE
    assert standing(at, timedelta(0), LIMIT, at + timedelta(seconds=59)) is Standing.FRESH
    assert standing(at, timedelta(minutes=5), LIMIT, at + timedelta(minutes=4)) is Standing.FRESH
    assert standing(at, timedelta(minutes=5), timedelta(minutes=1), at + timedelta(minutes=1)) is Standing.CLOSED


async def test_a_domain_confirms_twice_per_hint_and_with_each_new_bundle(parts: ClusterParts) -> None:
    import asyncio

    told: list[bytes] = []
    made = Confirming(parts.fold, parts.keys, 5 * MINUTE, parts.clock, lambda: told.append(b""))
    assert made.message() is None
    running = asyncio.create_task(made.run())
    await parts.clock.advance(1)
    first = made.message()
    assert first is not None and made.message() is first
    domain = parts.state.domain
    assert domain is not None
    key = PublicationKey(domain.publication_key)
    opened = confirmation.open_confirmation(first.confirmation, key_domain(parts), key, parts.now)
    assert (opened.level.epoch, opened.level.sequence) == parts.level()
    await parts.clock.advance(149)
    assert len(told) == 2 and made.message() is not first
    await parts.round(at=timedelta(hours=18))
    assert made.latest is None  # of another bundle than the newest
    made.published()
    await parts.clock.advance(0.1)
    assert made.latest is not None and made.latest.level.sequence == parts.level().sequence

    async def away(name: str, messages: object) -> list[bytes]:
        raise Unavailable("key store away")

    real, parts.keys.sign = parts.keys.sign, away  # type: ignore[method-assign,assignment]
    await parts.clock.advance(150)
    before = made.latest
    parts.keys.sign = real  # type: ignore[method-assign]
    await parts.clock.advance(5)
    assert made.latest is not before
    running.cancel()


def key_domain(parts: ClusterParts):  # type: ignore[no-untyped-def]
    from trustfed.spiffe.ids import TrustDomain

    return TrustDomain(parts.state.trust_domain)


async def test_the_status_names_who_is_not_fresh(world: World, tmp_path: Path) -> None:
    parts = world.parts
    apart = Apart(
        parts.fold, parts.keys, parts.policy, parts.authorities.lifecycle_policy(), tmp_path, parts.clock, Registry()
    )
    assert apart.status()["stale"] == ["td-b"]  # it has confirmed nothing yet
    apart.freshness.take("td-b", await world.confirmed())
    assert apart.status()["stale"] == []
    world.passes(HOUR)
    assert (apart.status()["stale"], apart.peers()["td-b"]["standing"]) == (["td-b"], "stale")
    world.passes(LIMIT)
    assert (apart.status()["stale"], apart.status()["closed"]) == ([], ["td-b"])


def test_bounds_are_what_the_documents_say() -> None:
    assert timedelta(seconds=60) == module.LEAST_FRESH
