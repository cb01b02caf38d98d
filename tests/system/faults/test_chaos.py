"""Faults at random, from a seed that does not change, and the schedule that they come from. `make chaos` has new ones."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.faults.chaos import Chaos, able
from tests.system.faults.schedule import Able, schedule
from tests.system.faults.world import World

SEED, SECONDS, TTL = 8929, 15.0, 12
ABLE = Able(("hub", "a", "b"), ("hub", "cluster-a", "agent-a-node-1"), ("hub",), ("cache-a",), (), ("a",), ("a", "b"))


LINKS_AND_PROCESSES = {"cut", "silent up", "silent down", "slow", "drip", "reset", "kill", "freeze", "orphan"}
LEFT_OUT = {  # by the beginning of what `World.skipped` says
    "full and read-only disks": {"full disk", "read-only cache", "read-only store"},
    "clock steps": {"clock"},
}
KINDS = LINKS_AND_PROCESSES.union(*LEFT_OUT.values())


def seed_of_all(kinds: set[str], able: Able) -> int:
    """The first seed from SEED on whose schedule has each of these kinds and no other: a world that can do less has another."""
    for seed in range(SEED, SEED + 50_000):
        if {strike.kind for strike in schedule(seed, SECONDS, able)} == kinds:
            return seed
    raise AssertionError(f"no schedule has exactly {sorted(kinds)}")


@pytest.mark.timeout(200)
def test_nothing_is_violated_while_faults_strike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of fault at least once, but for those that this machine cannot do, which the world names."""
    with World(tmp_path / "c", svid_ttl=TTL, disks=True, clocks=True) as world:
        left_out = set[str]().union(*(LEFT_OUT[reason.partition(":")[0]] for reason in world.skipped))
        seed = seed_of_all(KINDS - left_out, able(world))
        outcome = Chaos(world, seed, SECONDS).run()
        with capsys.disabled():
            print("\n" + outcome.text())
            for reason in world.skipped:
                print(f"left out: {reason}")
        assert outcome.violations == [], "\n".join(outcome.notes)
        assert set(outcome.strikes) == KINDS - left_out
    assert outcome.answered > 20 and outcome.orders > 2
    assert all(outcome.checks[rule] for rule in ("expired", "domain", "lost", "backwards", "healing"))


def test_a_world_that_can_do_less_leaves_out_exactly_that() -> None:
    disks, clocks = LEFT_OUT.values()
    with_disks = replace(ABLE, disks=("hub", "cluster-a"), stores=("cluster-a",))
    without = replace(ABLE, disks=(), caches=(), stores=())
    for can, left_out in (
        (with_disks, set[str]()),
        (replace(with_disks, clocks=()), clocks),
        (without, disks),
        (replace(without, clocks=()), disks | clocks),
    ):
        assert {strike.kind for strike in schedule(0, 600, can)} == KINDS - left_out
    assert seed_of_all(KINDS - disks, without) >= SEED


def test_a_seed_says_everything() -> None:
    assert schedule(7, 60, ABLE) == schedule(7, 60, ABLE) != schedule(8, 60, ABLE)


def test_no_two_faults_strike_the_same_thing_at_once() -> None:
    strikes = schedule(3, 600, ABLE)
    assert len(strikes) > 200
    for one, other in itertools.combinations(strikes, 2):
        if set(one.touches) & set(other.touches):
            assert one.at + one.lasts < other.at or other.at + other.lasts < one.at
    assert {strike.kind for strike in strikes} >= {"cut", "silent up", "kill", "freeze", "full disk", "clock", "orphan"}
    assert all(strike.at + strike.lasts <= 600 for strike in strikes)
