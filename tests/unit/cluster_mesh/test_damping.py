"""Leaving takes several failures and an alternative; returning takes longer each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trustfed.cluster.mesh.damping import DampingRules, Health, judge, restored, returns_in

RULES = DampingRules()


def after(health: Health, answers: str, now: float = 0.0, *, alternative: bool = True, apart: float = 5.0) -> Health:
    """`answers`: one letter for each round, + or -."""
    for number, answer in enumerate(answers):
        health = judge(health, answer == "+", now + number * apart, RULES, alternative=alternative)
    return health


def test_one_failure_is_none() -> None:
    assert after(Health(), "--+--+--+").up
    assert not after(Health(), "---").up


def test_nothing_leaves_without_an_alternative() -> None:
    assert after(Health(), "-" * 1_000, alternative=False).up


def test_it_returns_after_successes_in_a_row_and_a_wait() -> None:
    down = after(Health(), "---")
    assert returns_in(down, down.left_at, RULES) == RULES.hold
    assert not after(down, "++", now=down.left_at + 100).up
    assert not after(down, "+-+-+", now=down.left_at + 100).up
    assert not after(down, "+++", now=down.left_at + 1, apart=1).up
    assert after(down, "+++", now=down.left_at + RULES.hold).up


def test_without_an_alternative_it_returns_at_once() -> None:
    down = after(Health(), "---")
    assert after(down, "+++", now=down.left_at + 1, apart=1, alternative=False).up


def test_each_leaving_makes_the_next_return_later_up_to_a_bound() -> None:
    health, now, waits = Health(), 0.0, []
    for _ in range(12):
        health = after(health, "---", now, apart=1)
        waits.append(returns_in(health, health.left_at, RULES))
        now = health.left_at + waits[-1]
        health = after(health, "+++", now, apart=1)
        assert health.up
        now += 3
    assert waits == sorted(waits)
    assert waits[0] == RULES.hold
    assert waits[4] > 10 * waits[0]
    assert 20 * RULES.hold < waits[-1] <= RULES.longest_hold


def test_the_penalty_is_forgotten_with_time() -> None:
    flapped = Health(penalty=RULES.most_penalty, left_at=0.0)
    long_after = after(flapped, "---", now=20 * RULES.half_life)
    assert returns_in(long_after, long_after.left_at, RULES) < 1.01 * RULES.hold


def test_a_new_process_believes_the_journal_and_waits_once_more() -> None:
    assert restored(True, 5.0).up
    assert returns_in(restored(False, 5.0), 5.0, RULES) == RULES.hold


@given(st.lists(st.booleans(), max_size=600))
def test_however_it_flaps_the_changes_are_bounded(answers: list[bool]) -> None:
    """In 50 minutes of rounds of 5 s: each return waits twice as long as the one before."""
    health, changes = Health(), 0
    for number, ok in enumerate(answers):
        judged = judge(health, ok, number * 5.0, RULES, alternative=True)
        changes += judged.up != health.up
        health = judged
    assert changes <= 16
