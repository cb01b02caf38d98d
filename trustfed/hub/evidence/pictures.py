"""Views over the standings of many trust domains: each takes [(domain, standing)] and gives rows, worst first. Pure.

Standings come from clusters and are cut to the worst of each list; the rows here are cut again, so that no page is endless.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from trustfed.evidence.model import Level
from trustfed.evidence.standing import Algorithm, Authority, Ending, Expiry, Stage, Standing, Unknown
from trustfed.hub.evidence.views import Drift, Of, Runway

Told = list[tuple[str, Standing]]
View = Callable[[Told], Any]
MAX_ROWS = 1_000
MAX_ENDINGS = 100
STATES = {"tainted": 0, "retiring": 1, "distributed": 2, "prepared": 3, "active": 4, "removed": 5}


def listed(field: str, order: Callable[[Of[Any]], Any] | None = None) -> View:
    """A view that is one list of each standing."""

    def view(told: Told) -> list[Of[Any]]:
        found = [Of(name, one, standing.as_of_ms) for name, standing in told for one in getattr(standing, field)]
        if order:
            found.sort(key=order)
        return found[:MAX_ROWS]

    return view


def funnel(told: Told) -> list[Stage]:
    """The stages added up."""
    reached: dict[str, int] = defaultdict(int)
    dropped: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for _, standing in told:
        for stage in standing.funnel:
            reached[stage.level] += stage.reached
            for why, count in stage.dropped.items():
                dropped[stage.level][why] += count
    known = {level.name.lower(): level.value for level in Level}
    ordered = sorted(reached, key=lambda level: (known.get(level.lower(), 99), level))
    return [Stage(level, reached[level], _largest(dropped[level])) for level in ordered]


def runway(told: Told) -> Runway:
    """Hours added up; the endings with the least life left."""
    ending: dict[int, int] = defaultdict(int)
    bare: dict[int, int] = defaultdict(int)
    short: dict[int, int] = defaultdict(int)
    for _, standing in told:
        for hour in standing.runway:
            ending[hour.hour_ms] += hour.ending
            bare[hour.hour_ms] += hour.without_successor
            short[hour.hour_ms] += hour.short
    endings: list[Of[Ending]] = [Of(name, one, s.as_of_ms) for name, s in told for one in s.endings]
    worst = heapq.nsmallest(
        MAX_ENDINGS, endings, key=lambda one: (one.what.not_after_ms, one.what.left, one.trust_domain)
    )
    hours = [Expiry(at, ending[at], bare[at], short[at]) for at in sorted(ending)[:MAX_ROWS]]
    return Runway(hours, worst, sum(max(s.endings_count, len(s.endings)) for _, s in told))


def board(told: Told) -> list[Of[Authority]]:
    """Authorities: blocked ones first, then by state and domain."""
    found: list[Of[Authority]] = [Of(name, one, s.as_of_ms) for name, s in told for one in s.authorities]

    def order(one: Of[Authority]) -> tuple[bool, int, str, int]:
        authority = one.what
        blocked = bool(authority.waiting_count or authority.waiting_for or authority.paused)
        return (not blocked, STATES.get(authority.state, 9), one.trust_domain, -authority.since_ms)

    return sorted(found, key=order)[:MAX_ROWS]


def drift(told: Told, published: Mapping[str, tuple[int, int]]) -> list[Drift]:
    """What each consumer holds against what was published, furthest behind first.

    `published` is the hub's own record; a publisher's word of itself counts beside it, and no other domain's does: a consumer
    that names a higher level than was published is itself what is wrong. Of a publisher that neither knows, each consumer is
    held against the newest that it says there is.
    """
    newest = dict(published)
    for name, standing in told:
        for held in standing.held:
            if held.trust_domain == name:
                newest[name] = max(newest.get(name, (0, 0)), (held.newest_epoch, held.newest_sequence))
    found = []
    for name, standing in told:
        for held in standing.held:
            own = held.epoch, held.sequence
            epoch, sequence = newest.get(held.trust_domain) or max(own, (held.newest_epoch, held.newest_sequence))
            ahead = own > (epoch, sequence)
            behind = 0 if ahead else sequence - held.sequence if epoch == held.epoch else -1
            drift = Drift(
                consumer=name,
                publisher=held.trust_domain,
                node=held.consumer if held.consumer != name else "",
                epoch=held.epoch,
                sequence=held.sequence,
                newest_epoch=epoch,
                newest_sequence=sequence,
                behind=behind,
                age_ms=held.age_ms,
                hint_ms=held.hint_ms,
                overdue=bool(held.hint_ms) and held.age_ms > 3 * held.hint_ms,
                as_of_ms=standing.as_of_ms,
                ahead=ahead,
            )
            found.append(drift)
    found.sort(
        key=lambda one: (
            not one.ahead,
            not one.overdue,
            one.behind >= 0,
            -one.behind,
            -one.age_ms,
            one.consumer,
            one.publisher,
        )
    )
    return found[:MAX_ROWS]


def unknown(told: Told) -> list[Of[Unknown]]:
    """Those that a handshake showed first, then the newest."""
    found: list[Of[Unknown]] = [Of(name, one, s.as_of_ms) for name, s in told for one in s.unknown]
    return sorted(found, key=lambda one: (one.what.kind != "handshake", -one.what.last_ms))[:MAX_ROWS]


def algorithms(told: Told) -> list[Algorithm]:
    """Counts added up by purpose, algorithm and custodian, weakest first."""
    counts: dict[tuple[int, str, str, str, bool], int] = defaultdict(int)
    for _, standing in told:
        for one in standing.algorithms:
            counts[one.strength, one.purpose, one.algorithm, one.custodian, one.quantum_safe] += one.count
    return [
        Algorithm(purpose, algorithm, strength, safe, counts[strength, purpose, algorithm, custodian, safe], custodian)
        for strength, purpose, algorithm, custodian, safe in sorted(counts)[:MAX_ROWS]
    ]


def _largest(dropped: dict[str, int]) -> dict[str, int]:
    """The reasons by count; the hundred largest, the rest in one."""
    ordered = sorted(dropped.items(), key=lambda one: -one[1])
    kept = dict(ordered[:100])
    rest = sum(count for _, count in ordered[100:])
    return {**kept, "other": kept.get("other", 0) + rest} if rest else kept
