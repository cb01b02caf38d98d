"""One scripted month of a trust domain gives exactly the figures of a table made by hand.

SVIDs live 24 h and are renewed at full 12 hours; so one issued at T is on time until T + 18 h and ends at T + 24 h. In the
window of 31 days fall the on-time limits of what was issued before 31 January 06:00: 61 for an instance that renews at every
00:00 and 12:00 from 1 January on. n(DAY, HOUR) below is how many renewals of that rhythm fall before that moment.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.fakes.ledger_script import DAY, HOUR, MINUTE, Instance, LedgerScript, ms
from trustfed.evidence.changes import Collected
from trustfed.evidence.engine import recount
from trustfed.evidence.figures import Figures, Window, figures
from trustfed.evidence.model import Class, Outcome

BEGIN, END = ms("2027-01-01 00:00"), ms("2027-02-01 00:00")
LAST = ms("2027-02-02 12:00")
AS_OF = ms("2027-02-03 00:00")
TWELVE = 12 * HOUR


def at(day: int, hour: int = 0, minute: int = 0) -> int:
    return BEGIN + (day - 1) * DAY + hour * HOUR + minute * MINUTE


# (instance, outcomes, why): each number counted on the fingers, never by the code under test.
TABLE: list[tuple[str, dict[str, int], str]] = [
    ("steady", {"on_time": 61}, "renews at every half life"),
    ("proxied", {"on_time": 61}, "likewise, and its Envoy loads each"),
    ("outage", {"on_time": 18 + 38, "unknown": 1}, "node dead 10 Jan 09:00 to 12 Jan 15:00; 38 from 15:00 on"),
    ("late", {"on_time": 8 + 51, "late": 1}, "5 Jan's came after 20 h; 51 from then on"),
    ("refused", {"on_time": 14 + 45, "expired": 1}, "8 Jan's was refused for 26 h while the node was heard"),
    ("deleted", {"on_time": 29, "excused": 1}, "entry deleted 8 h into the life of its 30th"),
    ("deleted-too-late", {"on_time": 38, "expired": 1}, "entry deleted 2 h after the on-time limit"),
    ("paused", {"on_time": 12 + 45, "unused": 1}, "released on 7 Jan 09:00, in use again with 9 Jan's serial"),
    ("forced", {"on_time": 26 + 1 + 35, "superseded": 1}, "reissued within the command's 30 minutes"),
    ("forced-slow", {"on_time": 26 + 35, "superseded": 1, "late": 1}, "reissued 2 h after the command, before the end"),
    (
        "forced-same",
        {"on_time": 26 + 35, "superseded": 1, "late": 1},
        "delivered in time, but issued before the command",
    ),
    (
        "partitioned",
        {"on_time": 34 + 1 + 24, "unknown": 1},
        "spool tells 13 h after the end: one corrected, one unknown",
    ),
    ("spool-too-late", {"on_time": 34 + 20, "unknown": 1}, "spool tells 61 h after the end: a correction, not counted"),
    ("lost", {"on_time": 42 + 17, "unknown": 1}, "the spool lost the delivery of 22 Jan 12:00"),
    ("skewed", {"on_time": 60, "late": 1}, "11 Jan's claim was not believed: receipt after 19 h counts"),
    ("gap", {"on_time": 50 + 9, "unknown": 1}, "the cluster was down when 26 Jan's ended"),
    ("not-loaded", {"on_time": 30 + 29, "expired": 1}, "Envoy got 16 Jan 12:00's and never loaded it"),
    ("probed", {"on_time": 60, "late": 1}, "21 Jan 00:00's successor was confirmed after 20 h only"),
    ("banned-workload", {"on_time": 4, "excused": 1}, "its node was banned on 3 Jan 03:00: 1 and 2 Jan's, two each"),
    ("died-in-gap-of-slots", {"on_time": 1, "unknown": 1}, "dead for good on 1 Jan 13:00: one obligation, not sixty"),
    ("never-used", {}, "prefetched all month, delivered to nobody"),
    ("steady-node", {"on_time": 61}, "the agent's own, seen in handshakes"),
    ("banned-node", {"on_time": 4, "excused": 1}, "banned on 3 Jan 03:00"),
]


def _renewing(it: Instance, begin: int, *levels: str, end: int = LAST, door: str = "workload_api") -> list[str]:
    return it.renew_every(begin, end, TWELVE, *levels, door=door)


def _heard(script: LedgerScript, node: str, since: int, until: int) -> None:
    script.record(since + 90_000, "node.silent", node, {"node": node, "since": since})
    script.record(until, "node.heard", node, {"node": node, "from": since, "to": until})


def _force(script: LedgerScript, authority: str, when: int, journal: int) -> None:
    body = {"authorities": [authority], "deadline": when + 30 * MINUTE, "reason": "leaked", "journal": journal}
    script.record(when, "rotation.forced", authority, body)


def month() -> LedgerScript:
    """Every instance of the table, and what else happened to the domain."""
    script = LedgerScript()
    steady = script.instance("steady")
    serials = _renewing(steady, at(1))
    _renewing(script.instance("proxied"), at(1), "delivered", "loaded", door="sds")

    outage = script.instance("outage")
    _renewing(outage, at(1), end=at(10, 1))
    _heard(script, outage.node, at(10, 9), at(12, 15))
    _renewing(outage, at(12, 15, 1))

    late = script.instance("late")
    _renewing(late, at(1), end=at(5, 1))
    _renewing(late, at(5, 20))

    refused = script.instance("refused")
    held = _renewing(refused, at(1), end=at(8, 1))
    for hour in range(12, 26):
        body = {"node": refused.node, "entry": refused.entry, "instance": refused.instance, "slot": "x509"}
        script.record(
            at(8, hour), "svid.refused", refused.instance, {**body, "code": "denied", "count": 3, "at": at(8, hour)}
        )
    refused.say("expired", held[-1], at(9))
    _renewing(refused, at(9, 2))

    deleted = script.instance("deleted")
    _renewing(deleted, at(1), end=at(15, 13))
    script.record(at(15, 20), "entry.ended", deleted.entry, {"entry": deleted.entry, "why": "deleted", "journal": 7})

    too_late = script.instance("deleted-too-late")
    _renewing(too_late, at(1), end=at(20, 1))
    script.record(at(20, 20), "entry.ended", too_late.entry, {"entry": too_late.entry, "why": "deleted", "journal": 8})

    paused = script.instance("paused")
    held = _renewing(paused, at(1), end=at(7, 1))
    paused.say("released", held[-1], at(7, 9))
    unused = [paused.issue(when) for when in range(at(7, 12), at(9), TWELVE)]
    paused.say("held", "", at(7, 13), serials=unused[:1], part=0, parts=1)
    back = paused.issue(at(9))
    paused.say("delivered", back, at(9, 9), door="workload_api")
    _renewing(paused, at(9, 12))

    for name, first, reissue in (("forced", 0, 10), ("forced-slow", 0, 120), ("forced-same", 5, 120)):
        forced = script.instance(name)
        forced.authority = f"key-of-{name}"
        _renewing(forced, at(14 - 13), end=at(14, 1))
        _force(script, forced.authority, at(14, 3), 100)
        if first:
            on_its_way = forced.issue(at(14, 2, 59))  # before the command: no success
            forced.say("delivered", on_its_way, at(14, 3, first), door="workload_api")
        forced.authority = f"next-key-of-{name}"
        _renewing(forced, at(14, 3) + reissue * MINUTE)

    for name, back_at in (("partitioned", at(19, 13)), ("spool-too-late", at(21, 13))):
        cut_off = script.instance(name)
        _renewing(cut_off, at(1), end=at(18, 1))
        before = cut_off.issue(at(18, 10, 50))
        _heard(script, cut_off.node, at(18, 11), back_at)
        cut_off.say("delivered", before, at(18, 10, 55), recorded=back_at, door="workload_api")
        _renewing(cut_off, back_at + MINUTE)

    lost = script.instance("lost")
    _renewing(lost, at(1), end=at(22, 1))
    lost.issue(at(22, 12))
    lost.say("lost", "", at(22, 12, 5), lost=[{"kind": "delivered", "count": 1, "first": 9, "last": 9}])
    _renewing(lost, at(23))

    skewed = script.instance("skewed")
    _renewing(skewed, at(1), end=at(11, 1))
    claimed = skewed.issue(at(11, 12))
    skewed.say("delivered", claimed, at(11, 19), door="workload_api", late=True)
    _renewing(skewed, at(12))

    gap = script.instance("gap")
    _renewing(gap, at(1), end=at(26, 1))
    script.record(at(27, 0, 10), "cluster.gap", "prod.example", {"from": at(26, 23, 50), "to": at(27, 0, 10)})
    _renewing(gap, at(27, 0, 15))

    stuck = script.instance("not-loaded")
    _renewing(stuck, at(1), "delivered", "loaded", end=at(16, 1), door="sds")
    _renewing(stuck, at(16, 12), "delivered", end=at(16, 13), door="sds")
    _renewing(stuck, at(17), "delivered", "loaded", door="sds")

    probed = script.instance("probed")
    _renewing(probed, at(1), "delivered", "confirmed", end=at(21, 1))
    slow = probed.renew(at(21, 12), "delivered")
    probed.say("confirmed", slow, at(21, 20), peer="10.0.0.1:8443")
    _renewing(probed, at(22), "delivered", "confirmed")

    banned = script.instance("banned-workload", node="banned-node")
    _renewing(banned, at(1), end=at(3, 1))
    dead = script.instance("died-in-gap-of-slots")
    _renewing(dead, at(1), end=at(1, 13))
    script.record(at(1, 13, 30), "node.silent", dead.node, {"node": dead.node, "since": at(1, 13)})
    never = script.instance("never-used")
    for when in range(at(1), LAST, TWELVE):
        never.issue(when)

    _nodes(script)
    _lies(script, steady, serials)
    _authorities(script)
    _probes(script)
    return script


def _nodes(script: LedgerScript) -> None:
    steady = script.instance("steady-node", node="steady-node", slot="node")
    _renewing(steady, at(1), "delivered", "confirmed")
    banned = script.instance("banned-node", node="banned-node", slot="node")
    _renewing(banned, at(1), "delivered", "confirmed", end=at(3, 1))
    script.record(at(3, 3), "node.ended", "banned-node", {"node": "banned-node", "why": "banned", "journal": 9})


def _lies(script: LedgerScript, steady: Instance, serials: list[str]) -> None:
    """Another node says that it has loaded what is not its own; the same again, months of it; a serial nobody issued."""
    liar = script.instance("liar")
    for number, serial in enumerate(serials):
        liar.say("loaded", serial, at(1, 1) + number * TWELVE)
        steady.say("delivered", serial, at(1) + number * TWELVE + 2000, door="workload_api")
    liar.say("delivered", "f" * 32, at(2), door="workload_api")
    liar.say("seen", "e" * 32, at(2), peer="10.0.0.9:443", spiffe_id="spiffe://prod.example/ghost")


def _authorities(script: LedgerScript) -> None:
    def step(day: int, authority: str, kind: str, name: str, **more: Any) -> None:
        body = {
            "authority": authority,
            "kind": kind,
            "step": name,
            "journal": day,
            "forced": False,
            "missing": [],
            "retires": "",
        }
        body |= {
            "not_before": at(day) // 1000,
            "not_after": at(day + 8) // 1000,
            "algorithm": "ecdsa-p256",
            "custodian": "file",
        }
        script.record(at(day), "authority.step", authority, body | more)

    step(1, "X1", "x509", "activated")
    step(5, "X2", "x509", "activated", retires="X1")  # everybody had acknowledged it
    step(
        12, "X3", "x509", "activated", retires="X2", forced=True, missing=["node-7"]
    )  # the last safe moment came first
    step(14, "X3", "x509", "tainted")
    step(14, "X4", "x509", "activated", retires="X3", forced=True)
    step(1, "J1", "jwt", "activated")
    step(10, "J2", "jwt", "activated")  # J1 had ended on 9 January


def _probes(script: LedgerScript) -> None:
    script.record(at(1), "probe.up", "sign", {"probe": "sign", "at": at(1)})
    script.record(at(4, 0, 10), "probe.down", "sign", {"probe": "sign", "at": at(4)})
    script.record(at(4, 1), "probe.up", "sign", {"probe": "sign", "at": at(4, 1), "from": at(4)})
    script.record(at(27, 0, 11), "probe.up", "sign", {"probe": "sign", "at": at(27, 0, 11)})
    script.record(at(11), "probe.up", "feed", {"probe": "feed", "at": at(11)})
    script.record(at(27, 0, 20), "probe.up", "feed", {"probe": "feed", "at": at(27, 0, 20)})


@pytest.fixture(scope="module")
def counted() -> Collected:
    return recount("prod.example", month().numbered(), AS_OF)


@pytest.fixture(scope="module")
def figured(counted: Collected) -> Figures:
    return figures(counted.counters, counted.obligations.values(), counted.probes, Window(BEGIN, END), AS_OF)


@pytest.mark.parametrize(("name", "expected", "why"), TABLE, ids=[row[0] for row in TABLE])
def test_an_instance_ends_as_the_table_says(counted: Collected, name: str, expected: dict[str, int], why: str) -> None:
    ended = Counter(
        it.outcome.value
        for it in counted.obligations.values()
        if it.spiffe_id == f"spiffe://prod.example/{name}" and BEGIN <= it.on_time_ms < END
    )
    assert dict(ended) == expected, why


def test_the_headlines_are_the_tables(figured: Figures) -> None:
    leaf, agent = figured.classes["leaf"], figured.classes["agent"]
    # By hand, down the table: 61 61 56 59 59 29 38 57 62 61 61 59 54 59 60 59 59 60 4 1
    assert leaf.counts["on_time"] == 1019
    assert (leaf.counts["late"], leaf.counts["expired"], leaf.counts["unknown"]) == (5, 3, 6)
    assert (leaf.counts["excused"], leaf.counts["superseded"], leaf.counts["unused"]) == (2, 3, 1)
    assert leaf.base == 1019 + 5 + 3 + 6
    assert leaf.headline == round(1019 / 1033, 6) == 0.986447
    assert leaf.with_unused_failed == round(1019 / 1034, 6)
    assert leaf.interval == (0.977365, 0.992571)
    assert leaf.coverage == round((1033 - 6) / 1034, 6)
    assert (agent.base, agent.headline, agent.needed) == (65, 1.0, 2995)
    assert agent.interval is not None and agent.interval[0] < 0.999  # 65 rotations prove no 99.9 %


def test_tries_and_retries_are_of_their_obligation(counted: Collected) -> None:
    (expired,) = (
        it
        for it in counted.obligations.values()
        if it.spiffe_id == "spiffe://prod.example/refused" and it.outcome is Outcome.EXPIRED
    )
    # 14 hours of 3 refusals, of which the last two hours (24 and 25) came after its end.
    assert (expired.tries, expired.refused) == (13 * 3, 13 * 3)
    assert expired.why == "the agent says that it ended in use: every request was refused"


def test_orphans_and_corrections_are_listed(counted: Collected, figured: Figures) -> None:
    assert {(one.serial, one.kind) for one in counted.unknown} == {("f" * 32, "reported"), ("e" * 32, "handshake")}
    assert figured.corrected == 1
    assert [one.instance for one in counted.corrections] == ["node-of-spool-too-late/entry-of-spool-too-late"]
    # The held one of "paused"; never-used's and its other two were in no inventory; 60 of these had ended by then.
    assert figured.orphans["prefetched"] == 1
    assert figured.orphans["unknown_serials"] == 2


def test_authorities_are_listed_one_by_one(figured: Figures) -> None:
    listed = {(it.class_.value, it.predecessor): it.outcome.value for it in figured.few}
    assert listed == {
        ("intermediate", "X1"): "on_time",
        ("intermediate", "X2"): "late",  # activated at the last safe moment, whoever had not acknowledged
        ("intermediate", "X3"): "superseded",  # tainted
        ("intermediate", "X4"): "expired",  # nobody followed by 22 January
        ("jwt_key", "J1"): "expired",
        ("jwt_key", "J2"): "expired",
        ("bundle", "X1"): "on_time",
        ("bundle", "X2"): "late",
        ("bundle", "X3"): "late",
    }
    assert set(figured.classes) == {Class.LEAF.value, Class.AGENT.value}


def test_unknown_time_counts_as_down(figured: Figures) -> None:
    sign, feed = figured.availability["sign"], figured.availability["feed"]
    assert sign.down_ms == HOUR + 21 * MINUTE  # down for an hour; unknown from 23:50 until it was asked again at 00:11
    assert sign.unknown_ms == 21 * MINUTE
    assert sign.up_share == round(1 - (HOUR + 21 * MINUTE) / (31 * DAY), 6)
    assert feed.unknown_ms == 10 * DAY + 30 * MINUTE  # nobody had asked before 11 January, nor from 23:50 until 00:20


def test_what_no_fact_tells_of_is_no_success() -> None:
    script = LedgerScript()
    script.instance("steady").renew(at(1))
    counted = recount("prod.example", script.numbered(), at(3))
    (only,) = counted.obligations.values()
    assert (only.outcome, only.why) == (Outcome.EXPIRED, "never requested")
