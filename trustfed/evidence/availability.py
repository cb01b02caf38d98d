"""Probes: up, down or unknown from when on (rule 30). Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trustfed.evidence.changes import ProbeState

UP, DOWN, UNKNOWN = "up", "down", "unknown"


class Availability(msgspec.Struct, frozen=True):
    """Of one probe in one window: unknown counts as down, and is shown beside it."""

    up_share: float
    up_ms: int
    down_ms: int
    unknown_ms: int


class Probes:
    """What each probe said last: gives a state wherever one begins."""

    def __init__(self, last: dict[str, tuple[str, int]] | None = None) -> None:
        self.last = dict(last or {})  # name: state, and when it was last said

    def said(self, name: str, state: str, at: int) -> list[ProbeState]:
        """A probe says that it is up or down; the same again changes nothing."""
        before = self.last.get(name, (UNKNOWN, 0))[0]
        self.last[name] = (state, at)
        return [ProbeState(name, at, state)] if state != before else []

    def gap(self, begin: int, end: int) -> list[ProbeState]:
        """Nobody asked from `begin` to `end`, nor until the next time that a probe says something."""
        states = []
        for name, (state, at) in sorted(self.last.items()):
            if state == UNKNOWN:
                continue
            states.append(ProbeState(name, begin, UNKNOWN))
            if at >= end:  # it has already said so after the gap
                states.append(ProbeState(name, at, state))
            else:
                self.last[name] = (UNKNOWN, begin)
        return states


def availability(states: Iterable[ProbeState], begin: int, end: int) -> dict[str, Availability]:
    """For how much of [begin, end) each probe was up, by name; before its first word it is unknown."""
    names: dict[str, list[ProbeState]] = {}
    for state in states:
        names.setdefault(state.name, []).append(state)
    answer = {}
    for name, said in sorted(names.items()):
        spent = {UP: 0, DOWN: 0, UNKNOWN: 0}
        now, at = UNKNOWN, begin
        for state in sorted(said, key=lambda one: one.at_ms):  # stable: of two at once the later said counts
            until = min(max(state.at_ms, begin), end)
            spent[now] += until - at
            now, at = state.state, until
        spent[now] += max(0, end - at)
        share = round(spent[UP] / (end - begin), 6) if end > begin else 0.0
        answer[name] = Availability(share, spent[UP], spent[DOWN] + spent[UNKNOWN], spent[UNKNOWN])
    return answer
