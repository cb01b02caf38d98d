"""Glasses that were broken at the hub, as alarms: each stands for a day, also over a restart, for it is read from the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol

from trustfed.evidence.standing import Alarm
from trustfed.hub.state import HubState
from trustfed.journal.approvals import Proposal
from trustfed.journal.approving import BROKEN_STANDS
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms

CODE, LOOK_SECONDS = "glass_broken", 5.0


class Alarming(Protocol):
    """Where alarms are shown (trustfed.hub.evidence.fleet); the domain "" is the hub's own."""

    def alarm(self, domain: str, alarm: Alarm) -> None: ...

    def calm(self, domain: str, code: str, subject: str = "") -> None: ...


class GlassAlarms:
    """`run` beside the doors."""

    def __init__(self, state: Callable[[], HubState], fleet: Alarming, clock: Clock) -> None:
        self._state, self._fleet, self._clock = state, fleet, clock
        self._shown: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await self._clock.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Raise what was broken within a day, and calm what is older."""
        found = {one.id: one for one in broken(self._state(), self._clock.now())}
        for id_ in self._shown - found.keys():
            self._fleet.calm("", CODE, id_)
        for id_ in found.keys() - self._shown:
            one = found[id_]
            says = f"{one.proposed_by} did alone what takes two people: {one.command}: {one.reason}"
            self._fleet.alarm("", Alarm(CODE, "page", id_, says, one.at_ms, "trustfed approval list --broken --hub"))
        self._shown = set(found)


def broken(state: HubState, now: datetime) -> Iterator[Proposal]:
    """What was done alone within the last day."""
    since = to_ms(now - BROKEN_STANDS)
    return (one for one in state.proposals.values() if one.status == "broken" and one.at_ms > since)
