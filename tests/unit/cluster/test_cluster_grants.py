"""Grants and peers' envelopes: what the hub may say, and what only the owner may."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.clocks import START
from tests.unit.cluster.cluster_parts import TD
from tests.unit.hub.newcomer import Newcomer
from trustfed.cluster import events as e
from trustfed.cluster import grants
from trustfed.cluster.fold import apply
from trustfed.cluster.state import ClusterState, Domain
from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.timestamps import to_ms

DAY = timedelta(days=1)
STATE = ClusterState(domain=Domain("i", TD, "publication", b""))


@pytest.fixture
async def peer() -> Newcomer:
    return await Newcomer.make("td-b")


def said(peer: Newcomer, **fields: Any) -> pb.Grant:
    given = {
        "id": "g1",
        "importer": TD,
        "exporter": "td-b",
        "state": "offered",
        "from_ms": to_ms(START),
        "until_ms": to_ms(START + DAY),
        "reason": "why",
        "exporter_publication_key": peer.key.spki,
        **fields,
    }
    return pb.Grant(**given)


def fold(state: ClusterState, events: Any) -> ClusterState:
    for event in events:
        state = apply(state, event)
    return state


def accepted(peer: Newcomer, state: ClusterState = STATE, **fields: Any) -> ClusterState:
    grant = said(peer, **fields)
    state = fold(state, grants.heard(state, grant, 5, START))
    return fold(state, grants.accept(state, grant.id, peer.key.fingerprint, START))


@pytest.mark.parametrize(
    "fields",
    [
        {"importer": "td-x"},
        {"exporter": TD},
        {"importer": "td-x", "exporter": "td-y"},
        {"exporter": "NOT A DOMAIN"},
        {"id": ""},
        {"id": "x" * 65},
        {"id": "a/b"},
        {"id": "a\n"},
        {"from_ms": -(2**63)},
        {"until_ms": 2**63 - 1},
        {"exporter_publication_key": b""},
        {"exporter_publication_key": b"garbage"},
    ],
    ids=str,
)
async def test_what_can_be_no_grant_of_ours_leaves_nothing(peer: Newcomer, fields: dict[str, Any]) -> None:
    with pytest.raises((Denied, Invalid)):
        grants.heard(STATE, said(peer, **fields), 5, START)


async def test_the_hub_cannot_accept_for_the_owner(peer: Newcomer) -> None:
    state = fold(STATE, grants.heard(STATE, said(peer, state="accepted"), 5, START))
    assert state.grants["g1"].state == "offered"
    assert not state.imports(START)
    state = fold(state, grants.heard(state, said(peer, state="accepted"), 6, START))
    assert state.grants["g1"].state == "offered"


async def test_the_hub_cannot_change_sides_key_or_times(peer: Newcomer) -> None:
    state, other = accepted(peer), await Newcomer.make("td-b")
    with pytest.raises(Denied, match="changed the sides"):
        grants.heard(state, said(peer, importer="td-b", exporter=TD), 6, START)
    again = fold(
        state,
        grants.heard(
            state,
            said(peer, exporter_publication_key=other.key.spki, until_ms=to_ms(START + 9 * DAY), state="accepted"),
            6,
            START,
        ),
    )
    assert again.grants["g1"].exporter_key == peer.key.spki
    assert again.grants["g1"].until == START + DAY
    assert again.grants["g1"].confirmed


async def test_a_flood_of_offers_ends(peer: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "MAX_GRANTS", 3)
    state = STATE
    for number in range(3):
        state = fold(state, grants.heard(state, said(peer, id=f"g{number}"), 5, START))
    with pytest.raises(Denied, match="more than 3"):
        grants.heard(state, said(peer, id="g9"), 5, START)
    for number in range(3):
        state = fold(state, grants.heard(state, said(peer, id=f"g{number}", state="ended"), 6, START))
    assert not list(state.grants.values())  # nothing of offers that nobody accepted
    assert fold(state, grants.heard(state, said(peer, id="honest"), 7, START)).grants["honest"].state == "offered"


async def test_accept_wants_the_fingerprint(peer: Newcomer) -> None:
    state = fold(STATE, grants.heard(STATE, said(peer), 5, START))
    with pytest.raises(Invalid, match=peer.key.fingerprint):
        grants.accept(state, "g1", "", START)
    with pytest.raises(Denied):
        grants.accept(state, "g1", "sha256:" + "0" * 64, START)
    with pytest.raises(NotFound):
        grants.accept(state, "nope", peer.key.fingerprint, START)
    with pytest.raises(Conflict, match="ended"):
        grants.accept(state, "g1", peer.key.fingerprint, START + DAY)
    exports = fold(STATE, grants.heard(STATE, said(peer, importer="td-b", exporter=TD), 5, START))
    with pytest.raises(Denied, match="td-b's to decide"):
        grants.accept(exports, "g1", peer.key.fingerprint, START)


async def test_an_ended_grant_does_not_come_back(peer: Newcomer) -> None:
    state = accepted(peer)
    state = fold(state, grants.end(state, "g1", "uid:1", "enough", START))
    for word in ("offered", "accepted", "ended"):
        state = fold(state, grants.heard(state, said(peer, state=word), 9, START))
        assert state.grants["g1"].state == "ended"
    assert not grants.end(state, "g1", "uid:1", "again", START)
    with pytest.raises(Conflict):
        grants.accept(state, "g1", peer.key.fingerprint, START)


async def test_a_decision_that_the_hub_forgot_is_told_again(peer: Newcomer) -> None:
    state = accepted(peer)
    assert not grants.forgotten(state, said(peer))  # not told yet: it will be
    state = fold(state, [e.GrantConfirmed("g1", 0)])
    assert grants.forgotten(state, said(peer))
    assert not grants.forgotten(state, said(peer, state="accepted"))
    ended = fold(state, [*grants.end(state, "g1", "uid:1", "x", START), e.GrantConfirmed("g1", 0)])
    assert grants.forgotten(ended, said(peer, state="accepted"))
    assert not grants.forgotten(ended, said(peer, state="ended"))


async def test_envelopes_are_kept_only_if_they_continue(peer: Newcomer) -> None:
    first, second = await peer.envelope(), await peer.envelope()
    forked = await peer.envelope(step=0, hint=61)
    thief = await Newcomer.make("td-b")
    other = await Newcomer.make("td-c")
    state = accepted(peer)
    with pytest.raises(Denied, match="no accepted grant"):
        grants.receive(STATE, "td-b", first, 5, START)
    state = fold(state, grants.receive(state, "td-b", second, 5, START)[0])
    assert grants.receive(state, "td-b", second, 6, START)[0] == []
    for bad in (first, forked, await thief.envelope(), await other.envelope(), b"", b"{}", second[:-1]):
        with pytest.raises((Denied, Invalid)):
            grants.receive(state, "td-b", bad, 6, START)
    state = fold(state, grants.end(state, "g1", "uid:1", "x", START))
    with pytest.raises(Denied):
        grants.receive(state, "td-b", await peer.envelope(), 6, START)
    # A new grant with the same key goes on from where the old one was: nothing old comes in by ending and beginning.
    state = accepted(peer, state, id="g2")
    with pytest.raises(Denied, match="goes back"):
        grants.receive(state, "td-b", first, 7, START)


async def test_repin_begins_anew_for_every_grant_of_the_exporter(peer: Newcomer) -> None:
    state = accepted(peer)
    state = accepted(peer, state, id="g2", until_ms=to_ms(START + 2 * DAY))
    for _ in range(3):
        state = fold(state, grants.receive(state, "td-b", await peer.envelope(), 5, START)[0])
    fresh = await Newcomer.make("td-b")
    with pytest.raises(Denied):
        grants.repin(state, "g1", fresh.key.spki, peer.key.fingerprint)
    with pytest.raises(Invalid):
        grants.repin(state, "g1", b"garbage", fresh.key.fingerprint)
    state = fold(state, grants.repin(state, "g1", fresh.key.spki, fresh.key.fingerprint))
    assert {grant.exporter_key for grant in state.grants.values()} == {fresh.key.spki}
    assert "td-b" not in state.peers
    assert state.hub_position == 0  # the hub is asked for everything again
    state = fold(state, grants.receive(state, "td-b", await fresh.envelope(), 5, START)[0])
    with pytest.raises(Denied):
        grants.receive(state, "td-b", await peer.envelope(), 6, START)


async def test_a_grant_that_begins_later(peer: Newcomer) -> None:
    state = accepted(peer, from_ms=to_ms(START + timedelta(hours=1)))
    state = fold(state, grants.receive(state, "td-b", await peer.envelope(), 5, START)[0])
    assert "td-b" in state.peers  # received, for the hub sends it once
    assert not state.imports(START)
    assert "td-b" in state.imports(START + timedelta(hours=1))
    assert not state.imports(START + DAY)


async def test_of_two_grants_the_longer_one_counts(peer: Newcomer) -> None:
    state = accepted(peer)
    state = accepted(peer, state, id="g2", until_ms=to_ms(START + 3 * DAY))
    state = accepted(peer, state, id="g3", until_ms=to_ms(START + 2 * DAY))
    assert state.imports(START)["td-b"].id == "g2"


async def test_repin_of_what_was_not_accepted(peer: Newcomer) -> None:
    state = fold(STATE, grants.heard(STATE, said(peer), 5, START))
    with pytest.raises(Conflict, match="offered"):
        grants.repin(state, "g1", peer.key.spki, peer.key.fingerprint)
