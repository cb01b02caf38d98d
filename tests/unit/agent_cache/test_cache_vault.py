"""Saving and opening: the same comes back, the generation rises where it must, and no more is written than changed."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cache.port import Kept
from agent.cache.refusal import Refused
from agent.cache.vault import _OURS
from tests.fakes.disk import Platter, crashes
from tests.unit.agent_cache.cached import NOW, bundle, entry, large, same, small, svid, token, vault, without
from trustfed.errors import TrustfedError, Unavailable
from trustfed.spiffe.ids import TrustDomain

B = TrustDomain("prod-b")


def test_what_was_kept_comes_back() -> None:
    platter = Platter()
    first = vault(platter)
    assert first.open() is None
    first.save(small())
    again = vault(platter)
    assert same(again.open(), small()) and again.generation == 1 and again.records == 12


def test_an_empty_node_is_kept_too() -> None:
    platter = Platter()
    vault(platter).save(Kept())
    assert same(vault(platter).open(), Kept())


def test_nothing_changed_nothing_written() -> None:
    platter = Platter()
    kept, keeper = small(), vault(platter)
    keeper.save(kept)
    written = len(platter.log)
    assert keeper.hurry(replace(kept, svids=dict(kept.svids))) is None
    keeper.save(replace(kept, svids=dict(kept.svids)))
    assert len(platter.log) == written


CHANGES = {
    "ban": (lambda k: replace(Kept(floor=k.floor), banned="stolen"), True),
    "entry removed": (lambda k: without(k, "e1"), True),
    "entry with other selectors": (
        lambda k: replace(k, entries=(k.entries[0], replace(k.entries[1], selectors=frozenset({"unix:uid:9"})))),
        True,
    ),
    "authority retired": (lambda k: replace(k, retired=(*k.retired, "a1")), True),
    "bundle level": (lambda k: replace(k, bundles=(bundle(), bundle("prod-b", sequence=8))), True),
    "bundle epoch": (lambda k: replace(k, bundles=(bundle(), bundle("prod-b", epoch=2, sequence=1))), True),
    "pinned key": (lambda k: replace(k, bundles=(bundle(), bundle("prod-b", sequence=7, signer=1))), True),
    "bundle removed": (lambda k: replace(k, bundles=(bundle(),)), True),
    "shorter limit": (lambda k: replace(k, stale_limits={B: timedelta(days=1)}), True),
    "floor by a minute": (lambda k: replace(k, floor=k.floor + timedelta(minutes=1)), True),
    "floor by seconds": (lambda k: replace(k, floor=k.floor + timedelta(seconds=59)), False),
    "entry added": (lambda k: replace(k, entries=(*k.entries, entry(5))), False),
    "entry with another hint": (lambda k: replace(k, entries=(k.entries[0], replace(k.entries[1], hint="x"))), False),
    "new svid": (lambda k: replace(k, svids={**k.svids, "e1": svid(55)}), False),
    "new token": (lambda k: replace(k, tokens=(*k.tokens, token(1))), False),
    "confirmed": (lambda k: replace(k, confirmed={B: NOW + timedelta(days=1)}), False),
    "bundle added": (lambda k: replace(k, bundles=(*k.bundles, bundle("prod-c"))), False),
    "longer limit": (lambda k: replace(k, stale_limits={B: timedelta(days=60)}), False),
    "used": (lambda k: replace(k, used={"e0": NOW}), False),
    "position": (lambda k: replace(k, position=99), False),
}
SOFT = {"floor by a minute", "floor by seconds", "confirmed", "used", "position", "new token"}


@pytest.mark.parametrize("name", CHANGES)
def test_generation_rises_only_where_going_back_is_unsafe(name: str) -> None:
    change, rises = CHANGES[name]
    platter = Platter()
    keeper, before = vault(platter), small()
    keeper.save(before)
    after = change(before)
    assert keeper.hurry(after) is (name not in SOFT)
    keeper.save(after)
    assert keeper.generation == 1 + rises
    again = vault(platter)
    assert same(again.open(), after) and again.generation == 1 + rises


def test_a_lifted_ban_and_a_floor_that_creeps_over_restarts() -> None:
    platter = Platter()
    keeper = vault(platter)
    keeper.save(Kept(banned="why", floor=NOW))
    keeper.save(Kept(floor=NOW))
    assert keeper.generation == 1
    for step in range(1, 4):
        keeper = vault(platter)
        assert keeper.open() is not None
        keeper.save(Kept(floor=NOW + timedelta(seconds=20 * step)))
    assert keeper.generation == 4


def test_a_save_writes_what_changed_and_no_more() -> None:
    platter = Platter()
    keeper, kept = vault(platter), large(200)
    keeper.save(kept)
    whole = keeper.size
    total = 0
    for number in range(40):
        start = len(platter.log)
        kept = replace(kept, svids={**kept.svids, f"e{number}": svid(5000 + number)})
        keeper.save(kept)
        total += sum(len(step.data) for step in platter.log[start:])
    assert total < whole * 1.5, (total, whole)
    assert len(list(_segments(platter))) <= 10
    assert same(vault(platter).open(), kept)


def test_garbage_is_bounded() -> None:
    platter = Platter()
    keeper, chance = vault(platter), random.Random(1)
    kept = large(30)
    for _ in range(150):
        number = chance.randrange(30)
        kept = replace(
            kept,
            svids={**kept.svids, f"e{number}": svid(chance.randrange(10**6))},
            tokens=(token(chance.randrange(10**6)),),
        )
        keeper.save(kept)
        assert keeper.size < 3 * 80_000 and len(list(_segments(platter))) <= 16
    assert same(vault(platter).open(), kept)


def test_what_is_gone_does_not_come_back_by_an_older_segment() -> None:
    platter = Platter()
    keeper, kept = vault(platter), large(60)
    keeper.save(kept)
    for number in (7, 8, 9):
        kept = replace(kept, svids={**kept.svids, f"e{number}": svid(70 + number)})
        keeper.save(kept)
        kept = without(kept, f"e{number}")
        keeper.save(kept)
        kept = replace(kept, svids={**kept.svids, "e20": svid(number)})
        keeper.save(kept)
        assert same(vault(platter).open(), kept)
    kept = replace(kept, entries=(*kept.entries, entry(8)))
    keeper.save(kept)
    assert same(vault(platter).open(), kept)


def test_left_overs_of_a_crash_are_removed() -> None:
    platter = Platter()
    keeper = vault(platter)
    keeper.save(small())
    for name in ("segment-2", "segment-99", "manifest.new"):
        platter.files["cache", name] = b"left over"
    platter.files["cache", "note"] = b"of a person"
    again = vault(platter)
    assert again.open() is not None
    again.save(without(small(), "e1"))
    names = {name for folder, name in platter.files if folder == "cache"}
    assert "note" in names and sum(bool(_OURS.fullmatch(name)) for name in names) == 1 + len(list(_segments(platter)))
    assert same(vault(platter).open(), without(small(), "e1"))


def test_a_folder_taken_away_while_we_run_is_written_anew() -> None:
    platter = Platter()
    keeper = vault(platter)
    keeper.save(large(20))
    platter.folders.discard("cache")
    platter.files = {place: data for place, data in platter.files.items() if place[0] != "cache"}
    later = replace(large(20), position=13)
    with pytest.raises(Exception, match="not there"):
        keeper.save(later)
    keeper.save(later)
    assert same(vault(platter).open(), later)


def test_a_flood_of_audiences_waits_and_a_token_that_must_go_does_not() -> None:
    """One workload that asks for a token of a new audience each time must not make a durable write with each."""
    keeper, kept = vault(Platter()), small()
    keeper.save(kept)
    many = replace(kept, tokens=tuple(token(0, f"audience {number}") for number in range(20)))
    assert keeper.hurry(many) is False
    assert keeper.hurry(replace(many, tokens=())) is False, "ended ones may lie a while"
    assert keeper.hurry(without(many, "e0")) is True
    assert keeper.hurry(replace(many, tokens=(), retired=(*kept.retired, "j1"))) is True


DENYING = ("ban", "entry removed", "entry with other selectors", "authority retired", "bundle removed", "shorter limit")


@pytest.mark.parametrize("name", DENYING)
@pytest.mark.parametrize("kind", ["create", "write", "fsync", "rename"])
def test_what_cannot_be_saved_is_not_outlived_by_what_it_denies(name: str, kind: str) -> None:
    """A full disk, filled by anybody, and then a loss of power: the state before a ban or a removal does not come back."""
    platter = Platter()
    keeper, before = vault(platter), small()
    keeper.save(before)
    full = lambda step: Unavailable("no space left on device") if step.kind == kind else None  # noqa: E731
    platter.fault = full
    after = CHANGES[name][0](before)
    with pytest.raises(TrustfedError, match="no space left"):
        keeper.save(after)
    for files in crashes(platter, len(platter.log)):
        with pytest.raises(Refused, match="manifest is missing"):
            vault(Platter(files)).open()
    assert keeper.hurry(before) is True, "even what went back to how it was must be written again"
    with pytest.raises(TrustfedError, match="no space left"):
        keeper.save(after)
    platter.fault = lambda step: None
    keeper.save(after)
    assert same(vault(platter).open(), after)


def test_more_than_can_be_kept_does_not_leave_what_was_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    platter = Platter()
    keeper = vault(platter)
    keeper.save(small())
    monkeypatch.setattr("agent.cache.vault.MAX_RECORDS", 5)
    with pytest.raises(TrustfedError, match="more than the 5"):
        keeper.save(without(large(10), "e1"))
    with pytest.raises(Refused, match="manifest is missing"):
        vault(platter).open()


def test_where_nothing_can_be_removed_the_counter_outside_goes_above() -> None:
    """The cache's own file system is read-only now; the counter lies on another."""
    platter = Platter()
    keeper = vault(platter)
    keeper.save(small())
    platter.fault = lambda step: Unavailable("read-only file system") if step.folder == "cache" else None
    with pytest.raises(TrustfedError, match="read-only"):
        keeper.save(without(small(), "e1"))
    with pytest.raises(Refused, match="below 2 of the counter"):
        vault(platter).open()


def test_a_save_that_denies_nothing_and_fails_leaves_what_there_was() -> None:
    platter = Platter()
    keeper = vault(platter)
    keeper.save(small())
    platter.fault = lambda step: Unavailable("full") if step.kind == "write" else None
    with pytest.raises(TrustfedError, match="full"):
        keeper.save(replace(small(), svids={"e0": svid(77)}, floor=NOW + timedelta(hours=1)))
    assert same(vault(platter).open(), small())


def test_a_ban_leaves_no_key_on_the_disk() -> None:
    platter = Platter()
    keeper = vault(platter)
    keeper.save(large(20))
    platter.files["cache", "refused-segment-1"] = b"of before"
    keeper.save(Kept(banned="stolen"))
    assert keeper.size < 1500
    assert {name for folder, name in platter.files if folder == "cache"} == {"manifest", "segment-2"}


@st.composite
def _kept(draw: st.DrawFn) -> Kept:
    ids = draw(st.sets(st.integers(0, 8)))
    pick = st.sampled_from
    return Kept(
        entries=tuple(entry(n, hint=draw(pick(("", "x"))), admin=draw(st.booleans())) for n in ids),
        svids={f"e{n}": svid(draw(st.integers(0, 3)), size=draw(pick((10, 400)))) for n in ids if draw(st.booleans())},
        reserves={f"e{n}": svid(draw(st.integers(0, 3))) for n in ids if draw(st.booleans())},
        tokens=tuple(token(n, draw(pick(("a", "b")))) for n in ids if draw(st.booleans())),
        bundles=tuple(
            bundle(name, sequence=draw(st.integers(1, 3)))
            for name in ("prod-a", "prod-b", "prod-c")
            if draw(st.booleans())
        ),
        confirmed={B: NOW + timedelta(microseconds=draw(st.integers(0, 2**40)))} if draw(st.booleans()) else {},
        used={f"e{n}": NOW for n in ids if draw(st.booleans())},
        banned=draw(pick(("", "why \u2603"))),
        position=draw(st.integers(0, 2**63)),
        instance=draw(st.text(max_size=5)),
        floor=NOW + timedelta(seconds=draw(st.integers(0, 200))),
        authenticated=draw(pick((None, (NOW, 1.25, "boot")))),
        retired=draw(pick(((), ("a1",), ("a1", "a2")))),
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(_kept(), st.booleans()), min_size=1, max_size=8))
def test_any_sequence_of_changes_comes_back(history: list[tuple[Kept, bool]]) -> None:
    platter = Platter()
    keeper, generation = vault(platter), 0
    for kept, restart in history:
        keeper.save(kept)
        assert keeper.generation >= generation
        generation = keeper.generation
        if restart:
            keeper = vault(platter)
            assert same(keeper.open(), kept) and keeper.generation == generation
    assert same(vault(platter).open(), history[-1][0])


def _segments(platter: Platter) -> list[str]:
    return [name for folder, name in platter.files if folder == "cache" and name.startswith("segment-")]
