"""By when the hub must be back, lest an authority that the root has not signed has to sign SVIDs; and the alarm about it.

Of what the hub does, issuance needs one thing: the root's signature on each further X.509 authority. The active one and the
one that stands by have it already, so a cluster does without the hub until the last safe moment of the latter. Beyond it
this domain goes on, and readers that anchor at the root, the hub itself among them, no longer find their way to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from ca.lifecycle import AuthorityState, Kind, Policy, Status, last_safe_moment, rollover_at
from trustfed.cluster.state import ClusterState
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.waiting import news_or_time

log = logs.get("cluster.hub_needed")

NEAR = 0.9
"""Of the time from the hub's disappearance to when it is needed: from here on the alarm is an error."""
_LEAST_WAIT, _LONGEST_WAIT = 1.0, 900.0


def hub_needed_by(state: ClusterState, policy: Policy, now: datetime) -> datetime | None:
    """The exact time by which the root must sign again; None while there is no X.509 authority.

    It may have passed: then since when an authority acts without the root's signature. Envelopes of peers do not enter:
    they come from the peers' own endpoints, too.
    """
    own = [a for a in state.authorities.values() if a.kind is Kind.X509 and a.tainted_at is None]
    active = max((a for a in own if a.status is Status.ACTIVE), key=_begun, default=None)
    standby = [a for a in own if a.status is Status.PREPARED and a.intermediate and a.first_level and now < a.not_after]
    last = max(standby, key=lambda a: a.not_after, default=None)
    if active is None:
        return _until(last, policy) if last is not None else None
    if not active.intermediate:
        return _begun(active)
    if last is None or _root_end(active, policy) < rollover_at(active, policy):
        return _until(active, policy)
    return max(_until(active, policy), _until(last, policy))


def alarm(away_since: datetime, needed_by: datetime, now: datetime) -> str:
    """ "" while there is time, "warning" from half of it on, "error" near its end, "over" after it."""
    if now >= needed_by:
        return "over"
    span = needed_by - away_since
    if now >= away_since + span * NEAR:
        return "error"
    return "warning" if now >= away_since + span / 2 else ""


class HubAlarm:
    """Raises the alarm in the log while the hub is away: once per step, and again when the hub left anew."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        policy: Policy,
        connected_since: Callable[[], datetime | None],
        clock: Clock,
    ) -> None:
        self._state, self._policy, self._connected, self._clock = state, policy, connected_since, clock
        self._away_since: datetime | None = None
        self._said = ""
        self._news = asyncio.Event()

    def needed_by(self) -> datetime | None:
        """See `hub_needed_by`."""
        return hub_needed_by(self._state(), self._policy, self._clock.now())

    def status(self) -> dict[str, object]:
        """For `trustfed cluster status`."""
        at = self.needed_by()
        left = (at - self._clock.now()).total_seconds() if at else None
        return {
            "needed_by": at.isoformat() if at else None,
            "needed_in_seconds": round(left) if left is not None else None,
            "alarm": self._level() or None,
        }

    def look(self) -> None:
        """The hub came or went, or an authority moved on."""
        self._news.set()

    async def run(self) -> None:
        """Watch; ends only when cancelled."""
        while True:
            wait = self.check()
            await news_or_time(self._news, self._clock, wait)

    def check(self) -> float:
        """Say what is to be said now; how many seconds until that may change by time alone."""
        now, at, level = self._clock.now(), self.needed_by(), self._level()
        if level and level != self._said and at is not None:
            tell = log.warning if level == "warning" else log.error
            tell(
                "the hub is away" if level != "over" else "the hub is away, and needed",
                needed_by=at.isoformat(),
                away_since=self._away_since.isoformat() if self._away_since else "",
                why="the root must sign the next X.509 authority",
            )
        self._said = level
        if self._away_since is None or at is None:
            return _LONGEST_WAIT
        span = at - self._away_since
        ahead = [t for t in (self._away_since + span / 2, self._away_since + span * NEAR, at) if t > now]
        wait = (min(ahead) - now).total_seconds() if ahead else _LONGEST_WAIT
        return min(max(wait, _LEAST_WAIT), _LONGEST_WAIT)

    def _level(self) -> str:
        now, at = self._clock.now(), self.needed_by()
        if self._connected() is not None:
            self._away_since = None
            return ""
        if self._away_since is None:
            self._away_since = now
        return alarm(self._away_since, at, now) if at is not None else ""


def _begun(authority: AuthorityState) -> datetime:
    return authority.activated_at or authority.not_before


def _root_end(authority: AuthorityState, policy: Policy) -> datetime:
    """When its chain to the root ends, less the margin; never later than its own end."""
    end = authority.intermediate_not_after or authority.not_after
    return authority.not_after if end >= authority.not_after else end - policy.margin


def _until(authority: AuthorityState, policy: Policy) -> datetime:
    return min(last_safe_moment(authority, policy), _root_end(authority, policy))
