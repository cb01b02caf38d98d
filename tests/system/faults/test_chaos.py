"""Faults at random, from a seed that does not change, and the schedule that they come from. `make chaos` has new ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.system.faults.chaos import Chaos
from tests.system.faults.schedule import Able, schedule
from tests.system.faults.world import World

SEED, SECONDS, TTL = 8929, 15.0, 12
ABLE = Able(("hub", "a", "b"), ("hub", "cluster-a", "agent-a-node-1"), ("hub",), ("cache-a",), (), ("a",), ("a", "b"))


@pytest.mark.timeout(200)
def test_nothing_is_violated_while_faults_strike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of fault at least once."""
    with World(tmp_path / "c", svid_ttl=TTL, disks=True, clocks=True) as world:
        chaos = Chaos(world, SEED, SECONDS)
        kinds = {strike.kind for strike in schedule(0, 600, chaos.able())}
        outcome = chaos.run()
        with capsys.disabled():
            print("\n" + outcome.text())
            for reason in world.skipped:
                print(f"left out: {reason}")
        assert outcome.violations == [], "\n".join(outcome.notes)
        assert set(outcome.strikes) == kinds or world.skipped
    assert outcome.answered > 20 and outcome.orders > 2
    assert all(outcome.checks[rule] for rule in ("expired", "domain", "lost", "backwards", "healing"))


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
