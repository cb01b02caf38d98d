"""Watches how long ago each foreign bundle was confirmed: says once, in the log, what became STALE, CLOSED, or good again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from agent.freshness import State
from agent.store import Store
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import TrustDomain

log = logs.get("agent.closing")

_LOOK_SECONDS = 30.0
_LEAST_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Standing:
    """How the foreign bundles stand: how many in each state, and the age in seconds of the oldest confirmation."""

    fresh: int = 0
    stale: int = 0
    closed: int = 0
    oldest_seconds: float = 0.0


class Closing:
    """`run` ends only when cancelled. What is CLOSED vanishes from the answers by the store itself, at its moment."""

    def __init__(self, store: Store, clock: Clock, registry: Registry) -> None:
        self._store, self._clock = store, clock
        self._said: dict[TrustDomain, State] = {}
        self._news = asyncio.Event()
        self._looked = clock.now()
        store.on_change(self._news.set)
        registry.gauge("agent_bundles_stale", "foreign bundles that nobody confirmed within their refresh hint").read(
            lambda: self.standing().stale
        )
        registry.gauge("agent_bundles_closed", "foreign bundles not used any more: not confirmed for too long").read(
            lambda: self.standing().closed
        )
        registry.gauge("agent_bundle_age_seconds", "since the last confirmation of the oldest foreign bundle").read(
            lambda: self.standing().oldest_seconds
        )

    def standing(self) -> Standing:
        """How they stand now."""
        now, counts, oldest = self._clock.now(), dict.fromkeys(State, 0), 0.0
        for domain in self._store.bundles:
            found = self._store.fresh.of(domain, now)
            if found is not None:
                counts[found.state] += 1
                oldest = max(oldest, (now - found.confirmed_at).total_seconds())
        return Standing(counts[State.FRESH], counts[State.STALE], counts[State.CLOSED], oldest)

    async def run(self) -> None:
        """Look whenever a state changes, or a bundle."""
        while True:
            now = self._clock.now()
            self.look(now)
            wait = (self._store.fresh.next - now).total_seconds()
            await news_or_time(self._news, self._clock, min(max(wait, _LEAST_SECONDS), _LOOK_SECONDS))

    def look(self, now: datetime) -> None:
        """Close and open what is due, and say what is new."""
        store = self._store
        # Where time was brought back (agent.trusted_time), what it had closed too early is looked at again.
        if store.fresh.due(now) or now < self._looked:
            store.judge(now)
        self._looked = now
        for domain in [domain for domain in self._said if domain not in store.bundles]:
            del self._said[domain]
        for domain in store.bundles:
            found = store.fresh.of(domain, now)
            if found is None or found.state is self._said.get(domain, State.FRESH):
                continue
            self._said[domain] = found.state
            facts = {
                "trust_domain": str(domain),
                "confirmed_at": found.confirmed_at.isoformat(),
                "closes_at": found.closes_at.isoformat(),
            }
            if found.state is State.CLOSED:
                log.error("bundle CLOSED: its trust domain is not believed until it is confirmed", **facts)
            elif found.state is State.STALE:
                log.warning("bundle STALE: nobody confirms it; it is used until it closes", **facts)
            else:
                log.info("bundle FRESH again", **facts)
