"""The rule of two people itself, without a journal: who is another person, what ends a proposal, and what is bounded."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from tests.architecture.tree import ROOT
from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.journal import approvals
from trustfed.journal.approvals import Actor, Proposals, Wanted
from trustfed.journal.table import decode_state, encode_state

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LIFE = timedelta(hours=1)
ANN, BOB = Actor("uid:1001", "uid:1001"), Actor("uid:1002", "uid:1002")
BODY = {"authority": "a1", "remove_first": False}


def wanted(id_: str = "p1", **body: object) -> Wanted:
    return Wanted(id_, "authority.taint", {**BODY, **body}, "the disk was sold")


def folded(held: Proposals, *events: approvals.ApprovalEvent) -> Proposals:
    for event in events:
        held = approvals.apply(held, event)
    return held


def proposed(by: Actor = ANN) -> Proposals:
    return folded(Proposals(), *approvals.propose(Proposals(), wanted(), by, LIFE, NOW))


def test_another_person_approves_once_and_nobody_after() -> None:
    held = proposed()
    approved = approvals.approve(held, "p1", BOB, NOW)
    assert approved.body_hash == approvals.hash_of(BODY) == held["p1"].body_hash
    held = folded(held, approved)
    assert (held["p1"].status, held["p1"].decided_by) == ("approved", "uid:1002")
    for again in (BOB, Actor("uid:3", "uid:3")):
        with pytest.raises(Conflict, match="approved already, by uid:1002"):
            approvals.approve(held, "p1", again, NOW)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ANN, ANN),
        (ANN, Actor("token:ab", "uid:1001")),  # the approver's identity was made by the proposer
        (Actor("token:ab", "uid:1001"), ANN),  # and the other way round
        (Actor("token:ab", "uid:1001"), Actor("token:cd", "uid:1001")),  # both were made by one
        (Actor("uid:1001/alice", "uid:1001"), Actor("uid:1001/bob", "uid:1001")),  # whatever the links are named
    ],
)
def test_what_one_person_made_is_that_person(first: Actor, second: Actor) -> None:
    with pytest.raises(Denied, match="both are uid:1001"):
        approvals.approve(proposed(first), "p1", second, NOW)


def test_who_is_nobody_in_particular_neither_proposes_nor_approves() -> None:
    old = Actor("token:old", "")
    with pytest.raises(Denied, match="not on record"):
        approvals.propose(Proposals(), wanted(), old, LIFE, NOW)
    with pytest.raises(Denied, match="not on record"):
        approvals.approve(proposed(), "p1", old, NOW)


def test_a_proposal_ends_by_time_or_by_a_no() -> None:
    held = proposed()
    late = NOW + LIFE
    assert held["p1"].status_at(late) == "expired"
    with pytest.raises(Conflict, match="has expired"):
        approvals.approve(held, "p1", BOB, late)
    held = folded(held, *approvals.withdraw(held, "p1", BOB, "not that one", NOW))
    assert approvals.withdraw(held, "p1", ANN, "twice is fine", NOW) == []
    with pytest.raises(Conflict, match="withdrawn already, by uid:1002"):
        approvals.approve(held, "p1", BOB, NOW)
    with pytest.raises(NotFound):
        approvals.approve(held, "p2", BOB, NOW)


def test_what_is_approved_is_what_was_looked_at() -> None:
    held = proposed()
    with pytest.raises(Conflict, match="not what was looked at"):
        approvals.approve(held, "p1", BOB, NOW, approvals.hash_of({**BODY, "remove_first": True}))
    forged = msgspec.structs.replace(held["p1"], body={**BODY, "authority": "a2"})
    with pytest.raises(Conflict, match="not what was looked at"):
        approvals.approve(held.put("p1", forged), "p1", BOB, NOW)


def test_the_same_again_is_the_same_proposal() -> None:
    held = proposed()
    assert approvals.propose(held, wanted("p2"), ANN, LIFE, NOW) == []
    assert approvals.same(held, wanted("p2"), ANN, NOW) == held["p1"]
    with pytest.raises(Conflict, match="has proposed this already as p1") as told:
        approvals.propose(held, wanted("p2"), BOB, LIFE, NOW)
    assert "approval approve p1" in told.value.hint
    with pytest.raises(Conflict, match="another command"):
        approvals.propose(held, wanted("p1", authority="a2"), ANN, LIFE, NOW)
    assert len(approvals.propose(held, wanted("p3"), ANN, LIFE, NOW + LIFE)) == 1  # the first one is over


def test_nobody_keeps_the_others_from_proposing_and_the_state_stays_small() -> None:
    held = Proposals()
    for number in range(approvals.MAX_OPEN_EACH):
        held = folded(held, *approvals.propose(held, wanted(f"a{number}", authority=str(number)), ANN, LIFE, NOW))
    with pytest.raises(Conflict, match="no more are taken from uid:1001"):
        approvals.propose(held, wanted("more", authority="more"), ANN, LIFE, NOW)
    held = folded(held, *approvals.propose(held, wanted("bob", authority="bob"), BOB, LIFE, NOW))
    assert len(approvals.open_ones(held, NOW)) == approvals.MAX_OPEN_EACH + 1
    broken = approvals.break_glass(wanted("glass"), ANN, NOW)
    held = folded(held, broken)
    for number in range(300):
        at = NOW + (number + 1) * LIFE
        held = folded(held, *approvals.propose(held, wanted(f"b{number}", authority=f"b{number}"), ANN, LIFE, at))
    assert len(held) <= approvals.MAX_OPEN + 2 * approvals.MAX_CLOSED
    assert held["glass"].status == "broken"  # what ended pushes none of these out
    assert decode_state(encode_state(held), Proposals) == held


def test_refused_tries_are_on_record_and_no_flood() -> None:
    held = proposed()
    for _ in range(50):
        held = folded(held, *approvals.refuse(held, "p1", ANN, "x" * 5_000, NOW))
    assert held["p1"].refusals == approvals.MAX_REFUSALS
    assert held["p1"].status == "open"
    assert approvals.refuse(held, "unknown", ANN, "why", NOW) == []


@pytest.mark.parametrize("reason", ["", "short", " " * 20, "two\nlines of a reason", "x" * 2_000])
def test_a_glass_is_not_broken_without_a_reason(reason: str) -> None:
    with pytest.raises(Invalid, match="reason"):
        approvals.break_glass(Wanted("p", "authority.taint", BODY, reason), ANN, NOW)


def test_a_body_without_one_form_or_too_long_is_refused() -> None:
    for body in ({"x": 1.5}, {"x": "y" * 20_000}):
        with pytest.raises(Invalid):
            approvals.hash_of(body)


@pytest.mark.parametrize(("minutes", "good"), [(0, False), (1, True), (60, True), (1440, True), (1441, False)])
def test_the_expiry_is_within_bounds(minutes: int, good: bool) -> None:
    if good:
        assert approvals.ApprovalsConfig(timedelta(minutes=minutes)).expiry == timedelta(minutes=minutes)
    else:
        with pytest.raises(Invalid, match="out of range"):
            approvals.ApprovalsConfig(timedelta(minutes=minutes))


def test_no_door_goes_around_the_rule() -> None:
    """What decides on CAs is called by the commands that take two people, and by nothing else of the product."""
    ours = r"authority_commands\.(?:taint|revoke|activate|replace_authority)\(|external\.(?:prepare|abandon)\("
    hubs = r"\broots\.(?:prepare|activate|retire)\(|\bdomains\.(?:remove|revoke)\(|signer\.(?:next|without)\("
    for folder, calls, by in (
        ("trustfed/cluster", ours, "approvals.py"),
        ("trustfed/cluster", r"\blegacy\.add\(", "legacy_approved.py"),
        ("trustfed/hub", hubs, "approvals.py"),
    ):
        found = {path.name for path in (ROOT / folder).rglob("*.py") if re.search(calls, path.read_text())}
        assert found == {by}, (folder, calls, found)
