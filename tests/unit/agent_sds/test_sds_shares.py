"""One process cannot deny SDS to the others of its user: in Kubernetes all sidecars of a node are one."""

from __future__ import annotations

from typing import Any

import pytest

from agent.sds import shares
from agent.sds.shares import Shares
from trustfed.h2grpc.status import Refused


class Caller:
    """A process, as far as it is counted."""

    def __init__(self, uid: int, pid: int) -> None:
        self.uid, self.pid = uid, pid


def most(take: Any, limit: int = 10_000) -> int:
    """How often `take` is allowed."""
    for count in range(limit):
        try:
            take()
        except Refused:
            return count
    return limit


def test_a_process_with_all_the_streams_it_can_get_leaves_half_to_the_others() -> None:
    counted = Shares()
    greedy: Any = Caller(1337, 1)
    assert most(lambda: counted.enter(greedy)) == shares.MAX_STREAMS_PER_USER // 2
    others: list[Any] = [Caller(1337, pid) for pid in range(2, 202)]
    for other in others:
        for _ in range(2):
            counted.enter(other)
    stranger: Any = Caller(0, 500)
    assert most(lambda: counted.enter(stranger)) == shares.MAX_STREAMS_PER_USER // 2
    for _ in range(shares.MAX_STREAMS_PER_USER // 2 - shares.MAX_STREAMS_PER_PROCESS):
        counted.leave(greedy)
    with pytest.raises(Refused):  # it is at its share, and the others have the rest
        for _ in range(300):
            counted.enter(greedy)
    for other in others:
        counted.leave(other)
        counted.enter(other)


def test_a_process_with_all_the_names_it_can_get_leaves_half_to_the_others() -> None:
    counted, size = Shares(), 64 * 1024
    greedy: Any = Caller(1337, 1)
    assert most(lambda: counted.ask(greedy, size)) == shares.MAX_ASKED_PER_USER // 2 // size
    other: Any = Caller(1337, 2)
    assert most(lambda: counted.ask(other, size)) == shares.MAX_ASKED_PER_PROCESS // size
    counted.ask(other, -size)
    counted.ask(other, size)
    third: Any = Caller(1337, 3)
    counted.ask(third, size)


def test_what_has_left_costs_nothing() -> None:
    counted = Shares()
    caller: Any = Caller(5, 6)
    for _ in range(3):
        counted.enter(caller)
        counted.ask(caller, 99)
        counted.ask(caller, -99)
        counted.leave(caller)
    assert not counted._users and not counted._processes and not counted._asked and not counted._asked_by
