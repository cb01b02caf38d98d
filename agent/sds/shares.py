"""How many SDS streams, and how much that they ask for by name, one process, one user and all together may have. Pure.

In Kubernetes every sidecar runs as one user (Istio: 1337), so a bound per user alone would let one process deny SDS to all of a
node's. A process may go beyond its share only while its user's budget is at most half used: the other half is for the others.
"""

from __future__ import annotations

from collections import Counter

from agent.peer import Caller
from trustfed.h2grpc.status import Code, Refused

MAX_STREAMS = 2048
MAX_STREAMS_PER_USER = 1024
MAX_STREAMS_PER_PROCESS = 256
MAX_ASKED = 8 * 1024 * 1024
MAX_ASKED_PER_USER = 4 * 1024 * 1024
MAX_ASKED_PER_PROCESS = 1024 * 1024
"""Bytes; a name counts as itself and NAME_COSTS more."""
NAME_COSTS = 1024


class Shares:
    """Who has how much; every `enter` is followed by one `leave`."""

    def __init__(self) -> None:
        self._streams = 0
        self._users: Counter[int] = Counter()
        self._processes: Counter[int] = Counter()
        self._asked: Counter[int] = Counter()
        self._asked_by: Counter[int] = Counter()

    def enter(self, caller: Caller) -> None:
        """Count one more stream. Raises Refused."""
        of_user, own = self._users[caller.uid], self._processes[caller.pid]
        beyond = own >= MAX_STREAMS_PER_PROCESS and of_user >= MAX_STREAMS_PER_USER // 2
        if beyond or self._streams >= MAX_STREAMS or of_user >= MAX_STREAMS_PER_USER:
            raise Refused(
                Code.RESOURCE_EXHAUSTED, "too many SDS streams are open: close some, or ask for more names in one"
            )
        self._streams += 1
        _add(self._users, caller.uid, 1)
        _add(self._processes, caller.pid, 1)

    def leave(self, caller: Caller) -> None:
        """Count one less."""
        self._streams -= 1
        _add(self._users, caller.uid, -1)
        _add(self._processes, caller.pid, -1)

    def ask(self, caller: Caller, more: int) -> None:
        """Count so many bytes more (less, if negative). Raises Refused: some MB of names must not cost the whole node."""
        of_user, own = self._asked[caller.uid] + more, self._asked_by[caller.pid] + more
        if more > 0:
            beyond = own > MAX_ASKED_PER_PROCESS and of_user > MAX_ASKED_PER_USER // 2
            if beyond or of_user > MAX_ASKED_PER_USER or self._asked.total() + more > MAX_ASKED:
                raise Refused(Code.RESOURCE_EXHAUSTED, "the SDS streams of this process or user ask for too many names")
        _add(self._asked, caller.uid, more)
        _add(self._asked_by, caller.pid, more)


def _add(counts: Counter[int], of: int, more: int) -> None:
    counts[of] += more
    if not counts[of]:
        del counts[of]
