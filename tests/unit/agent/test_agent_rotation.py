"""Rotation: half life with jitter, backoff that leaves room before the end, batches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from agent import rotation
from agent.rotation import Slot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
chances = st.floats(0, 1, exclude_max=True)
lives = st.timedeltas(timedelta(seconds=2), timedelta(days=30))


@given(lives, chances)
def test_due_at_half_life_give_or_take_a_tenth(life: timedelta, chance: float) -> None:
    slot = rotation.after_issue(NOW, NOW + life, lambda: chance)
    assert life * 0.449 <= slot.due - NOW <= life * 0.551 and slot.end == NOW + life


@given(lives, st.lists(chances, min_size=40, max_size=40))
def test_many_tries_fit_before_the_end_however_long_it_fails(life: timedelta, luck: list[float]) -> None:
    slot = rotation.after_issue(NOW, NOW + life, lambda: luck[0])
    tries = 0
    for chance in luck:
        slot, before = rotation.after_failure(slot, slot.due, "away", lambda c=chance: c), slot.due
        assert slot.due > before
        if slot.due >= NOW + life:
            break
        tries += 1
    assert tries >= 5


@given(st.integers(0, 60), chances)
def test_without_an_svid_the_pause_is_bounded(tries: int, chance: float) -> None:
    slot = rotation.after_failure(Slot(NOW, None, tries), NOW, "away", lambda: chance)
    assert timedelta(0) < slot.due - NOW <= timedelta(minutes=1)


def test_forced_comes_within_the_spread_but_never_later_than_it_was_due() -> None:
    late, soon = Slot(NOW + timedelta(hours=1)), Slot(NOW + timedelta(seconds=1))
    spread = timedelta(minutes=5)
    assert rotation.forced(late, NOW, spread, lambda: 0.5).due == NOW + spread / 2
    assert rotation.forced(soon, NOW, spread, lambda: 0.5) == soon


def test_batch_takes_what_is_nearly_due_along_and_the_neediest_first() -> None:
    slots = {
        "later": Slot(NOW + timedelta(minutes=1), NOW + timedelta(hours=1)),
        "soon": Slot(NOW + timedelta(milliseconds=500), NOW + timedelta(minutes=9)),
        "due": Slot(NOW, NOW + timedelta(hours=1)),
        "new": Slot(NOW),
        "busy": Slot(NOW),
    }
    assert rotation.batch(slots, NOW, {"busy"}) == ["new", "soon", "due"]
    assert rotation.batch({"soon": slots["soon"]}, NOW, ()) == []
    assert len(rotation.batch({str(n): Slot(NOW) for n in range(700)}, NOW, ())) == rotation.BATCH


def test_next_moment_is_a_due_time_or_an_end() -> None:
    slots = {"a": Slot(NOW + timedelta(hours=2), NOW + timedelta(hours=1)), "b": Slot(NOW + timedelta(hours=3))}
    assert rotation.next_moment(slots, ()) == NOW + timedelta(hours=1)
    assert rotation.next_moment({}, ()) is None


def test_what_ends_with_its_entry_is_never_due_until_the_entry_ends_at_another_time() -> None:
    end, chance = NOW + timedelta(hours=1), lambda: 0.5
    half = rotation.after_issue(NOW, end, chance, end + timedelta(seconds=1))
    assert half.due == NOW + timedelta(minutes=30)
    last = rotation.after_issue(NOW, end, chance, end + timedelta(milliseconds=999))
    assert last == Slot(rotation.NEVER, end)
    assert rotation.batch({"e": last}, end, ()) == [] and rotation.next_moment({"e": last}, ()) == end
    assert rotation.forced(last, NOW, timedelta(0), chance).due == NOW
    later = NOW + timedelta(minutes=10)
    outliving = rotation.after_issue(NOW, end, chance, later)
    assert outliving == Slot(NOW + timedelta(minutes=5), end), "it is served until its entry ends"
    assert rotation.reviewed(outliving, NOW, later, NOW + timedelta(minutes=1), chance) == outliving
    assert rotation.after_issue(NOW, end, chance, NOW - timedelta(minutes=1)) == Slot(NOW, end)
    assert rotation.reviewed(last, NOW, later, NOW, chance) == Slot(NOW + timedelta(minutes=5), end)
    for ends, due in ((end, rotation.NEVER), (None, half.due), (end + timedelta(hours=1), half.due), (later, later)):
        assert rotation.reviewed(last, NOW, ends, later, chance) == Slot(due, end), ends
    gone = Slot(rotation.NEVER)
    assert rotation.reviewed(gone, NOW, end, end, chance) == gone
    assert rotation.reviewed(gone, NOW, None, end, chance) == Slot(end)
    failing = Slot(NOW + timedelta(minutes=20), end, 3, "away")
    assert rotation.reviewed(failing, NOW, later, later, chance) == failing
