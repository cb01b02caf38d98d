"""What time it is on a machine whose clock is set back, set ahead, or contradicted by its cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.trusted_time import LATEST, Authenticated, TrustedTime
from tests.fakes.clocks import START, ManualClock
from trustfed.errors import NotFound

HOUR = timedelta(hours=1)
FAR = START + timedelta(days=400)


def made(clock: ManualClock, boot_id: str = "boot-1") -> TrustedTime:
    return TrustedTime(clock, clock.monotonic, boot_id)


def test_a_clock_set_back_revives_nothing() -> None:
    clock = ManualClock()
    time = made(clock)
    clock.move(600)
    clock.set_wall(START - timedelta(days=30))
    assert time.now() == START + timedelta(seconds=600)
    clock.move(60)
    assert time.now() == START + timedelta(seconds=660) and time.wall() < START
    assert time.status()["source"] == "floor" and time.status()["ahead_seconds"] > 2_000_000


def test_the_sealed_floor_counts_after_a_restart_and_runs_on() -> None:
    clock = ManualClock(START - timedelta(days=3))
    time = made(clock)
    time.restore(START, None)
    assert time.now() == START
    clock.move(30)
    assert time.now() == START + timedelta(seconds=30)


def test_authenticated_time_counts_on_within_the_same_boot_only() -> None:
    clock = ManualClock(START - timedelta(minutes=10))
    clock.move(100)
    heard = Authenticated(START, 40.0, "boot-1")
    same, other = made(clock), made(clock, "boot-2")
    same.restore(None, heard)
    other.restore(None, heard)
    assert same.now() == START + timedelta(seconds=60) and other.now() == clock.now()
    later = made(clock)
    later.restore(None, Authenticated(START, 500.0, "boot-1"))  # of another life of a clock that began anew
    assert later.now() == clock.now()


@given(st.lists(st.tuples(st.floats(0, 100_000), st.floats(-1e8, 1e8)), max_size=20))
def test_it_never_goes_back_while_the_wall_clock_does_not_jump_ahead(steps: list[tuple[float, float]]) -> None:
    clock = ManualClock()
    time, latest = made(clock), START
    for passed, shift in steps:
        clock.move(passed)
        clock.set_wall(min(clock.now() + timedelta(seconds=shift), START + timedelta(seconds=clock.monotonic())))
        assert time.now() >= latest
        latest = time.now()


def test_a_server_moves_time_by_an_hour_at_most_however_small_its_steps() -> None:
    clock = ManualClock()
    time = made(clock)
    assert time.authenticate(START + HOUR * 0.9, FAR, "a")
    assert time.now() == START + HOUR * 0.9 and time.status()["source"] == "authenticated"
    time.floor()  # what it said is sealed by now, and still no step for the next
    assert not time.authenticate(START + HOUR * 1.8, FAR, "a")
    assert time.now() == START + HOUR * 0.9


def test_servers_at_two_addresses_that_agree_are_believed() -> None:
    clock = ManualClock()
    time, true = made(clock), START + timedelta(days=9)
    assert not time.authenticate(true, FAR, "a")
    clock.move(15)
    assert not time.authenticate(true + timedelta(seconds=15), FAR, "a")
    assert not time.authenticate(true + timedelta(days=5), FAR, "b")
    clock.move(15)
    assert time.authenticate(true + timedelta(days=5, seconds=16), FAR, "c")
    assert time.now() == true + timedelta(days=5, seconds=16)


def test_one_address_is_one_source_however_often_it_connects() -> None:
    clock = ManualClock()
    time, said = made(clock), START + timedelta(days=300)
    for _ in range(5):
        assert not time.authenticate(said, FAR, "10.0.0.1:8443")
    assert time.now() == time.floor() == START and time.status()["claimed"] is not None
    assert time.authenticate(START, FAR, "10.0.0.1:8443")
    assert time.status()["claimed"] is None  # it says otherwise now


def test_where_a_server_and_the_wall_clock_agree_a_time_that_was_ahead_comes_back() -> None:
    """The cluster's clock was 50 minutes ahead for a moment: that is neither known nor sealed for ever."""
    clock = ManualClock()
    time = made(clock)
    assert time.authenticate(START + HOUR * 0.9, FAR, "a")
    sealed, heard = time.floor(), time.heard
    assert sealed == time.now() == START + HOUR * 0.9
    clock.move(15)
    assert time.authenticate(clock.now() + timedelta(seconds=2), FAR, "a")
    assert time.now() == time.floor() == clock.now() + timedelta(seconds=2)
    restarted = made(clock)
    restarted.restore(sealed, heard)
    assert restarted.now() > clock.now() + HOUR * 0.8
    assert restarted.authenticate(clock.now(), FAR, "a")
    assert restarted.now() == restarted.floor() == clock.now()


def test_a_first_start_with_a_clock_that_is_set_right_later_comes_back() -> None:
    clock = ManualClock(START + timedelta(hours=8))  # the hardware clock in local time, before NTP
    time = made(clock)
    assert time.floor() == START + timedelta(hours=8)
    clock.set_wall(START)
    assert time.now() == START + timedelta(hours=8)
    assert time.authenticate(START, FAR, "a") and time.now() == time.floor() == START


def test_neither_the_wall_clock_nor_a_server_alone_brings_time_back() -> None:
    clock = ManualClock()
    time = made(clock)
    time.authenticate(START + HOUR * 0.9, FAR, "a")
    clock.set_wall(START - timedelta(days=2))
    assert time.now() == START + HOUR * 0.9
    assert time.authenticate(START, FAR, "a")  # it is right, and this machine's clock is not
    assert time.now() == time.floor() == START + HOUR * 0.9
    clock.set_wall(START + timedelta(minutes=2))
    assert time.authenticate(START, FAR, "a") and time.now() == START + HOUR * 0.9  # they differ by two minutes


def test_a_wall_clock_that_walks_ahead_raises_the_floor_by_an_hour_at_most() -> None:
    clock = ManualClock()
    time = made(clock)
    time.restore(START, None)
    for _ in range(200):
        clock.set_wall(clock.now() + timedelta(minutes=59))
        time.floor()
    clock.set_wall(START)
    assert time.floor() <= START + HOUR and time.now() <= START + HOUR


@pytest.mark.parametrize("years", [11, 7973])
def test_a_time_far_beyond_is_not_heard_and_a_sealed_one_ends_nothing(years: int) -> None:
    clock, end = ManualClock(), datetime.max.replace(tzinfo=UTC)
    time = made(clock)
    said = START.replace(year=START.year + years)
    assert not time.authenticate(said, end, "a") and not time.authenticate(said, end, "b")
    assert time.status()["claimed"] is None and time.now() == START
    time.restore(end, Authenticated(end, 0.0, "boot-1"))
    clock.move(1000)
    assert time.now() == LATEST == time.floor() and time.now() + timedelta(days=36_500)
    time.reset()
    assert time.now() == clock.now()


def test_a_clock_far_ahead_of_the_floor_at_the_start_is_sealed_once_it_has_run_on() -> None:
    clock = ManualClock(START + timedelta(days=2))  # the machine was off, and is offline
    time = made(clock)
    time.restore(START, None)
    clock.move(3000)
    assert time.floor() == START + timedelta(seconds=3000)
    clock.move(700)
    assert time.floor() == clock.now() == START + timedelta(days=2, seconds=3700)


def test_a_clock_that_was_ahead_at_the_start_and_was_set_is_never_sealed() -> None:
    clock = ManualClock(START + timedelta(hours=8))
    time = made(clock)
    time.restore(START, None)
    clock.move(60)
    time.now()
    clock.set_wall(START + timedelta(seconds=60))
    assert time.now() == START + timedelta(hours=8, seconds=60)  # in this process: a clock set back revives nothing
    for _ in range(100):
        clock.move(60)
        assert time.floor() == clock.now()


def test_where_the_kernel_names_no_boot_its_clock_is_taken_for_another_s() -> None:
    clock = ManualClock()
    clock.move(1_000_000)
    time = made(clock, "")
    time.restore(None, Authenticated(clock.now(), 10.0, ""))
    assert time.now() == clock.now()


def test_the_wall_clock_is_a_second_source() -> None:
    clock = ManualClock()
    time = made(clock)
    time.restore(START - timedelta(days=20), None)
    clock.set_wall(START + timedelta(days=9))
    assert time.authenticate(START + timedelta(days=9, minutes=50), FAR, "a")


def test_no_server_speaks_of_a_time_beyond_the_end_of_its_authority() -> None:
    clock = ManualClock()
    time = made(clock)
    assert not time.authenticate(START + timedelta(minutes=5), START + timedelta(minutes=4), "a")
    assert time.now() == START


def test_an_operator_resets_it_to_the_wall_clock_or_to_the_claim() -> None:
    clock = ManualClock()
    time = made(clock)
    time.restore(START + timedelta(days=700), None)
    assert time.reset() == START == time.now() == time.floor()
    with pytest.raises(NotFound):
        time.reset(to_claim=True)
    time.authenticate(START + timedelta(days=2), FAR, "a")
    assert time.status()["claimed"] is not None
    clock.move(10)
    assert time.reset(to_claim=True) == START + timedelta(days=2, seconds=10) == time.now()


def test_a_clock_wrong_for_a_moment_leaves_no_floor_that_nobody_gets_below() -> None:
    clock = ManualClock()
    time = made(clock)
    time.restore(START, None)
    clock.move(60)
    assert time.floor() == START + timedelta(seconds=60)
    clock.set_wall(START + timedelta(days=20_000))
    assert time.now() == clock.now()
    assert time.floor() == START + timedelta(seconds=60)
    clock.set_wall(START + timedelta(minutes=30))  # an ordinary correction
    assert time.floor() == START + timedelta(minutes=30)
