"""One timer for all deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from trustfed.h2grpc.deadlines import Deadlines


class Clock:
    """An event loop of which only time and timers matter."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, act: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, act))
        return self.timers[-1]

    def call_soon(self, act: Callable[[], None]) -> None:
        act()

    def pass_to(self, now: float) -> None:
        while due := [timer for timer in self.timers if not timer.cancelled and timer.when <= now]:
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            self.now = max(self.now, first.when)
            first.act()
        self.now = now

    @property
    def waiting(self) -> int:
        return sum(not timer.cancelled for timer in self.timers)


class Timer:
    def __init__(self, when: float, act: Callable[[], None]) -> None:
        self.when, self.act, self.cancelled = when, act, False

    def cancel(self) -> None:
        self.cancelled = True


class One:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ended: list[float] = []

    def late(self) -> None:
        self.ended.append(self.clock.now)


def _deadlines(clock: Any) -> Deadlines:
    loop: asyncio.AbstractEventLoop = clock
    return Deadlines(loop)


def test_each_ends_soon_after_its_deadline_and_never_before() -> None:
    clock = Clock()
    deadlines = _deadlines(clock)
    whens = [1005.0, 1001.003, 1001.004, 1002.0, 1000.0, 9000.0]
    members = [One(clock) for _ in whens]
    for member, when in zip(members, whens, strict=True):
        deadlines.add(member, when)
    clock.pass_to(10_000.0)
    for member, when in zip(members, whens, strict=True):
        assert len(member.ended) == 1
        assert 0 <= member.ended[0] - when <= 0.02
    assert clock.waiting == 0


def test_what_was_dropped_is_not_ended() -> None:
    clock = Clock()
    deadlines = _deadlines(clock)
    gone, stays = One(clock), One(clock)
    tick = deadlines.add(gone, 1001.0)
    deadlines.add(stays, 1001.0)
    deadlines.drop(gone, tick)
    deadlines.drop(gone, tick)
    clock.pass_to(1002.0)
    assert (gone.ended, len(stays.ended)) == ([], 1)
    deadlines.drop(stays, tick)


def test_many_short_calls_keep_one_timer_and_no_heap() -> None:
    clock = Clock()
    deadlines = _deadlines(clock)
    for number in range(20_000):
        member = One(clock)
        deadlines.drop(member, deadlines.add(member, 1010.0 + number * 7.3))
    assert clock.waiting == 1
    assert len(deadlines._ticks) == 0
    assert len(deadlines._order) < 2000


def test_a_deadline_of_many_years_is_taken() -> None:
    clock = Clock()
    deadlines = _deadlines(clock)
    member = One(clock)
    deadlines.add(member, clock.now + 99_999_999 * 3600.0)
    assert max(timer.when for timer in clock.timers) <= clock.now + 3601
    clock.pass_to(clock.now + 8000.0)
    assert member.ended == []
    assert clock.waiting == 1
    deadlines.close()
    assert clock.waiting == 0
