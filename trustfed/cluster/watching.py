"""What each event, and time itself, means for the parts of a running cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from uuid import uuid4

from ca.lifecycle import Consumer
from trustfed.cluster import events as e
from trustfed.cluster.authorities import Authorities
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.presence import Presence
from trustfed.cluster.sessions import Sessions
from trustfed.cluster.state import ClusterState
from trustfed.cluster.uplink import Uplink
from trustfed.errors import TrustfedError
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.waiting import news_or_time

log = logs.get("cluster.watching")

_LONGEST_WAIT = 86_400.0
_RETRY_SECONDS = 5.0
_LEVELS_SECONDS = 0.05


class Watching:
    """Follows the journal from the position at which `sessions` was made, so that none misses an event."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        authorities: Authorities,
        presence: Presence,
        sessions: Sessions,
        uplink: Uplink,
        news: HubNews,
        polled_readers: bool,
        clock: Clock,
        also: Callable[[TypedEvent], None] = lambda event: None,
    ) -> None:
        self._also = also
        self._fold, self._authorities, self._presence, self._sessions = fold, authorities, presence, sessions
        self._uplink, self._from_hub, self._polled_readers, self._clock = uplink, news, polled_readers, clock
        self._after = sessions.position
        self._pushed_at = clock.now()
        self._grants_moved = asyncio.Event()
        self._levels_due = False

    async def events(self) -> None:
        """Tell every part what each event means for it; ends only when cancelled."""
        async for position, event in self._fold.subscribe(after=self._after):
            if isinstance(event, e.BundlePublished):
                self._pushed_at = self._clock.now()
            if isinstance(event, e.NodeBanned):
                self._presence.gone(event.name)
            self._sessions.on_event(position, event, self._fold.state)
            self._uplink.on_event(event)
            self._also(event)
            if isinstance(event, e.GrantAccepted | e.GrantConfirmed | e.GrantEnded | e.GrantOffered):
                self._grants_moved.set()
            self._authorities.look()

    async def grant_times(self) -> None:
        """Time ends grants too: at its end one is journalled as ended; at its beginning its bundle goes out."""
        while True:
            now = self._clock.now()
            accepted = [grant for grant in self._fold.state.grants.values() if grant.state == "accepted"]
            wait: float | None = None
            try:
                for grant in accepted:
                    if grant.until <= now:
                        await self._end(e.GrantEnded(grant.id, "time", "its time is over", now))
                ahead = [t for grant in accepted for t in (grant.from_, grant.until) if t > now]
                wait = min((min(ahead) - now).total_seconds() + 0.01, _LONGEST_WAIT) if ahead else None
            except TrustfedError as error:
                log.error("a grant whose time is over is not recorded as ended yet", error=error.message)
                wait = _RETRY_SECONDS
            await news_or_time(self._grants_moved, self._clock, wait)
            begun = [grant.exporter for grant in accepted if now < grant.from_ <= self._clock.now()]
            if begun:
                self._sessions.refresh(begun)
                self._uplink.levels_changed()
                self._authorities.look()

    async def _end(self, ended: e.GrantEnded) -> None:
        await self._fold.execute(
            partial(_end_if_accepted, ended),
            command_id=uuid4().hex,
            actor="cluster",
            reason=ended.reason,
            now=ended.at,
        )

    def consumers(self, now: datetime) -> Sequence[Consumer]:
        """Everyone who must hold an envelope before the authority in it signs."""
        state = self._fold.state
        found = self._presence.consumers(state.trust_domain, now)
        found += self._from_hub.consumers(state, self._uplink.connected_since, now)
        if self._polled_readers:
            pushed = self._from_hub.pushed(self._pushed_at)
            found.append(Consumer("polled readers", state.level, polls_only=True, last_push_at=pushed))
        return found

    def levels_changed(self) -> None:
        """A node holds more, or less. Many at once are looked at once: a look costs what there are nodes."""
        if not self._levels_due:
            self._levels_due = True
            asyncio.get_running_loop().call_later(_LEVELS_SECONDS, self._look_at_levels)

    def _look_at_levels(self) -> None:
        self._levels_due = False
        self._authorities.look()
        self._uplink.levels_changed()


def _end_if_accepted(ended: e.GrantEnded, state: ClusterState) -> list[e.GrantEnded]:
    held = state.grants.get(ended.id)
    return [ended] if held is not None and held.state == "accepted" else []
