"""How a trust domain stands, as far as its facts tell: the members of `Standing` that come from the evidence store.

standing = Standing(trust_domain, now_ms, **await parts(store, now_ms))
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from trustfed.evidence import tables
from trustfed.evidence.availability import UNKNOWN, availability
from trustfed.evidence.changes import ProbeState, UnknownSerial
from trustfed.evidence.engine import Engine
from trustfed.evidence.figures import class_figures
from trustfed.evidence.inventory import algorithms
from trustfed.evidence.model import BUCKET_MS, COUNTS, FAILED, Class, Level, Obligation, Outcome
from trustfed.evidence.pending import LEVEL_NAMES, Pending, holds
from trustfed.evidence.serials import Slot
from trustfed.evidence.standing import (
    MAX_LISTED,
    Alarm,
    Algorithm,
    Clock,
    Ending,
    Expiry,
    Probe,
    Silent,
    Stage,
    Unknown,
)
from trustfed.evidence.store import EvidenceStore

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
RUNWAY_HOURS = 48
ENDING_SHARE = 0.25
"""Less of its life left than this, and no successor in use: somebody is called."""

OFFSET_MS = 1_000
"""A clock that differs by less does no harm: times of evidence come from the cluster."""

OFFSET_ALARM_MS = 30_000
_MAX_FAILED = 5_000
_UNKNOWN_MS = DAY_MS
_STAGES = (Level.ISSUED, Level.DELIVERED, Level.LOADED, Level.CONFIRMED)


EndOf = Callable[[str], int]
"""When an entry ends, by its id: Unix ms, in whole seconds as the SVIDs have it that end with it; 0: never. Any thread."""


@dataclass
class _Now:
    """What one walk over the engine finds."""

    identities: int = 0
    open: int = 0
    overdue: int = 0
    ending: Counter[int] = field(default_factory=Counter)
    without: Counter[int] = field(default_factory=Counter)
    short: Counter[int] = field(default_factory=Counter)
    endings: list[Ending] = field(default_factory=list)
    clocks: list[Clock] = field(default_factory=list)
    silent: list[Silent] = field(default_factory=list)
    algorithms: tuple[Algorithm, ...] = ()


@dataclass
class _Past:
    """What the tables say."""

    sums: list[int]
    failed: list[Obligation]
    unknown: list[UnknownSerial]
    unknown_count: int
    probes: list[ProbeState]


async def parts(store: EvidenceStore, now_ms: int, end_of: EndOf = lambda _: 0) -> dict[str, Any]:
    """The members by name: all that is counted in identities, obligations, certificates, probes, clocks and silent nodes."""
    now = await store.glance("standing", lambda engine: _walk(engine, now_ms, end_of))
    past = await store.read(lambda connection: _read(connection, now_ms))
    now.endings.sort(key=lambda ending: ending.left)
    return {
        "identities": now.identities,
        "open_obligations": now.open,
        "overdue": now.overdue,
        "coverage": class_figures(past.sums, store.definition).coverage,
        "runway": tuple(Expiry(hour, n, now.without[hour], now.short[hour]) for hour, n in sorted(now.ending.items())),
        "endings": tuple(now.endings[:MAX_LISTED]),
        "endings_count": len(now.endings),
        "funnel": funnel(past.sums, past.failed),
        "unknown": _unknown(past.unknown),
        "unknown_count": past.unknown_count,
        "algorithms": now.algorithms,
        "probes": _probes(past.probes, now_ms),
        "clocks": tuple(sorted(now.clocks, key=lambda clock: -abs(clock.offset_ms))[:MAX_LISTED]),
        "silent": tuple(sorted(now.silent, key=lambda one: one.since_ms)[:MAX_LISTED]),
        "silent_count": len(now.silent),
        "alarms": alarms(now.endings, past.unknown, now.silent, now.clocks, now_ms),
    }


def _walk(engine: Engine, now_ms: int, end_of: EndOf) -> _Now:
    found = _Now(algorithms=algorithms(engine))
    for slot in engine.slots.values():
        if slot.obligations:
            _look(found, slot, now_ms, end_of)
    for few in engine.few.open.values():
        found.open += few.outcome is Outcome.OPEN
    found.clocks = [Clock(node, by, at) for node, (by, at) in engine.offsets.items() if abs(by) >= OFFSET_MS]
    for node, since in engine.silent.items():
        if f"node/{node}" in engine.gone:
            continue
        held = {it.instance for it in engine.by_node.get(node, {}).values() if it.slot == "x509"}
        found.silent.append(Silent(node, since, len(held)))
    return found


def _look(found: _Now, slot: Slot, now_ms: int, end_of: EndOf) -> None:
    newest = slot.obligations[-1]
    if holds(newest, now_ms) and not newest.released_ms and slot.slot == "x509":
        found.identities += 1
        serial = slot.serials.get(newest.predecessor)
        life = newest.hard_ms - serial.not_before_ms if serial is not None else 0
        left = (newest.hard_ms - now_ms) / life if life > 0 else 1.0
        if left < ENDING_SHARE and not _last(newest, end_of):
            level = newest.reached.name.lower()
            found.short[newest.hard_ms - newest.hard_ms % HOUR_MS] += 1
            found.endings.append(
                Ending(newest.spiffe_id, newest.instance, newest.predecessor, newest.hard_ms, round(left, 4), level)
            )
    for it in slot.obligations:
        if it.outcome is Outcome.OPEN:
            found.open += 1
            found.overdue += it.on_time_ms < now_ms and not it.released_ms and not _last(it, end_of)
        if now_ms <= it.hard_ms < now_ms + RUNWAY_HOURS * HOUR_MS and not (it.excused_ms or it.superseded):
            hour = it.hard_ms - it.hard_ms % HOUR_MS
            found.ending[hour] += 1
            found.without[hour] += not it.reached_ms and not it.released_ms and not _last(it, end_of)


def _last(it: Pending, end_of: EndOf) -> bool:
    """Whether nothing can follow, for its entry ends with it: nobody is called for that."""
    return not it.force and it.hard_ms == end_of(it.entry)


def _read(connection: sqlite3.Connection, now_ms: int) -> _Past:
    end = now_ms - now_ms % BUCKET_MS
    sums = [0] * len(COUNTS)
    for (class_, _), row in tables.counters(connection, end - DAY_MS, end).items():
        if class_ in (Class.LEAF, Class.AGENT):
            sums = [total + count for total, count in zip(sums, row, strict=True)]
    marks = ", ".join("?" * len(FAILED))
    failed = connection.execute(
        "SELECT body FROM obligations WHERE on_time >= ? AND on_time < ? AND class IN ('leaf', 'agent')"  # noqa: S608
        f" AND outcome IN ({marks}) LIMIT ?",
        (end - DAY_MS, end, *sorted(one.value for one in FAILED), _MAX_FAILED),
    )
    rows = connection.execute(
        "SELECT body FROM listed WHERE what = 'unknown' ORDER BY n DESC LIMIT ?", (MAX_LISTED,)
    ).fetchall()
    count = connection.execute(
        "SELECT count(*) FROM listed WHERE what = 'unknown' AND at >= ?", (now_ms - _UNKNOWN_MS,)
    ).fetchone()[0]
    return _Past(
        sums,
        [msgspec.json.decode(body, type=Obligation) for (body,) in failed],
        [
            one
            for (body,) in rows
            if (one := msgspec.json.decode(body, type=UnknownSerial)).at_ms >= now_ms - _UNKNOWN_MS
        ],
        int(count),
        tables.probes(connection, now_ms + 1),
    )


def funnel(sums: list[int], failed: list[Obligation]) -> tuple[Stage, ...]:
    """How many of a window's obligations came to each level by their on-time limit, and why failed ones did not come on."""
    counts = dict(zip(COUNTS, sums, strict=True))
    dropped: dict[Level, Counter[str]] = {stage: Counter() for stage in _STAGES}
    for it in failed:
        reached = [level for level in _STAGES if 0 < it.by_level_ms.get(LEVEL_NAMES[level], 0) <= it.on_time_ms]
        best = max(reached, default=Level.REQUESTED)
        wanted = next((stage for stage in _STAGES if stage > best), Level.CONFIRMED)
        dropped[wanted][it.why.rsplit(": ", 1)[-1] or it.outcome.value] += 1
    base = counts["due"] - counts["excused"] - counts["superseded"] - counts["unused"]
    stages = [Stage("due", base, {name: counts[name] for name in ("excused", "superseded", "unused") if counts[name]})]
    for level in _STAGES:
        reasons = dict(dropped[level].most_common(8))
        stages.append(Stage(LEVEL_NAMES[level], counts[LEVEL_NAMES[level]], reasons))
    return tuple(stages)


def _unknown(rows: list[UnknownSerial]) -> tuple[Unknown, ...]:
    return tuple(
        Unknown(
            one.serial,
            one.spiffe_id,
            one.where or one.node,
            "handshake" if one.kind == "handshake" else "held",
            one.at_ms,
            one.at_ms,
        )
        for one in rows[:MAX_LISTED]
    )


def _probes(states: list[ProbeState], now_ms: int) -> tuple[Probe, ...]:
    begin, last = now_ms - 30 * DAY_MS, {}
    for state in states:
        last[state.name] = state
    shares = availability(states, begin, now_ms)
    return tuple(
        Probe(name, state.state == "up", state.at_ms, shares[name].up_share, shares[name].unknown_ms)
        for name, state in sorted(last.items())
        if state.state != UNKNOWN or shares[name].up_ms
    )


def alarms(
    endings: list[Ending], unknown: list[UnknownSerial], silent: list[Silent], clocks: list[Clock], now_ms: int
) -> tuple[Alarm, ...]:
    """What the facts call somebody for, one alarm of each kind with its worst as the subject."""
    found = []
    if endings:
        worst = min(endings, key=lambda ending: ending.left)
        says = f"{_count(len(endings), 'SVID has', 'SVIDs have')} less than a quarter of their life left and no successor in use"
        found.append(Alarm("life_ends", "page", worst.spiffe_id, says, now_ms, "trustfed evidence report"))
    shown = [one for one in unknown if one.kind == "handshake"]
    if shown:
        says = (
            f"{_count(len(shown), 'serial', 'serials')} that this domain never issued"
            f" {'was' if len(shown) == 1 else 'were'} shown in handshakes within a day"
        )
        found.append(Alarm("unknown_serial", "page", shown[0].spiffe_id or shown[0].serial, says, shown[0].at_ms))
    using = [one for one in silent if one.identities]
    if using:
        oldest = min(using, key=lambda one: one.since_ms)
        says = f"{_count(len(using), 'node with SVIDs in use is', 'nodes with SVIDs in use are')} not heard of"
        found.append(Alarm("node_silent", "page", oldest.node, says, oldest.since_ms, "trustfed node list"))
    far = [clock for clock in clocks if abs(clock.offset_ms) >= OFFSET_ALARM_MS]
    if far:
        worst_clock = max(far, key=lambda clock: abs(clock.offset_ms))
        says = f"{_count(len(far), 'clock differs', 'clocks differ')} by 30 s and more, this one by {worst_clock.offset_ms} ms"
        found.append(Alarm("clock_offset", "page", worst_clock.node, says, worst_clock.at_ms, "is NTP running there?"))
    return tuple(found)


def _count(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
