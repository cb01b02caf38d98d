"""How it goes with each gateway that is probed, and what follows when a round is over. Pure: no I/O, time is an argument.

A gateway leaves when it failed several times in a row while another of the same domain answered; a weight moves when it has
been wrong for several rounds (trustfed.cluster.mesh.damping, weights). Weights are relative to the fastest gateway among all
domains that offer one host together: their endpoints stand beside each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trustfed.cluster.mesh import weights
from trustfed.cluster.mesh.damping import DampingRules, Health, judge, restored
from trustfed.cluster.mesh.events import GatewayJudged
from trustfed.cluster.mesh.weights import FULL, Held, WeightRules
from trustfed.runtime.pace import Paces

Place = tuple[str, str]
"""Exporter and name of a gateway."""
WEIGHTS_AT_ONCE, WEIGHTS_APART = 3, 600.0
"""So many new weights of one gateway, then one in so many seconds: however its round trips swing."""
LEAVES_AT_ONCE, LEAVES_APART = 64, 120.0
"""So many gateways of one domain may leave, then one in so many seconds: who makes its gateways fail in turn, so that each time
one returns for want of another, would otherwise fill the journal. What may not leave stays in use."""


@dataclass
class Course:
    """One gateway at one address."""

    exporter: str
    name: str
    address: str
    port: int
    health: Health = field(default_factory=Health)
    held: Held = field(default_factory=Held)
    rules: WeightRules = field(default_factory=WeightRules)
    samples: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    typical: float | None = None  # of the last samples, in seconds
    ok: bool | None = None  # the last answer; None: not asked yet
    error: str = ""

    def took(self, seconds: float | None, error: str = "") -> None:
        """The answer of this round: a round trip, or None and why."""
        self.ok, self.error = seconds is not None, error
        if seconds is not None:
            self.samples.append(seconds)
            self.typical = weights.typical(list(self.samples), self.rules)

    @property
    def rtt_us(self) -> int:
        """The median round trip in microseconds; 0 while it is not known."""
        return round(self.typical * 1e6) if self.typical is not None else 0


@dataclass(frozen=True)
class Verdict:
    """What a gateway should be judged as."""

    up: bool
    weight: int
    rtt_us: int


class Courses:
    """All gateways of the exporters that this cluster imports from."""

    def __init__(self, weight_rules: WeightRules | None = None, damping_rules: DampingRules | None = None) -> None:
        self._weights, self._damping = weight_rules or WeightRules(), damping_rules or DampingRules()
        self._courses: dict[Place, Course] = {}
        self._paces = Paces(WEIGHTS_AT_ONCE, WEIGHTS_APART)
        self._leaves = Paces(LEAVES_AT_ONCE, LEAVES_APART)

    def reconcile(
        self, gateways: Mapping[Place, tuple[str, int]], judged: Mapping[Place, GatewayJudged], now: float
    ) -> list[Place]:
        """Follow these gateways and no others; one with another address begins anew. Returns those that are gone."""
        gone = [place for place in self._courses if place not in gateways]
        for place in gone:
            del self._courses[place]
        for place, (address, port) in gateways.items():
            held = self._courses.get(place)
            if held is not None and (held.address, held.port) == (address, port):
                continue
            known = judged.get(place)
            weight, up = (known.weight, known.up or held is not None) if known is not None else (FULL, True)
            self._courses[place] = Course(*place, address, port, restored(up, now), Held(weight), self._weights)
        return gone

    def all(self) -> list[Course]:
        """Every gateway that is followed."""
        return list(self._courses.values())

    def get(self, place: Place) -> Course | None:
        return self._courses.get(place)

    def of(self, exporter: str) -> list[Course]:
        """The gateways of one domain."""
        return [course for course in self._courses.values() if course.exporter == exporter]

    def conclude(self, groups: Iterable[Iterable[str]], now: float) -> dict[Place, Verdict]:
        """What every gateway that answered, or failed, is judged as after a round. `groups`: exporters weighed together."""
        by_exporter: dict[str, list[Course]] = {}
        for course in self._courses.values():
            by_exporter.setdefault(course.exporter, []).append(course)
        for of_one in by_exporter.values():
            self._in_or_out(of_one, now)
        for group in groups:
            self._weigh([course for exporter in group for course in by_exporter.get(exporter, ())], now)
        return {
            (course.exporter, course.name): Verdict(course.health.up, course.held.weight, course.rtt_us)
            for course in self._courses.values()
        }

    def _in_or_out(self, of_one: list[Course], now: float) -> None:
        for course in of_one:
            if course.ok is None:
                continue
            others = any(one is not course and one.health.up and one.ok for one in of_one)
            found = judge(course.health, course.ok, now, self._damping, alternative=others)
            if course.health.up and not found.up and not self._leaves.take(course.exporter, now):
                found = judge(course.health, course.ok, now, self._damping, alternative=False)
            course.health = found
        if not any(course.health.up for course in of_one):
            # The ones that were up have been withdrawn: a probe alone never leaves a domain without a way in.
            for course in [one for one in of_one if one.ok] or of_one:
                course.health = Health()

    def _weigh(self, courses: list[Course], now: float) -> None:
        medians: dict[str, float] = {}
        for number, course in enumerate(courses):
            if course.typical is not None and course.health.up and course.ok:
                medians[str(number)] = course.typical
        for named, want in weights.wanted(medians, self._weights).items():
            course = courses[int(named)]
            settled = weights.settle(course.held, want, self._weights)
            place = f"{course.exporter}/{course.name}"
            if settled.weight == course.held.weight or self._paces.take(place, now):
                course.held = settled


def news(verdicts: Mapping[Place, Verdict], judged: Mapping[Place, GatewayJudged], at: datetime) -> list[GatewayJudged]:
    """The events that bring the journal to these verdicts; a gateway it does not speak of is up and weighs FULL."""
    events = []
    for place, verdict in verdicts.items():
        known = judged.get(place)
        before = (known.up, known.weight) if known is not None else (True, FULL)
        if before != (verdict.up, verdict.weight):
            events.append(GatewayJudged(*place, verdict.up, verdict.weight, verdict.rtt_us, at))
    return events


def groups_of(hosts: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Exporters that offer a host together, directly or through others, from pairs (exporter, host); in order."""
    leader: dict[str, str] = {}

    def find(exporter: str) -> str:
        leader.setdefault(exporter, exporter)
        while leader[exporter] != exporter:
            leader[exporter] = leader[leader[exporter]]
            exporter = leader[exporter]
        return exporter

    first: dict[str, str] = {}
    for exporter, host in hosts:
        own = find(exporter)
        if host in first:
            leader[own] = find(first[host])
        else:
            first[host] = exporter
    groups: dict[str, list[str]] = {}
    for exporter in sorted(leader):
        groups.setdefault(find(exporter), []).append(exporter)
    return [groups[name] for name in sorted(groups)]
