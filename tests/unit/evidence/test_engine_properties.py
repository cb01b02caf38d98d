"""What must hold for every ledger: no cut, restart or lie changes what is counted to somebody's advantage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.ledger_script import HOUR, MINUTE, Instance, LedgerScript, ms
from trustfed.evidence.changes import Collected
from trustfed.evidence.definition import DEFINITION
from trustfed.evidence.engine import Engine, recount
from trustfed.evidence.model import Class, Outcome
from trustfed.journal.events import Fact

BEGIN = ms("2027-01-01 00:00")
DOMAIN = "prod.example"
LIFE = 4 * HOUR

# What happens next: who (of three), what, and how many minutes after what came before.
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(
            [
                "renew",
                "renew",
                "renew",
                "issue",
                "last",
                "say",
                "say",
                "late",
                "release",
                "expired",
                "refuse",
                "silent",
                "heard",
                "gap",
                "lost",
                "force",
                "entry",
                "node",
                "held",
                "seen",
                "step",
                "probe",
            ]
        ),
        st.integers(0, 150),
        st.integers(0, 3),
    ),
    min_size=5,
    max_size=40,
)


def written(steps: Sequence[tuple[int, str, int, int]]) -> list[Fact]:
    """A ledger in which these things happen, sensibly or not."""
    script = LedgerScript()
    instances = [
        script.instance("web", node="n1", life=LIFE),
        script.instance("api", node="n1", life=LIFE),
        script.instance("n2", node="n2", slot="node", life=LIFE),
    ]
    now = BEGIN
    for who, what, minutes, number in steps:
        now += minutes * MINUTE
        _happen(script, instances[who], what, now, number)
    return script.facts()


def _happen(script: LedgerScript, it: Instance, what: str, now: int, number: int) -> None:
    level = ("delivered", "loaded", "confirmed", "delivered")[number]
    node = {"node": it.node}
    if what == "renew":
        it.renew(now, "delivered", *(("loaded",) if number == 1 else ("confirmed",) if number == 2 else ()))
    elif what == "issue":
        it.issue(now, authority=f"A{number}")
    elif what == "last":
        it.say("delivered", it.issue(now, until=now + (number + 1) * HOUR), now, door="workload_api")
    elif what in ("say", "late", "release", "expired") and it.serials:
        serial = it.serials[max(0, len(it.serials) - 1 - number // 2)]
        more: dict[str, Any] = {"late": True} if what == "late" else {}
        kind = {"release": "released", "expired": "expired"}.get(what, level)
        door = ("sds", "workload_api")[number % 2]
        it.say(kind, serial, now - number * 40 * MINUTE, recorded=now, door=door, peer="10.0.0.1:1", **more)
    elif what == "refuse":
        script.record(
            now, "svid.refused", it.instance, {**node, "instance": it.instance, "slot": it.slot, "count": number}
        )
    elif what == "silent":
        script.record(now, "node.silent", it.node, {**node, "since": now - MINUTE})
    elif what == "heard":
        script.record(now, "node.heard", it.node, {**node, "from": number * (now - 3 * HOUR), "to": now})
    elif what == "gap":
        script.record(now, "cluster.gap", DOMAIN, {"from": now - number * HOUR, "to": now})
    elif what in ("lost", "seen", "held"):
        it.say(what, "ab" * 16, now, serials=it.serials[-number:])
    elif what == "force":
        body = {"authorities": [f"A{number}"], "deadline": now + HOUR, "reason": "", "journal": now}
        script.record(now, "rotation.forced", f"A{number}", body)
    elif what == "entry":
        script.record(now, "entry.ended", it.entry, {"entry": it.entry, "why": "", "journal": 1})
    elif what == "node":
        script.record(now, "node.ended", it.node, {**node, "why": "", "journal": 1})
    elif what == "step":
        times = {"not_before": now // 1000, "not_after": now // 1000 + 40_000}
        before = [fact.key for fact in script.facts() if fact.kind == "authority.step"]
        name = f"X{now}" if number < 2 or not before else before[-1]  # each is activated once
        step = {
            "kind": "x509",
            "step": ("activated", "activated", "tainted", "retired")[number],
            "retires": before[-1] if before and number else f"Y{now}",
        }
        script.record(now, "authority.step", name, {"authority": name, **times, **step})
    elif what == "probe":
        script.record(now, ("probe.up", "probe.down")[number % 2], "sign", {"probe": "sign", "at": now})


def same(left: Collected, right: Collected) -> None:
    assert {key: row for key, row in left.counters.items() if any(row)} == {
        key: row for key, row in right.counters.items() if any(row)
    }
    assert left.obligations == right.obligations
    assert left.probes == right.probes
    assert left.unknown == right.unknown


def successes(facts: list[Fact], as_of: int) -> int:
    counted = recount(DOMAIN, enumerate(facts, start=1), as_of)
    return sum(it.outcome is Outcome.ON_TIME for it in counted.obligations.values() if it.class_ is Class.LEAF)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.lists(st.integers(0, 120), max_size=6), st.integers(0, 60 * HOUR))
def test_in_any_pieces_looked_at_and_restarted_it_is_the_same(
    steps: list[tuple[int, str, int, int]], cuts: list[int], later: int
) -> None:
    facts = written(steps)
    end = (facts[-1].at if facts else BEGIN) + later
    whole = recount(DOMAIN, enumerate(facts, start=1), end)
    engine, collected = Engine(DOMAIN), Collected()
    table: dict[tuple[str, str], tuple[str, str, int]] = {}

    def told() -> None:
        changes = engine.changes()
        collected.apply(changes)
        for one in changes.named:
            table[one.instance, one.slot] = one.spiffe_id, one.serial, one.issued_ms
        for last in changes.left:
            spiffe_id, _, at = table[last.instance, last.slot]
            if at < last.at_ms:
                table[last.instance, last.slot] = spiffe_id, last.serial, last.at_ms

    for position, fact in enumerate(facts, start=1):
        engine.take(position, fact)
        if position in cuts:
            engine.advance(min(end, fact.at + position * 10 * MINUTE))
            told()
        if position * 2 in cuts:
            told()
            engine = Engine.load(DOMAIN, DEFINITION, list(engine.save()))
    engine.advance(end)
    told()
    same(collected, whole)
    assert engine.malformed == 0
    # Who has which serial: what was told, and of those that are followed what the engine knows.
    held = {key: one[:2] for key, one in table.items()}
    held.update({key: (table[key][0], slot.last) for key, slot in engine.slots.items() if slot.last})
    issued = [fact.body for fact in facts if fact.kind == "x509.issued"]
    assert held == {(body["instance"], body["slot"]): (body["spiffe_id"], body["serial"]) for body in issued}


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_counters_are_the_obligations(steps: list[tuple[int, str, int, int]]) -> None:
    facts = written(steps)
    counted = recount(DOMAIN, enumerate(facts, start=1), (facts[-1].at if facts else BEGIN) + 100 * HOUR)
    for place, outcome in ((1, Outcome.ON_TIME), (2, Outcome.LATE), (3, Outcome.EXPIRED), (4, Outcome.UNKNOWN)):
        held = sum(it.outcome is outcome for it in counted.obligations.values())
        assert sum(row[place] for row in counted.counters.values()) == held
    held_open: dict[tuple[str, str], int] = {}
    for it in counted.obligations.values():
        assert it.outcome is not Outcome.OPEN  # everything has ended by then
        held_open[it.id, it.slot] = 1
    assert len(held_open) == len(counted.obligations)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.data())
def test_an_agent_that_repeats_or_claims_the_serials_of_others_gains_nothing(
    steps: list[tuple[int, str, int, int]], data: st.DataObject
) -> None:
    facts = written(steps)
    said = [fact for fact in facts if fact.kind.startswith("agent.") and fact.body.get("serial")]
    if not said:
        return
    end = facts[-1].at + 50 * HOUR
    honest = successes(facts, end)
    lies = []
    for fact in data.draw(st.lists(st.sampled_from(said), max_size=10)):
        how = data.draw(st.sampled_from(["again", "other node", "other instance", "other slot"]))
        more = {
            "again": {},
            "other node": {"node": "n9"},
            "other instance": {"instance": "n9/x"},
            "other slot": {"slot": "y"},
        }
        lies.append(Fact(fact.at, fact.kind, fact.key, {**fact.body, **more[how], "late": True}))
    merged = sorted(facts + lies, key=lambda fact: fact.at)
    assert successes(merged, end) <= honest


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(-500, 500), st.integers(0, 300))
def test_a_time_that_is_not_believed_counts_as_receipt(renewals: int, claimed: int, receipt: int) -> None:
    script = LedgerScript()
    it = script.instance("web", life=LIFE)
    first = it.issue(BEGIN)
    it.say("delivered", first, BEGIN, door="workload_api")
    second = it.issue(BEGIN + MINUTE)
    at = BEGIN + MINUTE + receipt * MINUTE
    it.say("delivered", second, BEGIN + claimed * MINUTE, recorded=at, door="workload_api", late=True)
    on_time = BEGIN + 3 * HOUR
    counted = recount(DOMAIN, script.numbered(), BEGIN + 100 * HOUR)
    outcomes = {one.predecessor: one for one in counted.obligations.values()}
    assert (outcomes[first].outcome is Outcome.ON_TIME) == (at <= on_time)
    assert outcomes[first].reached_ms in (0, at)
