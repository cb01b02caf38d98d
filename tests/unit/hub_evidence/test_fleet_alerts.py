"""What the hub raises alarms on, and when they are over."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from tests.fakes.clocks import ManualClock
from tests.unit.hub_evidence.evidence_house import row
from trustfed.evidence.model import COUNTS
from trustfed.evidence.rollovers import stuck
from trustfed.evidence.standing import Alarm, Authority, Clock, Ending, Held, Standing, Unknown, alarm_code
from trustfed.hub.evidence.alerts import Alerts
from trustfed.hub.evidence.burn import burning, shares
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.measures import Measures
from trustfed.hub.evidence.views import Raised
from trustfed.runtime.metrics import Registry


class Heard:
    def __init__(self) -> None:
        self.standing: list[Raised] = []

    async def news(self, standing: list[Raised]) -> None:
        self.standing = standing


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def alerts(fleet: Fleet, clock: ManualClock, heard: Heard) -> Alerts:
    return Alerts(fleet, clock, Registry(), timedelta(minutes=5), heard)


def failing(now: int, minutes: int, share: float, of: int = 10_000) -> dict[str, float]:
    """The shares of a fleet that fails by `share` in the last minutes, and was well before."""

    def sums(begin: int, end: int) -> list[int]:
        bad = range(max(begin, end - minutes // 5), end)
        due = of * (end - begin)
        return [due, due - round(len(bad) * of * share), *[0] * (len(COUNTS) - 2)]

    return shares(sums, now)


@pytest.mark.parametrize(
    ("minutes", "share", "codes"),
    [
        (60, 0.0143, []),
        (60, 0.0145, ["burn_fast"]),
        (5, 0.20, ["burn_fast"]),
        (30, 0.0145, []),
        (360, 0.0061, ["burn_slow"]),
        (360, 0.0059, []),
        (4_320, 0.0011, ["burn_ticket"]),
        (4_320, 0.0009, []),
    ],
)
def test_an_alert_needs_both_of_its_windows(minutes: int, share: float, codes: list[str]) -> None:
    found = failing(1_000_000, minutes, share)
    assert [one.code for one in burning(found)] == codes


def test_a_quiet_window_does_not_burn() -> None:
    assert burning(shares(lambda begin, end: [0] * len(COUNTS), 1_000)) == []


async def test_burning_is_by_the_time_of_the_events_and_ends(
    fleet: Fleet, clock: ManualClock, alerts: Alerts, heard: Heard
) -> None:
    now = fleet.now_ms
    fleet.know("a")
    fleet.stream("a", True, now)
    fleet.tell_counters("a", [row(at_ms=now, ago=ago, due=100, on_time=90, late=10) for ago in range(1, 13)])
    await alerts.look()
    assert {one.what.code for one in heard.standing} == {"burn_fast", "burn_slow", "burn_ticket"}
    clock.move(3600)
    fleet.stream("a", True, fleet.now_ms)
    fleet.tell_counters("a", [row(at_ms=fleet.now_ms, ago=ago, due=100, on_time=100) for ago in range(1, 13)])
    await alerts.look()
    assert {one.what.code for one in heard.standing} == {"burn_ticket"}


async def test_silence_begins_and_ends(fleet: Fleet, clock: ManualClock, alerts: Alerts, heard: Heard) -> None:
    fleet.know("a")
    fleet.know("b")
    fleet.stream("a", True, fleet.now_ms)
    await alerts.look()
    assert heard.standing == []
    clock.move(301)
    await alerts.look()
    assert [(one.trust_domain, one.what.code, one.what.severity) for one in heard.standing] == [
        ("a", "silent", "page"),
        ("b", "silent", "ticket"),
    ]
    fleet.stream("a", True, fleet.now_ms)
    await alerts.look()
    assert [one.trust_domain for one in heard.standing] == ["b"]


async def test_the_pages_of_a_standing(fleet: Fleet, alerts: Alerts, heard: Heard) -> None:
    now = fleet.now_ms
    ending = Ending("spiffe://a/w", "n/e", "0" * 32, now + 60_000, 0.2, "issued")
    half = Ending("spiffe://a/x", "n/f", "1" * 32, now + 60_000, 0.5, "issued")
    old, fresh = Held("b", "a", 1, 1, 1, 1, 301_000, 100_000), Held("c", "a", 1, 1, 1, 1, 299_000, 100_000)
    seen = Unknown("f" * 32, "spiffe://a/y", "10.0.0.1", "handshake", now, now)
    held = Unknown("e" * 32, "", "n", "held", now, now)
    fleet.stream("a", True, now)
    fleet.tell_standing("a", Standing("a", now, endings=(ending, half), held=(old, fresh), unknown=(seen, held)))
    await alerts.look()
    assert [(one.what.code, one.what.subject) for one in heard.standing] == [
        ("life_ends", "n/e " + "0" * 32),
        ("bundle_old", "b at a"),
        ("unknown_serial", "f" * 32),
    ]
    assert {one.what.severity for one in heard.standing} == {"page"}
    fleet.tell_standing("a", Standing("a", now))
    await alerts.look()
    assert heard.standing == []


async def test_a_simulated_domain_is_shown_and_pages_nobody(
    fleet: Fleet, clock: ManualClock, alerts: Alerts, heard: Heard
) -> None:
    fleet.know("demo", simulated=True)
    fleet.stream("demo", True, fleet.now_ms)
    clock.move(400)
    await alerts.look()
    assert [one.what.code for one in fleet.alarms("demo")] == ["silent"]
    assert heard.standing == []


def test_the_metrics_of_the_fleet(fleet: Fleet, clock: ManualClock) -> None:
    registry, now = Registry(), fleet.now_ms
    measures = Measures(fleet, clock, registry)
    for name in ("a", "demo"):
        fleet.know(name, simulated=name == "demo")
        fleet.stream(name, True, now)
        fleet.tell_standing(name, Standing(name, now, coverage=0.97, clocks=(Clock("n", -4_000, now),)))
        fleet.tell_counters(name, [row(at_ms=now, due=4, on_time=3, late=1)])
    measures.update()
    measures.update()
    said = registry.exposition().decode()
    assert 'trustfed_hub_fleet_obligations_total{trust_domain="a",class="leaf",outcome="on_time"} 3' in said
    assert 'trustfed_hub_fleet_rotation_success{trust_domain="a",class="leaf"} 0.75' in said
    assert 'trustfed_hub_fleet_clock_offset_seconds{trust_domain="a"} 4' in said
    assert "demo" not in said
    fleet.forget("a")
    measures.update()
    assert 'hub_fleet_coverage{trust_domain="a"}' not in registry.exposition().decode()


def test_what_is_told_anew_is_no_news(fleet: Fleet, clock: ManualClock) -> None:
    told = row(at_ms=fleet.now_ms, due=4, on_time=3, late=1)
    fleet.tell_counters("a", [told])
    fleet.anew("a")
    fleet.tell_counters("a", [told])
    assert fleet.held("a").ended["leaf", "late"] == 1
    clock.move(1_000)
    fleet.tell_counters("a", [row(at_ms=fleet.now_ms, due=1, late=1)])
    assert fleet.held("a").ended["leaf", "late"] == 2


HOUR_MS = 3_600_000


def successor(**fields: object) -> Authority:
    """Made at 0, with its last safe moment after 100 hours."""
    said = {"id": "x509-2", "kind": "x509", "state": "prepared", "algorithm": "ec-p256", "custodian": "file"}
    times = {"not_before_ms": 0, "not_after_ms": 200 * HOUR_MS, "since_ms": 0, "activates_by_ms": 100 * HOUR_MS}
    return Authority(**{**said, **times, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "hours", "count"),
    [
        ({"waiting_for": ("node a",), "waiting_count": 1}, 74.9, 0),
        ({"waiting_for": ("node a",), "waiting_count": 1}, 75.1, 1),
        ({"waiting_for": ("node a",), "waiting_count": 1, "state": "distributed"}, 101, 1),
        ({"waiting_count": 3, "state": "active"}, 99, 0),
        ({"paused": True}, 80, 1),
        ({"state": "distributed"}, 99, 0),
        ({"state": "distributed"}, 100.1, 1),
        ({"waiting_count": 1, "activates_by_ms": 0}, 99, 0),
        ({"waiting_count": 1, "activates_by_ms": (1 << 53) - 1, "since_ms": -(1 << 53)}, 99, 0),
    ],
)
def test_a_roll_over_is_stuck_when_it_waits_and_its_last_safe_moment_is_near(
    fields: dict[str, object], hours: float, count: int
) -> None:
    found = stuck([successor(**fields)], int(hours * HOUR_MS))
    assert len(found) == count
    for one in found:
        assert (one.code, one.severity, one.subject, one.since_ms) == ("rollover_stuck", "page", "x509-2", 75 * HOUR_MS)


def test_a_stuck_roll_over_says_for_whom_it_waits() -> None:
    names = tuple(f"node {n}" for n in range(9))
    (one,) = stuck([successor(waiting_for=names, waiting_count=40, paused=True)], 80 * HOUR_MS)
    assert one.says == (
        "the x509 rollover is paused and waits for node 0, node 1, node 2, node 3, node 4 and 35 more;"
        " its last safe moment is 1970-01-05T04:00Z"
    )


async def test_a_stuck_roll_over_is_alarmed_once_whoever_says_it(
    fleet: Fleet, clock: ManualClock, alerts: Alerts, heard: Heard
) -> None:
    now = fleet.now_ms
    held_back = successor(waiting_count=1, since_ms=now - 80 * HOUR_MS, activates_by_ms=now + 20 * HOUR_MS)
    fleet.stream("a", True, now)
    fleet.tell_standing("a", Standing("a", now, authorities=(held_back,)))
    registry = Registry()
    Measures(fleet, clock, registry).update()
    assert 'trustfed_hub_fleet_rollovers_stuck{trust_domain="a"} 1' in registry.exposition().decode()
    await alerts.look()
    assert [(one.what.code, one.source) for one in heard.standing] == [("rollover_stuck", "hub")]
    said = tuple(stuck([held_back], now))
    fleet.tell_standing("a", Standing("a", now, authorities=(held_back,), alarms=said))
    await alerts.look()
    assert [(one.what.code, one.source) for one in heard.standing] == [("rollover_stuck", "cluster")]
    fleet.tell_standing("a", Standing("a", now, authorities=(successor(state="active"),)))
    await alerts.look()
    assert heard.standing == []


def test_a_code_has_one_spelling_whoever_says_it() -> None:
    old = {"unknown-serial": "unknown_serial", "telemetry-silence": "node_silent", "ending": "life_ends"}
    for said, code in old.items():
        assert alarm_code(said) == Alarm(said, "page", "", "", 0).code == alarm_code(code) == code
    alarm = {"code": "clock-offset", "severity": "page", "subject": "n", "says": "", "since_ms": 1}
    kept = msgspec.json.encode({"trust_domain": "a", "as_of_ms": 1, "alarms": [alarm]})
    assert msgspec.json.decode(kept, type=Standing).alarms[0].code == "clock_offset"
