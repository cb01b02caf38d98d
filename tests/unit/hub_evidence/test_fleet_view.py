"""The fleet as it is shown: figures, worst first, ages, pages, changes; all of it without any stream."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from tests.fakes.clocks import ManualClock
from tests.unit.hub_evidence.evidence_house import row
from trustfed.errors import Invalid, NotFound
from trustfed.evidence.model import BUCKET_MS, COUNTS, Class
from trustfed.evidence.standing import (
    Alarm,
    Algorithm,
    Authority,
    Ending,
    Expiry,
    Finding,
    Held,
    Stage,
    Standing,
    Unknown,
)
from trustfed.hub.evidence.failures import MAX_FAILED
from trustfed.hub.evidence.fleet import STALE_MS, Fleet
from trustfed.hub.evidence.views import Failure

HOUR = 12


def failure(number: int, class_: str = "leaf", outcome: str = "late", name: str = "a") -> Failure:
    return Failure(
        f"{number:032x}",
        class_,
        f"spiffe://{name}/w{number}",
        "n/e",
        "x509",
        f"{number:032x}",
        outcome,
        "",
        1,
        2,
        number,
    )


def test_a_headline_is_what_was_on_time_of_what_was_due(fleet: Fleet) -> None:
    now = fleet.now_ms
    fleet.tell_counters("a", [row(at_ms=now, due=1000, on_time=990, late=4, excused=2, superseded=1, unused=3)])
    figure = fleet.cell("a", "leaf")
    assert figure.headline == 990 / 994
    assert figure.with_unused == 990 / 997
    assert figure.low is not None and figure.high is not None and figure.low < 990 / 994 < figure.high
    assert figure.to_ms == now // BUCKET_MS * BUCKET_MS
    assert figure.counts["late"] == 4


def test_what_is_not_due_yet_counts_once_its_limit_has_passed(fleet: Fleet, clock: ManualClock) -> None:
    fleet.tell_counters(
        "a", [row(ago=-1, at_ms=fleet.now_ms, due=1, open=1), row(at_ms=fleet.now_ms, due=1, on_time=1)]
    )
    assert fleet.cell("a", "leaf").headline == 1.0
    clock.move(600)
    assert fleet.cell("a", "leaf").headline == 0.5  # open beyond its limit: not on time, whatever becomes of it


def test_few_withheld_and_nothing_due_give_no_percentage(fleet: Fleet) -> None:
    now = fleet.now_ms
    fleet.tell_counters("a", [row("root", at_ms=now, due=1, on_time=1), row(at_ms=now, due=10, on_time=10)])
    assert (fleet.cell("a", "root").few, fleet.cell("a", "root").headline) == (True, None)
    assert (fleet.cell("a", "agent").headline, fleet.cell("a", "agent").why) == (None, "nothing was due")
    fleet.tell_standing("a", Standing("a", now, coverage=0.9))
    assert (fleet.cell("a", "leaf").withheld, fleet.cell("a", "leaf").headline) == (True, None)
    fleet.tell_standing("a", Standing("a", now, coverage=0.99))
    assert fleet.cell("a", "leaf").headline == 1.0


def test_the_window_moves_and_a_bucket_told_again_replaces_itself(fleet: Fleet, clock: ManualClock) -> None:
    old = row(at_ms=fleet.now_ms, due=5, on_time=5)
    fleet.tell_counters("a", [old])
    fleet.tell_counters("a", [(old[0], old[1], row(at_ms=0, due=5, on_time=4, late=1)[2])])
    assert fleet.cell("a", "leaf").counts["on_time"] == 4
    for _ in range(31):  # day by day, as a process lives through it
        clock.move(86_400)
        fleet.cell("a", "leaf")
    assert fleet.cell("a", "leaf").counts["due"] == 0


def test_merged_hours_keep_the_sum_and_refuse_what_comes_too_late(fleet: Fleet, clock: ManualClock) -> None:
    rows = [row(ago=ago, at_ms=fleet.now_ms, due=2, on_time=2) for ago in range(1, 25)]
    fleet.tell_counters("a", rows)
    series = fleet.held("a").series["leaf"]
    clock.move(5 * 86_400)
    assert series.compact(fleet.now_ms // BUCKET_MS) == []
    assert series.sum(0, fleet.now_ms // BUCKET_MS)[0] == 48
    assert fleet.tell_counters("a", [rows[3]]) == 1
    assert fleet.cell("a", "leaf").counts["due"] == 48
    clock.move(40 * 86_400)
    gone = series.compact(fleet.now_ms // BUCKET_MS)
    assert sum(counts[0] for _, counts, _ in gone) == 48


def test_unsettled_hours_are_corrected_after_three_days(fleet: Fleet, clock: ManualClock) -> None:
    was = row(at_ms=fleet.now_ms, due=3, on_time=2, unknown=1)
    fleet.tell_counters("a", [was])
    clock.move(10 * 86_400)
    fleet.held("a").series["leaf"].compact(fleet.now_ms // BUCKET_MS)
    assert fleet.tell_counters("a", [(was[0], was[1], row(at_ms=0, due=3, on_time=3)[2])]) == 0
    assert fleet.cell("a", "leaf").headline == 1.0


@pytest.mark.parametrize("counts", [[-1], [10**9]])
def test_impossible_counts_are_refused(fleet: Fleet, counts: list[int]) -> None:
    with pytest.raises(Invalid, match="is not between"):
        fleet.tell_counters("a", [("leaf", fleet.now_ms, counts)])
    with pytest.raises(Invalid, match="there is no class"):
        fleet.tell_counters("a", [("twig", fleet.now_ms, [1])])


def test_domains_stand_worst_first(fleet: Fleet) -> None:
    now = fleet.now_ms
    for name in ("well", "late", "paged", "away", "never"):
        fleet.know(name, owner=f"team-{name}")
    for name in ("well", "late", "paged", "away"):
        fleet.stream(name, name != "away", now)
        fleet.tell_standing(name, Standing(name, now))
        fleet.tell_counters(name, [row(at_ms=now, due=100, on_time=100)])
    fleet.tell_counters("late", [row(at_ms=now, due=100, on_time=90, late=10)])
    fleet.alarm("paged", Alarm("fork", "page", "log", "another past", now))
    assert [one.trust_domain for one in fleet.domains()] == ["paged", "late", "away", "never", "well"]
    assert [one.severity for one in fleet.domains()] == [0, 1, 2, 2, 5]
    assert fleet.domain("late").failed == 10 and fleet.domain("late").worst == 0.9
    totals = fleet.totals()
    assert (totals.domains, totals.connected, totals.away, totals.never, totals.pages) == (5, 3, 1, 1, 1)
    assert totals.figures["leaf"].headline == 390 / 400
    with pytest.raises(NotFound, match="not registered"):
        fleet.domain("nowhere")


ADVICE = Finding("no-witness", "x", "no auditor holds checkpoints", "evidence.witness_directory", advice=True)


def test_only_what_nothing_is_wrong_with_is_well(fleet: Fleet) -> None:
    now, held = fleet.now_ms, Authority("a1", "x509", "active", "ec", "file", 0, 9, 0)
    late = msgspec.structs.replace(held, state="prepared", waiting_count=2, activates_by_ms=now)
    said = {
        "tainted": {"authorities": (msgspec.structs.replace(held, state="tainted"),)},
        "stuck": {"authorities": (held, late)},
        "lint": {"lint": (Finding("short", "x", "it is short", ""), ADVICE)},
        "advised": {"lint": (ADVICE,)},
        "dark": {"coverage": 0.5},
        "fine": {"authorities": (held,)},
    }
    for name, fields in said.items():
        fleet.stream(name, True, now)
        fleet.tell_standing(name, Standing(name, now, **fields))  # type: ignore[arg-type]
        fleet.tell_counters(name, [row(at_ms=now, due=100, on_time=100)])
    rows = {one.trust_domain: one for one in fleet.domains()}
    assert list(rows) == ["stuck", "tainted", "lint", "dark", "advised", "fine"]
    assert [one.severity for one in rows.values()] == [1, 1, 3, 4, 5, 5]
    assert rows["advised"].says == "well"
    assert rows["dark"].withheld == ("leaf",) and "withheld: coverage 50.0%" in rows["dark"].says
    assert (
        "tainted" in rows["tainted"].says
        and "last safe moment" in rows["stuck"].says
        and rows["lint"].says == "1 setting that will fail: short"
    )


def test_drift_is_held_against_what_was_published_and_never_against_another_consumers_word(fleet: Fleet) -> None:
    fleet.know("p")
    fleet.published("p", 1, 5)
    held = Held("p", "x", 1, 5, 1, 5, 0, 100_000)
    said = {"honest": held, "behind": msgspec.structs.replace(held, sequence=4)}
    said["liar"] = msgspec.structs.replace(held, sequence=9, newest_sequence=9)
    for name, one in said.items():
        fleet.tell_standing(name, Standing(name, fleet.now_ms, held=(one,)))
    found = [(one.consumer, one.behind, one.ahead, one.newest_sequence) for one in fleet.drift()]
    assert found == [("liar", 0, True, 5), ("behind", 1, False, 5), ("honest", 0, False, 5)]
    own = msgspec.structs.replace(held, consumer="node-1", newest_sequence=6)
    fleet.tell_standing("p", Standing("p", fleet.now_ms, held=(own,)))  # the publisher says that it has signed 1.6
    assert [one.newest_sequence for one in fleet.drift()] == [6] * 4


def test_news_get_old(fleet: Fleet, clock: ManualClock) -> None:
    fleet.know("a")
    assert fleet.age("a").state == "never"
    fleet.stream("a", True, fleet.now_ms)
    fleet.tell_standing("a", Standing("a", fleet.now_ms))
    assert (fleet.age("a").state, fleet.age("a").age_ms) == ("live", 0)
    clock.move(STALE_MS / 1000 + 1)
    assert (fleet.age("a").state, fleet.age("a").age_ms) == ("stale", STALE_MS + 1000)
    fleet.stream("a", False, 0)
    assert fleet.age("a").state == "away"


def test_views_add_up_and_put_the_worst_first(fleet: Fleet) -> None:
    now = fleet.now_ms
    active = Authority("a1", "x509", "active", "ec-p256", "file", 0, 0, now)
    blocked = Authority("a2", "x509", "prepared", "ec-p256", "file", 0, 0, now, waiting_for=("b",), waiting_count=1)
    weak, strong = (
        Algorithm("x509-svid", name, bits, False, 3, "memory") for name, bits in (("rsa", 112), ("ec", 128))
    )
    for number, name in enumerate(("a", "b")):
        fleet.tell_standing(
            name,
            Standing(
                name,
                now,
                authorities=(active, blocked) if number else (active,),
                runway=(Expiry(3_600_000, 5, 2, 1),),
                endings=(Ending(f"spiffe://{name}/x", "i", "0" * 32, now + 1000 - number, 0.1, "issued"),),
                endings_count=7,
                funnel=(Stage("due", 10, {}), Stage("delivered", 8, {"no agent": 2})),
                held=(Held("a", name, 1, 4 + number, 1, 5, 400_000 * number, 100_000),),
                unknown=(Unknown("f" * 32, "", "peer", "handshake" if number else "held", 1, 2),),
                algorithms=(strong, weak),
            ),
        )
    runway = fleet.runway()
    assert runway.hours == [Expiry(3_600_000, 10, 4, 2)] and runway.endings_count == 14
    assert [one.trust_domain for one in runway.endings] == ["b", "a"]
    assert fleet.board()[0].what.id == "a2"
    assert [(one.consumer, one.behind, one.overdue) for one in fleet.drift()] == [("b", 0, True), ("a", 1, False)]
    assert fleet.drift("nowhere") == []
    assert fleet.unknown()[0].trust_domain == "b"
    assert [(one.algorithm, one.count) for one in fleet.algorithms()] == [("rsa", 6), ("ec", 6)]
    stages = fleet.funnel()
    assert [(stage.level, stage.reached, stage.dropped) for stage in stages] == [
        ("due", 20, {}),
        ("delivered", 16, {"no agent": 4}),
    ]
    assert len(fleet.funnel("a")) == 2 and fleet.funnel("a")[0].reached == 10
    assert [hit.kind for hit in fleet.find("spiffe://a")] == ["spiffe_id"]
    assert [hit.kind for hit in fleet.find("ffff")] == ["serial", "serial"]
    assert fleet.find("") == []


def test_failures_are_paged_newest_first_and_bounded(fleet: Fleet) -> None:
    fleet.tell_failed("a", [failure(number) for number in range(1, MAX_FAILED + 11)])
    fleet.tell_failed("b", [failure(5, "agent", "unknown", "b")])
    page = fleet.failed(page=1, size=3)
    assert [one.what.ended_ms for one in page.rows] == [510, 509, 508]
    assert (page.total, page.summarised) == (MAX_FAILED + 1, {"leaf late": 10})
    assert [one.trust_domain for one in fleet.failed(class_="agent").rows] == ["b"]
    last = fleet.failed("a", page=9_999, size=100)
    assert (last.page, last.pages, len(last.rows)) == (5, 5, 100)
    fleet.tell_failed("b", [failure(5, "agent", "", "b")])
    assert fleet.failed("b").total == 0


async def test_a_slow_reader_gets_changes_as_one(fleet: Fleet) -> None:
    changes = fleet.subscribe()
    first = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    for number in range(200):
        fleet.know(f"d{number}")
    fleet.tell_standing("d1", Standing("d1", 1))
    change = await first
    assert change.kinds == {"domains", "standing", "alarms"} and change.domains == frozenset()
    fleet.tell_counters("d2", [row(at_ms=fleet.now_ms, due=1)])
    change = await anext(changes)
    assert change.kinds == {"counters"} and change.domains == {"d2"} and change.version == fleet.version
    await changes.aclose()  # type: ignore[attr-defined]


def test_the_first_page_of_a_large_fleet_is_cheap(fleet: Fleet) -> None:
    now = fleet.now_ms
    for number in range(500):
        name = f"cluster-{number:03}.example"
        fleet.know(name)
        fleet.stream(name, True, now)
        fleet.tell_standing(name, Standing(name, now, identities=200, runway=(Expiry(0, 200, 0),)))
        for class_ in ("leaf", "agent"):
            fleet.tell_counters(name, [row(class_, at_ms=now, ago=ago, due=9, on_time=9) for ago in (1, 2, 3)])
    fleet.heatmap()
    begin = time.process_time()
    assert len(fleet.heatmap()) == 500 and fleet.totals().identities == 100_000
    # 20 ms on one core; the bound only says that nothing is counted anew for each reader.
    assert time.process_time() - begin < 1.0


def test_every_class_and_count_has_its_name(fleet: Fleet) -> None:
    fleet.know("a")
    assert len(set(COUNTS)) == len(COUNTS)
    (heat,) = fleet.heatmap()
    assert [cell.class_ for cell in heat.cells] == list(Class)
    assert list(heat.cells[0].counts) == list(COUNTS)


def test_what_agents_call_unused_takes_the_figure_away_not_up(fleet: Fleet) -> None:
    fleet.know("west")
    fleet.tell_standing("west", Standing("west", fleet.now_ms, coverage=1.0))
    fleet.tell_counters("west", [row("leaf", at_ms=fleet.now_ms, due=1_000, on_time=600, unused=400)])
    cell = fleet.cell("west", "leaf")
    assert (cell.headline, cell.withheld, cell.coverage) == (None, True, 0.6)
