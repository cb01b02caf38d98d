"""One line per trust domain, the fleet's totals, alarms, pages of failures, and what a search finds. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Protocol

from trustfed.evidence.standing import Alarm, Standing
from trustfed.hub.evidence.failures import Failures
from trustfed.hub.evidence.figures import OBJECTIVE
from trustfed.hub.evidence.views import Age, DomainRow, FailedPage, Failure, Figure, Hit, Of, Raised, Totals

MAX_ALARMS = 1_000
PAGES, FAILING, QUIET, TICKETS, WITHHELD, WELL = range(6)


class Held(Protocol):
    """What a row is made of."""

    owner: str
    simulated: bool
    connected: bool
    heard_ms: int
    standing: Standing | None
    failures: Failures
    alarms: dict[tuple[str, str], Alarm]


def row_of(name: str, held: Held, age: Age, figures: Sequence[Figure]) -> DomainRow:
    """One trust domain in one line, with the worst of it in words."""
    standing = held.standing or Standing(name, 0)
    worst = min((one.headline for one in figures if one.headline is not None), default=None)
    withheld = [one for one in figures if one.withheld and one.counts["due"]]
    lint = [one for one in standing.lint if not one.advice]
    severities = Counter(one.severity for one in (*standing.alarms, *held.alarms.values()))
    pages, tickets = severities["page"], severities["ticket"]
    severity, says = WELL, "well"
    if pages:
        severity, says = PAGES, _first((*held.alarms.values(), *standing.alarms), "page")
    elif worst is not None and worst < OBJECTIVE:
        severity, says = FAILING, f"{worst:.3%} of rotations were on time, {OBJECTIVE:.1%} are promised"
    elif wrong := _wrong(standing):
        severity, says = FAILING, wrong
    elif age.state != "live":
        words = {"stale": "connected, and silent", "away": "not connected", "never": "never heard"}
        severity, says = QUIET, words[age.state]
    elif tickets:
        severity, says = TICKETS, _first((*held.alarms.values(), *standing.alarms), "ticket")
    elif lint:
        codes = list(dict.fromkeys(one.code for one in lint))
        many = "setting that will fail" if len(lint) == 1 else "settings that will fail"
        severity, says = TICKETS, f"{len(lint)} {many}: {', '.join(codes[:3])}"
    elif withheld:
        severity, says = WITHHELD, f"{', '.join(one.class_ for one in withheld)} {withheld[0].why}"
    return DomainRow(
        trust_domain=name,
        owner=held.owner or standing.owner,
        simulated=held.simulated,
        connected=held.connected,
        age=age,
        software=standing.software,
        nodes=standing.nodes,
        nodes_live=standing.nodes_live,
        entries=standing.entries,
        identities=standing.identities,
        open_obligations=standing.open_obligations,
        overdue=standing.overdue,
        coverage=standing.coverage,
        failed=sum(failures_in(one.counts) for one in figures),
        worst=worst,
        withheld=tuple(one.class_ for one in withheld),
        pages=pages,
        tickets=tickets,
        severity=severity,
        says=says,
    )


def _wrong(standing: Standing) -> str:
    """What is wrong with its authorities, whether or not somebody was called for it; "" for nothing."""
    for one in standing.authorities:
        if one.state == "tainted":
            return f"authority {one.id} is tainted, and still trusted"
        if one.waiting_count and 0 < one.activates_by_ms <= standing.as_of_ms:
            return f"authority {one.id} waits for {one.waiting_count} beyond the last safe moment"
    return ""


def worst_first(row: DomainRow) -> tuple[int, int, float, int, str]:
    """The order of rows: what somebody has to look at first."""
    return (row.severity, -row.pages, 1.0 if row.worst is None else row.worst, -row.overdue, row.trust_domain)


def totals_of(rows: Sequence[DomainRow], figures: dict[str, Figure]) -> Totals:
    """The rows added up."""
    states = Counter(row.age.state for row in rows)
    return Totals(
        domains=len(rows),
        connected=sum(row.connected for row in rows),
        stale=states["stale"],
        away=states["away"],
        never=states["never"],
        simulated=sum(row.simulated for row in rows),
        nodes=sum(row.nodes for row in rows),
        nodes_live=sum(row.nodes_live for row in rows),
        entries=sum(row.entries for row in rows),
        identities=sum(row.identities for row in rows),
        open_obligations=sum(row.open_obligations for row in rows),
        overdue=sum(row.overdue for row in rows),
        failed=sum(row.failed for row in rows),
        pages=sum(row.pages for row in rows),
        tickets=sum(row.tickets for row in rows),
        figures=figures,
    )


def alarms(held: Iterable[tuple[str, Held]]) -> list[Raised]:
    """Pages first, then the oldest."""
    found: list[Raised] = []
    for name, one in held:
        found.extend(Of(name, alarm, alarm.since_ms, "hub") for alarm in one.alarms.values())
        if one.standing:
            found.extend(Of(name, alarm, one.standing.as_of_ms, "cluster") for alarm in one.standing.alarms)
    order = {"page": 0, "ticket": 1}
    found.sort(key=lambda one: (order.get(one.what.severity, 2), one.what.since_ms, one.trust_domain))
    return found[:MAX_ALARMS]


def failed(held: Sequence[tuple[str, Held]], class_: str, page: int, size: int) -> FailedPage:
    """One page of the failures of these domains, newest first."""
    total = sum(one.failures.total(class_) for _, one in held)
    summarised: Counter[str] = Counter()
    for _, one in held:
        summarised.update(one.failures.summarised)
    wanted = {key: count for key, count in summarised.items() if not class_ or key.split()[0] == class_}
    pages = max(-(-total // size), 1)
    page = min(page, pages)
    runs = [_run(name, one.failures, class_) for name, one in held if one.failures.total(class_)]
    merged = heapq.merge(*runs, key=lambda one: -(one.what.ended_ms or one.what.on_time_ms))
    return FailedPage(list(islice(merged, (page - 1) * size, page * size)), page, pages, total, wanted)


def find(held: Iterable[tuple[str, Held]], text: str, limit: int) -> list[Hit]:
    """Domains by a part of their name; SPIFFE IDs by a part, serials by their beginning, of all that is listed here."""
    wanted, hits = text.strip().lower()[:2048], dict[Hit, None]()
    if not wanted:
        return []
    told = list(held)
    for name, _ in told:
        if wanted in name:
            hits[Hit("domain", name, name, "fleet")] = None
    for name, one in told:
        if len(hits) >= limit:
            break
        for spiffe_id, serial, where in _names_in(one):
            if spiffe_id and wanted in spiffe_id.lower():
                hits[Hit("spiffe_id", spiffe_id, name, where)] = None
            if serial and len(wanted) >= 4 and serial.startswith(wanted):
                hits[Hit("serial", serial, name, where)] = None
    return list(hits)[:limit]


def _names_in(one: Held) -> Iterable[tuple[str, str, str]]:
    if one.standing:
        yield from ((ending.spiffe_id, ending.serial, "runway") for ending in one.standing.endings)
        yield from ((unknown.spiffe_id, unknown.serial, "unknown") for unknown in one.standing.unknown)
    yield from ((row.spiffe_id, row.predecessor, "failed") for row in one.failures.newest())


def _run(name: str, failures: Failures, class_: str) -> Iterable[Of[Failure]]:
    return (Of(name, row, row.ended_ms) for row in failures.newest(class_))


def _first(found: Iterable[Alarm], severity: str) -> str:
    return min((one for one in found if one.severity == severity), key=lambda one: one.since_ms).says


def failures_in(counts: Mapping[str, int]) -> int:
    """How many of a window failed."""
    return counts["late"] + counts["expired"] + counts["unknown"]
