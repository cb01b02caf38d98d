"""What the hub itself raises alarms on, looked at every fifteen seconds: burning error budgets, silence, lives that end,
bundles that are old, serials that nobody issued, rollovers that are stuck. Log keys and logs are the witness's; a cluster says
its own in its standing.

An alarm is one (domain, code, subject) as long as it stands; `told` gets those that began and those that are over.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from datetime import timedelta
from typing import Protocol

from trustfed.evidence import rollovers
from trustfed.evidence.model import FEW
from trustfed.evidence.standing import Alarm
from trustfed.hub.evidence.burn import MINUTES, burning, shares
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.series import bucket_of
from trustfed.hub.evidence.views import Raised
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry

EVERY_SECONDS, BURN_SECONDS = 15.0, 60.0
LEFT = 0.25
RECENT_MS = 24 * 60 * 60 * 1000
MAX_PER_DOMAIN = 20
"""Alarms of one kind and domain. A cluster that raises one over all of a kind itself is not repeated."""
MAX_SERIES = 20_000
CODES = ("burn_fast", "burn_slow", "burn_ticket", "silent", "life_ends", "bundle_old", "unknown_serial", rollovers.CODE)
_log = logs.get("hub.evidence.alerts")


class Told(Protocol):
    """Who hears of alarms."""

    async def news(self, standing: list[Raised]) -> None:
        """These stand now, in order; those that were told before and are missing are over."""


class Alerts:
    """`run` looks again and again; `look` once."""

    def __init__(self, fleet: Fleet, clock: Clock, registry: Registry, silence: timedelta, told: Told | None) -> None:
        self._fleet, self._clock, self._told = fleet, clock, told
        self._silence_ms = int(silence.total_seconds() * 1000)
        self._started_ms = fleet.now_ms
        self._longest: dict[tuple[str, str], tuple[int, dict[str, float]]] = {}
        """The window that costs most to sum, once every five minutes."""
        self._burned: dict[str, tuple[float, list[Alarm]]] = {}
        self._shares = registry.gauge(
            "hub_fleet_failed_share",
            "Share of rotations that failed, of those whose on-time limit falls into the window.",
            ("trust_domain", "class", "window"),
            limit=MAX_SERIES,
        )
        self._ended = registry.gauge(
            "hub_fleet_alarms", "Alarms that stand, the clusters' own included.", ("severity",)
        )
        self._shown: dict[str, set[str]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except Exception as error:  # the next look may do better; nobody else would raise these alarms
                _log.exception("alarms could not be looked at", error)
            await self._clock.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Raise what is so, calm what is over, and tell both."""
        for number, domain in enumerate(self._fleet.names):
            self._domain(domain)
            if number % 5 == 4:
                await asyncio.sleep(0)  # a fleet of hundreds is looked at in turns with everything else
        for domain in set(self._shown) - set(self._fleet.names):
            self._burned.pop(domain, None)
            for class_ in self._shown.pop(domain):
                self._longest.pop((domain, class_), None)
                for window in MINUTES:
                    self._shares.remove(trust_domain=domain, **{"class": class_}, window=window)
        standing = self._fleet.alarms()
        for severity in ("page", "ticket"):
            self._ended.set(sum(one.what.severity == severity for one in standing), severity=severity)
        if self._told is not None:
            await self._told.news([one for one in standing if not self._simulated(one.trust_domain)])

    def _domain(self, domain: str) -> None:
        found = {(one.code, one.subject): one for one in self._found(domain)}
        held = self._fleet.held(domain).alarms
        for code, subject in list(held):
            if code in CODES and (code, subject) not in found:
                self._fleet.calm(domain, code, subject)
        for key, alarm in found.items():
            since = held[key].since_ms if key in held else alarm.since_ms
            self._fleet.alarm(domain, Alarm(alarm.code, alarm.severity, alarm.subject, alarm.says, since, alarm.hint))

    def _found(self, domain: str) -> Iterator[Alarm]:
        now = self._clock.monotonic()
        if domain not in self._burned or now - self._burned[domain][0] >= BURN_SECONDS:
            self._burned[domain] = (now, list(self._burning(domain)))
        yield from self._burned[domain][1]
        yield from self._silent(domain)
        standing, now = self._fleet.standing(domain), self._fleet.now_ms
        if standing is None:
            return
        said = {one.code for one in standing.alarms}
        endings = [one for one in standing.endings if one.left < LEFT and one.not_after_ms > now]
        for ending in endings[:MAX_PER_DOMAIN] if "life_ends" not in said else ():
            says = f"{ending.spiffe_id} has {ending.left:.0%} of its life left, and no successor in use"
            yield Alarm(
                "life_ends", "page", f"{ending.instance} {ending.serial}", says, now, f"it is at {ending.level}"
            )
        for held in standing.held:
            told = "bundle_old" in said and held.consumer == domain
            if held.hint_ms and held.age_ms > 3 * held.hint_ms and not told:
                subject = f"{held.trust_domain} at {held.consumer}"
                says = f"the bundle of {held.trust_domain} was last confirmed {held.age_ms // 1000} s ago"
                yield Alarm("bundle_old", "page", subject, says, now, f"its hint says every {held.hint_ms // 1000} s")
        unknown = [one for one in standing.unknown if one.kind == "handshake" and now - one.last_ms < RECENT_MS]
        for one in unknown[:MAX_PER_DOMAIN] if "unknown_serial" not in said else ():
            says = f"a handshake at {one.where} showed serial {one.serial}, which was never issued"
            yield Alarm("unknown_serial", "page", one.serial, says, one.first_ms, one.spiffe_id)
        if rollovers.CODE not in said:  # its cluster is older, or away: the moment comes nearer all the same
            yield from rollovers.stuck(standing.authorities, now)[:MAX_PER_DOMAIN]

    def _burning(self, domain: str) -> Iterator[Alarm]:
        now, shown = bucket_of(self._fleet.now_ms), self._shown.setdefault(domain, set())
        for class_ in self._fleet.held(domain).series:
            if class_ in FEW:
                continue
            at, longest = self._longest.get((domain, class_), (0, {}))
            sums = functools.partial(self._fleet.sums, domain, class_)
            found = shares(sums, now, longest if at == now else None)
            self._longest[domain, class_] = (now, {"3d": found["3d"]})
            shown.add(class_)
            if not self._simulated(domain):
                for window, share in found.items():
                    self._shares.set(share, trust_domain=domain, **{"class": class_}, window=window)
            for burn in burning(found):
                both = f"{found[burn.long]:.2%} in {burn.long}, {found[burn.short]:.2%} in {burn.short}"
                says = f"of the {class_} rotations that were due, so many failed: {both}"
                hint = f"{burn.share:.2%} is what the objective of 99.9 % stands for so long"
                yield Alarm(burn.code, burn.severity, class_, says, self._fleet.now_ms, hint)

    def _silent(self, domain: str) -> Iterator[Alarm]:
        held, now = self._fleet.held(domain), self._fleet.now_ms
        heard = max(held.heard_ms, self._started_ms if not held.heard_ms else 0)
        if now - max(heard, held.known_ms) > self._silence_ms:
            says = "nothing is heard of its cluster" if held.heard_ms else "its cluster has never told its evidence"
            severity = "page" if held.heard_ms else "ticket"
            yield Alarm("silent", severity, domain, says, heard or now, "is it running, and does it reach the hub?")

    def _simulated(self, domain: str) -> bool:
        if domain not in self._fleet.names:
            return False
        return self._fleet.held(domain).simulated
