"""Foreign bundles fetched, adopted, refused and accepted by an operator."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.cluster import Domain, new_key
from tests.fakes.foreign_peer import ENDPOINT, ForeignPeer, http, svid
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from tests.unit.cluster.foreign_house import CA, DAY, ORDER, TDF, House, authorities, events_of, watch_of
from tests.unit.hub.newcomer import Newcomer
from trustfed.cluster import events as e
from trustfed.cluster.foreign import commands, rules
from trustfed.cluster.foreign.commands import SPIFFE, WEB, Settings
from trustfed.cluster.foreign.course import CHANGES_BURST, CHANGES_PACE, TURNS_PACE, Course
from trustfed.cluster.foreign.endpoint import Answer
from trustfed.cluster.foreign.poller import CONFIRM_EVERY, Order
from trustfed.cluster.foreign.rules import Refused
from trustfed.cluster.grants import held_envelope
from trustfed.errors import Denied, Invalid, NotFound, Unavailable
from trustfed.federation import envelope as envelopes
from trustfed.federation.envelope import Level
from trustfed.spiffe.bundle import Bundle, JwtAuthority
from trustfed.spiffe.ids import TrustDomain

# Adopted


async def test_a_web_peer_is_fetched_and_signed_by_ourselves(house: House, web: ForeignPeer) -> None:
    await house.add_web(web)
    assert TDF not in house.parts.state.peers
    await house.peers.refresh(TDF)
    assert set(house.bundle.x509_authorities) == authorities(web) and house.bundle.refresh_hint == 60
    assert house.confirmed == [(TDF, house.parts.now)]
    first = house.parts.state.peers[TDF]
    web.rotate()
    await house.peers.refresh(TDF)
    assert set(house.bundle.x509_authorities) == authorities(web)
    assert house.parts.state.peers[TDF].sequence == first.sequence + 1
    assert (house.peer.sequence, house.peer.keys != "", house.peer.fault) == (2, True, "")


async def test_the_same_bundle_again_records_nothing_until_hours_have_passed(house: House, web: ForeignPeer) -> None:
    await house.add_web(web)
    await house.peers.refresh(TDF)
    at = house.parts.fold.position
    for _ in range(3):
        house.parts.clock.move(60)
        await house.peers.refresh(TDF)
    assert house.parts.fold.position == at and len(house.confirmed) == 4
    house.parts.clock.move(CONFIRM_EVERY.total_seconds())
    await house.peers.refresh(TDF)
    assert house.parts.fold.position == at + 1 and house.peer.accepted_at == house.parts.now


async def test_an_endpoint_that_knows_entity_tags_is_not_read_again_for_nothing(house: House, web: ForeignPeer) -> None:
    def tagged(path: str, headers: dict[str, str]) -> list[bytes]:
        tag = f'"{web.domain.sequence}"'
        known = headers.get("if-none-match") == tag
        return [http(b"", "304 Not Modified", ETag=tag) if known else http(web.document(), ETag=tag)]

    async def refresh() -> str:
        await house.peers.refresh(TDF)
        return web.asked[-1][1].get("if-none-match", "")

    web.answer = tagged
    await house.add_web(web)
    assert [await refresh(), await refresh()] == ["", '"1"'] and len(house.confirmed) == 2
    web.rotate()
    assert await refresh() == '"1"' and house.peer.sequence == 2
    house.parts.clock.move(CONFIRM_EVERY.total_seconds())
    assert await refresh() == "" and house.peer.accepted_at == house.parts.now
    web.says(http(b"{}"))
    with pytest.raises(Refused):
        await refresh()
    web.answer = tagged
    assert await refresh() == ""
    await house.remove()
    await house.add_web(web)  # nothing is held of it now: what an old tag names must come whole
    assert await refresh() == "" and TDF in house.parts.state.peers


async def test_a_hint_that_changes_at_the_same_sequence_is_taken_over(house: House, web: ForeignPeer) -> None:
    await house.add_web(web)
    await house.peers.refresh(TDF)
    web.refresh_hint = 90
    await house.peers.refresh(TDF)
    assert (house.bundle.refresh_hint, house.peer.sequence) == (90, 1)


async def test_a_peer_without_a_sequence_is_believed_and_shown_as_unprotected(house: House, web: ForeignPeer) -> None:
    web.sequence = False
    watch = watch_of(house)
    await house.add_web(web)
    await house.peers.refresh(TDF)
    web.rotate()
    await house.peers.refresh(TDF)
    assert set(house.bundle.x509_authorities) == authorities(web)
    status = watch.status(house.peer)
    assert (status["sequence"], status["rollback_protection"], status["condition"]) == (None, False, "good")
    watch.look()
    assert 'cluster_foreign_no_rollback_protection{trust_domain="td-f"} 1' in house.registry.exposition().decode()


async def test_a_spiffe_peer_is_known_by_its_first_bundle_then_by_the_newest(house: House, spiffe: ForeignPeer) -> None:
    await house.add_spiffe(spiffe)
    await house.peers.refresh(TDF)
    assert house.peer.anchors == b""
    spiffe.rotate()
    await house.peers.refresh(TDF)  # the endpoint still answers by the old authority, and serves both
    spiffe.identity(svid(spiffe.domain))
    del spiffe.domain.authorities[0]
    spiffe.domain.sequence += 1
    await house.peers.refresh(TDF)
    assert set(house.bundle.x509_authorities) == authorities(spiffe)


async def test_an_endpoint_of_another_domain_is_known_by_that_ones_bundle(house: House, web: ForeignPeer) -> None:
    other, served = Domain("td-g"), Domain(TDF)
    with ForeignPeer(served, svid(other)) as delegated:
        given = Settings(TDF, SPIFFE, delegated.url, f"spiffe://td-g{ENDPOINT}")
        with pytest.raises(NotFound, match="td-g"):
            await house.add(given)
        with ForeignPeer(other, CA.server()) as first:
            await house.add(Settings("td-g", WEB, first.url, ca=(CA.der,)))
            await house.peers.refresh("td-g")
        await house.add(given)
        await house.peers.refresh(TDF)
        assert set(house.bundle.x509_authorities) == authorities(delegated)
        await house.parts.decide(lambda s: commands.remove(s, "td-g", "uid:1", "", house.parts.now))
        with pytest.raises(NotFound, match="td-g"):
            await house.peers.refresh(TDF)
        assert set(house.bundle.x509_authorities) == authorities(delegated)


# Refused: the last good one stays


async def test_who_answers_must_be_the_endpoint_that_was_named(house: House, spiffe: ForeignPeer) -> None:
    await house.add_spiffe(spiffe)
    await house.peers.refresh(TDF)
    for keypair in (
        svid(spiffe.domain, "/spire/agent"),
        svid(Domain(TDF)),  # the same name, another key
        svid(Domain("td-g")),
        CA.server(),
        svid(spiffe.domain, life=timedelta(seconds=-1)),
    ):
        spiffe.identity(keypair)
        with pytest.raises((Denied, Invalid)):
            await house.peers.refresh(TDF)
    assert house.peers.course(TDF).failures == 5
    assert set(house.bundle.x509_authorities) == authorities(spiffe)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"spiffe_sequence": 3}, "older"),
        ({"spiffe_sequence": 7}, "fork"),
        ({"spiffe_sequence": None}, "sequence_lost"),
    ],
)
async def test_a_bundle_that_breaks_off_waits_for_an_operator(
    house: House, web: ForeignPeer, changes: dict[str, Any], fault: str
) -> None:
    web.domain.sequence = 7
    await house.add_web(web)
    await house.peers.refresh(TDF)
    before = house.bundle
    web.rotate()
    web.answer = lambda *_: [http(web.document(**changes))]
    for _ in range(3):
        with pytest.raises(Refused, match="td-f"):
            await house.peers.refresh(TDF)
    assert house.bundle == before and house.peer.fault == fault
    status = watch_of(house).status(house.peer)
    assert (status["condition"], status["fault"]) == ("refused", fault)
    refusals = [record for record in await events_of(house) if record == "foreign.refused"]
    assert len(refusals) == 1
    with pytest.raises(Invalid, match="reason"):
        await house.peers.accept(TDF, Order("uid:1", " ", ""))
    with pytest.raises(Denied, match="serves"):
        await house.peers.accept(TDF, Order("uid:1", "why", "sha256:" + "0" * 64))
    await house.peers.accept(TDF, Order("uid:1", "why", status["refused_keys"]))
    assert set(house.bundle.x509_authorities) == authorities(web)
    assert (house.peer.fault, house.peer.sequence) == ("", changes["spiffe_sequence"])
    await house.peers.refresh(TDF)


async def test_bad_documents_never_replace_the_last_good_one(house: House, web: ForeignPeer) -> None:
    await house.add_web(web)
    await house.peers.refresh(TDF)
    before, held = house.bundle, house.parts.state.peers[TDF]
    good = web.document()
    for body in (good[: len(good) // 2], b'{"keys":[]}', b"[]", Domain("td-g").bundle().marshal(), b"{}"):
        web.says(http(body))
        with pytest.raises(Refused):
            await house.peers.refresh(TDF)
        with pytest.raises(Refused):
            await house.peers.accept(TDF, ORDER)
    web.says(http(b"", "503 Service Unavailable"))
    with pytest.raises(Unavailable):
        await house.peers.refresh(TDF)
    assert house.bundle == before and house.parts.state.peers[TDF] == held
    web.answer = web.good
    await house.peers.refresh(TDF)
    assert watch_of(house).status(house.peer)["condition"] == "good"


async def test_keys_of_this_domain_the_root_and_other_peers_are_nobody_elses(house: House, web: ForeignPeer) -> None:
    state = house.parts.state
    own = held_envelope(state.envelope, TD, house.domain_key).bundle
    await house.add_web(web)
    await house.peers.refresh(TDF)
    from trustfed.cluster.state import newest_roots

    stolen_jwt = Bundle(TrustDomain("td-g"), (), own.jwt_authorities, 1)
    root = Bundle(TrustDomain("td-g"), (newest_roots(state).roots[0],), (), 1)
    theirs = Bundle(TrustDomain("td-g"), (), web.domain.bundle().jwt_authorities, 1)
    with ForeignPeer(Domain("td-g"), CA.server()) as other:
        await house.add(Settings("td-g", WEB, other.url, ca=(CA.der,)))
        for bundle, holder in ((stolen_jwt, TD), (root, "the federation's root"), (theirs, TDF)):
            other.says(http(bundle.marshal()))
            with pytest.raises(Refused, match=holder):
                await house.peers.refresh("td-g")
            assert "td-g" not in house.parts.state.peers
            if holder != TDF:
                with pytest.raises(Refused, match=holder):
                    await house.peers.accept("td-g", ORDER)
        await house.peers.accept("td-g", ORDER)  # an operator found out that td-f is the thief
    assert "td-g" in house.parts.state.peers


async def test_a_copy_of_a_peers_key_in_another_bundle_freezes_nobody(house: House, web: ForeignPeer) -> None:
    await house.add_web(web)
    await house.peers.refresh(TDF)
    evil, parts, now = await Newcomer.make("evil"), house.parts, house.parts.now
    stolen = web.domain.bundle().jwt_authorities
    body = replace(Domain("evil").bundle(), jwt_authorities=stolen, sequence=1).marshal()
    level = Level(TrustDomain("evil"), 1, 1)
    (signature,) = await evil.keys.sign("publication", [envelopes.payload_to_sign(level, body)])
    data = envelopes.assemble(level, body, signature, evil.key).data
    await parts.record(
        e.GrantOffered("g", TD, "evil", now, now + DAY, "", evil.key.spki, 1),
        e.GrantAccepted("g", evil.key.spki, now),
        e.PeerBundle("evil", evil.key.spki, 1, 1, data, 1, now),
    )
    await house.peers.refresh(TDF)  # and the same again
    assert house.peers.course(TDF).fault == ""


async def test_two_peers_that_bring_one_key_at_once_are_not_both_believed(house: House) -> None:
    key = new_key().public_key()
    for name in ("x1", "x2"):
        await house.add(Settings(name, WEB, f"https://{name}.example/"))

    async def bring(name: str) -> None:
        bundle = replace(Domain(name).bundle(), jwt_authorities=(JwtAuthority("k", key),), sequence=1)
        peer, answer = house.parts.state.foreign[name], Answer(rules.Offer(bundle, rules.fingerprint(bundle)), "")
        await house.peers._take(peer, house.peers.course(name), answer, None)

    said = await asyncio.gather(bring("x1"), bring("x2"), return_exceptions=True)
    assert sum(isinstance(one, Refused) for one in said) == 1
    assert sum(bool(house.parts.state.foreign[name].keys) for name in ("x1", "x2")) == 1


async def test_a_peer_that_changes_without_end_is_slowed_down() -> None:
    course, parts = Course(), await ClusterParts.make(enrolled=False)
    now = parts.now
    assert [course.may_change(now) for _ in range(CHANGES_BURST + 1)] == [True] * CHANGES_BURST + [False]
    assert course.may_change(now + CHANGES_PACE) and not course.may_change(now + CHANGES_PACE)
    assert course.may_turn(now) and not course.may_turn(now + TURNS_PACE / 2) and course.may_turn(now + TURNS_PACE)
    await parts.close()


async def test_faults_that_alternate_do_not_fill_the_journal(house: House, web: ForeignPeer) -> None:
    web.domain.sequence = 5
    await house.add_web(web)
    await house.peers.refresh(TDF)
    at = house.parts.fold.position
    for number in range(20):
        house.parts.clock.move(15)
        web.says(http(web.document(spiffe_sequence=4) if number % 2 else b"{}"))
        with pytest.raises(Refused):
            await house.peers.refresh(TDF)
        web.answer = web.good
        await house.peers.refresh(TDF)
    assert house.parts.fold.position <= at + 2
