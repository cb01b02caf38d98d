"""Looking closer: identities, obligations, facts, orphans, search, inventory, and how a domain stands."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.clocks import ManualClock
from tests.fakes.ledger_script import DAY, HOUR, MINUTE, LedgerScript, ms
from trustfed.errors import Invalid, NotFound
from trustfed.evidence.inventory import quantum_safe, strength
from trustfed.evidence.queries import Queries
from trustfed.evidence.standing import Standing
from trustfed.evidence.standing_of import parts
from trustfed.evidence.store import EvidenceStore
from trustfed.hub.dashboard.views.rollover import read_rotations
from trustfed.journal.events import Fact
from trustfed.journal.memory import MemoryLedger

BEGIN = ms("2027-01-01 00:00")
NOW = BEGIN + 2 * DAY + 19 * HOUR


def a_domain() -> LedgerScript:
    """web renews; api's successor was never delivered; old was; ghosts are seen; a clock differs; a node is silent."""
    script = LedgerScript()
    web = script.instance("web")
    web.renew_every(BEGIN, NOW, 12 * HOUR)
    digests = dict.fromkeys(web.serials[-1:], "ab" * 32)
    script.record(NOW - HOUR, "x509.signed", "A1", {"authority": "A1", "certificates": digests})
    api = script.instance("api")
    api.renew_every(BEGIN, BEGIN + 2 * DAY + HOUR, 12 * HOUR)
    api.issue(BEGIN + 2 * DAY + 12 * HOUR)
    script.instance("<script>alert(1)</script>").renew(NOW - 2 * HOUR)
    gone = script.instance("gone")
    gone.renew(BEGIN + DAY)
    script.record(BEGIN + 37 * HOUR, "node.silent", gone.node, {"node": gone.node, "since": BEGIN + 36 * HOUR})
    web.say("offset", "", NOW - HOUR, offset_ms=-45_000)
    web.say("seen", "ee" * 16, NOW - HOUR, peer="10.0.0.7:443", spiffe_id="spiffe://prod.example/ghost")
    script.record(NOW - 10 * DAY, "probe.up", "sign", {"probe": "sign", "at": NOW - 10 * DAY})
    return script


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[tuple[EvidenceStore, MemoryLedger]]:
    ledger = MemoryLedger()
    await ledger.append(a_domain().facts())
    clock = ManualClock(datetime.fromtimestamp(NOW / 1000, UTC))
    opened = await EvidenceStore.open(tmp_path, ledger, "prod.example", clock)
    yield opened, ledger
    await opened.close()


@pytest.fixture
def queries(store: tuple[EvidenceStore, MemoryLedger]) -> Queries:
    return Queries(*store)


async def asked(queries: Queries, question: str, **body: Any) -> Any:
    answer = json.loads(await queries.answer(question, json.dumps(body).encode()))
    assert answer["as_of_ms"] == NOW and answer["position"] > 0
    return answer


async def test_an_identity_tells_its_serials_and_obligations(queries: Queries) -> None:
    by_id = await asked(queries, "identity", spiffe_id="spiffe://prod.example/web")
    (lineage,) = by_id["lineages"]
    assert len(lineage["serials"]) == 6  # 2 days and 19 hours of 12: at 0, 12, 24, 36, 48 and 60 h
    assert [it["outcome"] for it in lineage["obligations"]] == ["open", *["on_time"] * 5]
    assert lineage["obligations"][1]["successor"] == lineage["serials"][0]
    assert {line["kind"] for line in lineage["facts"]} >= {"x509.issued", "agent.delivered"}
    assert by_id["obligations"] == lineage["obligations"]
    by_serial = await asked(queries, "identity", serial=lineage["serials"][2])
    assert by_serial["obligations"][0]["predecessor"] == lineage["serials"][2]
    by_instance = await asked(queries, "identity", instance="node-of-web/entry-of-web", depth=2)
    assert len(by_instance["lineages"][0]["serials"]) == 2
    with pytest.raises(NotFound, match="nothing was ever issued"):
        await asked(queries, "identity", spiffe_id="spiffe://prod.example/nobody")
    with pytest.raises(Invalid):
        await asked(queries, "identity")


async def test_obligations_come_in_pages(queries: Queries) -> None:
    failed = await asked(queries, "obligations", outcome="unknown")
    assert [it["instance"] for it in failed["obligations"]] == ["node-of-gone/entry-of-gone"]
    pages, after = [], [0, ""]
    while True:
        page = await asked(queries, "obligations", outcome="open", limit=1, after=after)
        pages += page["obligations"]
        after = page["next"]
        if after is None:
            break
    assert sorted(it["spiffe_id"].rsplit("/", 1)[-1] for it in pages) == ["api", "script>", "web"]
    assert (await asked(queries, "obligations", **{"class": "root"}))["obligations"] == []
    for body in ({"limit": 0}, {"limit": 10_000}, {"outcome": "great"}, {"no": 1}):
        with pytest.raises(Invalid):
            await asked(queries, "obligations", **body)


async def test_facts_orphans_and_search(queries: Queries) -> None:
    first = await asked(queries, "facts", limit=2)
    assert [row["position"] for row in first["facts"]] == [1, 2]
    second = await asked(queries, "facts", limit=2, after=first["next"])
    assert second["facts"][0]["position"] == 3
    assert len((await asked(queries, "facts", kind="probe.up", key="sign"))["facts"]) == 1
    orphans = await asked(queries, "orphans")
    assert [(one["serial"], one["where"]) for one in orphans["unknown"]] == [("ee" * 16, "10.0.0.7:443")]
    found = await asked(queries, "search", text="spiffe://prod.example/<scr")
    assert [one["spiffe_id"] for one in found["identities"]] == ["spiffe://prod.example/<script>alert(1)</script>"]
    serial = found["identities"][0]["serial"]
    assert (await asked(queries, "search", text=serial))["identities"][0]["serial"] == serial
    with pytest.raises(Invalid):
        await asked(queries, "search", text="a")
    with pytest.raises(NotFound):
        await asked(queries, "everything")
    assert (await asked(queries, "status"))["behind"] == 0
    figures = await asked(queries, "figures", from_ms=BEGIN, to_ms=BEGIN + DAY)
    assert figures["figures"]["classes"]["leaf"]["counts"]["on_time"] == 2


async def test_a_node_names_what_lives_there(queries: Queries) -> None:
    held = (await asked(queries, "inventory", limit=200))["certificates"]
    node = next(one["custodian"] for one in held if one["custodian"].startswith("agent on ")).removeprefix("agent on ")
    there = [one for one in held if one["custodian"] == f"agent on {node}"]
    found = await asked(queries, "node", node=node)
    assert found["certificates"] == len(there)
    assert found["spiffe_ids"] == sorted({one["spiffe_id"] for one in there})
    assert found["identities"] == len(found["spiffe_ids"])
    assert (await asked(queries, "node", node="elsewhere"))["certificates"] == 0


async def test_the_inventory_lists_what_lives(queries: Queries, store: tuple[EvidenceStore, MemoryLedger]) -> None:
    page = await asked(queries, "inventory", limit=2)
    assert len(page["certificates"]) == 2
    rest = await asked(queries, "inventory", after=page["next"])
    everything = page["certificates"] + rest["certificates"]
    assert len(everything) == 5  # web's and api's last two each, and the script's: 24 h each
    assert [one["sha256"] for one in everything if one["sha256"]] == ["ab" * 32]
    assert sum(one["count"] for one in page["algorithms"]) == 5
    entry, of = everything[0]["entry"], lambda: {everything[0]["entry"]: "the shop"}
    owned = await asked(Queries(*store, of), "inventory")
    assert {one["owner"] for one in owned["certificates"] if one["entry"] == entry} == {"the shop"}
    assert (strength("rsa-4096"), strength("ec-p256"), strength("x"), quantum_safe("ml-dsa-65")) == (128, 128, 0, True)


async def test_each_rotation_of_a_key_is_drilled_into(tmp_path: Path) -> None:
    script, day = LedgerScript(), BEGIN // 1000
    life = {"kind": "jwt", "not_before": day, "not_after": day + 30 * DAY // 1000, "forced": False, "missing": []}
    for number, (key, before) in enumerate((("J1", ""), ("J2", "J1"), ("J3", "J2"))):
        at = BEGIN + number * DAY
        for step in ("prepared", "activated"):
            body = {**life, "authority": key, "step": step, "retires": before if step == "activated" else "", "at": at}
            script.record(at, "authority.step", key, {**body, "journal": 10 * number + (step == "activated")})
    script.record(
        BEGIN + 2 * DAY, "rotation.forced", "J3", {"authorities": ["J3"], "entries": [], "deadline": 1, "journal": 40}
    )
    ledger = MemoryLedger()
    await ledger.append(script.facts())
    clock = ManualClock(datetime.fromtimestamp(NOW / 1000, UTC))
    opened = await EvidenceStore.open(tmp_path, ledger, "prod.example", clock)
    keys = Queries(opened, ledger)
    every = (await asked(keys, "rotations", **{"class": "jwt_key"}))["rotations"]
    assert {(one["predecessor"], one["successor"], one["outcome"]) for one in every} == {
        ("J1", "J2", "on_time"),
        ("J2", "J3", "on_time"),
        ("J3", "", "open"),
    }
    one = await asked(keys, "rotations", authority="J2")
    assert {(it["class_"], it["predecessor"]) for it in one["rotations"]} == {
        ("jwt_key", "J1"),
        ("jwt_key", "J2"),
        ("bundle", "J1"),
        ("bundle", "J2"),
    }
    assert [(it["body"]["step"], it["position"]) for it in one["steps"]] == [("activated", 4), ("prepared", 3)]
    found, steps, position = read_rotations(one)
    assert len(found) == 4 and position == one["position"], "the dashboard reads all of it"
    assert [(it.step, it.says, it.position) for it in steps] == [
        ("activated", "retires J1; journal 11", 4),
        ("prepared", "journal 10", 3),
    ]
    assert (await asked(keys, "rotations", authority="J3"))["steps"][0]["kind"] == "rotation.forced"
    with pytest.raises(NotFound):
        await asked(keys, "rotations", authority="J9")
    with pytest.raises(Invalid):
        await asked(keys, "rotations", **{"class": "leaf"})
    await opened.close()


async def test_how_it_stands(store: tuple[EvidenceStore, MemoryLedger]) -> None:
    standing = Standing("prod.example", NOW, **await parts(store[0], NOW))
    assert standing.identities == 3
    # api's present one was issued at 48 h and is on time until 66 h: overdue by an hour, with 5 of 24 hours left.
    assert (standing.open_obligations, standing.overdue) == (3, 1)
    assert [(one.spiffe_id, one.left) for one in standing.endings] == [("spiffe://prod.example/api", round(5 / 24, 4))]
    assert {one.code for one in standing.alarms} == {"life_ends", "unknown_serial", "node_silent", "clock_offset"}
    assert [one.node for one in standing.silent] == ["node-of-gone"]
    assert [one.offset_ms for one in standing.clocks] == [-45_000]
    assert (standing.unknown_count, standing.unknown[0].kind) == (1, "handshake")
    assert [probe.up_share for probe in standing.probes] == [round(10 / 30, 6)]
    assert sum(hour.without_successor for hour in standing.runway) == 3
    assert [stage.level for stage in standing.funnel] == ["due", "issued", "delivered", "loaded", "confirmed"]
    assert standing.funnel[2].dropped == {} and standing.funnel[0].reached >= standing.funnel[1].reached


async def test_what_ends_with_its_entry_calls_nobody(tmp_path: Path) -> None:
    script, ledger = LedgerScript(), MemoryLedger()
    for name, until in (("ends", NOW + HOUR), ("owed", 0)):
        it = script.instance(name)
        it.say("delivered", it.issue(NOW + HOUR - DAY, until=until), NOW + HOUR - DAY + 1000, door="workload_api")
    await ledger.append(script.facts())
    opened = await EvidenceStore.open(
        tmp_path, ledger, "prod.example", ManualClock(datetime.fromtimestamp(NOW / 1000, UTC))
    )
    try:
        ends = {"entry-of-ends": NOW + HOUR, "entry-of-owed": NOW + 2 * HOUR}
        standing = Standing("prod.example", NOW, **await parts(opened, NOW, lambda entry: ends[entry]))
    finally:
        await opened.close()
    assert [one.spiffe_id for one in standing.endings] == ["spiffe://prod.example/owed"]
    assert (standing.identities, standing.overdue, standing.alarms[0].subject) == (2, 1, "spiffe://prod.example/owed")
    assert sum(hour.without_successor for hour in standing.runway) == 1


async def test_a_hundred_minutes_later_the_slow_one_drops_off(tmp_path: Path) -> None:
    ledger, at = MemoryLedger(), BEGIN + 3 * DAY + 2 * HOUR
    await ledger.append(a_domain().facts())
    await ledger.append([Fact(at, "node.heard", "n", {"node": "n", "from": 0, "to": at})])
    opened = await EvidenceStore.open(
        tmp_path, ledger, "prod.example", ManualClock(datetime.fromtimestamp(at / 1000, UTC))
    )
    try:
        stages = {stage.level: stage for stage in (await parts(opened, at))["funnel"]}
        assert stages["delivered"].dropped == {"issued, not delivered": 1}
        assert stages["due"].reached - stages["delivered"].reached == 1 or stages["issued"].dropped == {}
        assert at - NOW > 100 * MINUTE
    finally:
        await opened.close()
