"""A report of the whole fleet: each trust domain by itself, asked of its cluster or else as the hub holds it, none left out."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.fakes.compliance_report import report
from tests.unit.hub_evidence.evidence_house import EvidenceHouse, FakeStream, row, until
from trustfed.errors import Invalid, NotFound
from trustfed.evidence.compliance.data import FleetReport, Report
from trustfed.evidence.compliance.fleet import render_fleet
from trustfed.evidence.figures import Window
from trustfed.evidence.model import BUCKET_MS
from trustfed.evidence.standing import Authority, Standing
from trustfed.hub.evidence.orders import Order
from trustfed.hub.evidence.reporting import FleetReporting
from trustfed.journal.merkle.witness import Held, Shrunk
from trustfed.proto import evidence_pb2 as pb

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
ANSWERS = "prod-us-west"


def reporting(house: EvidenceHouse) -> FleetReporting:
    doors = {"https": "hub.example:443", "admin_socket": "/run/hub.sock"}
    return house.evidence.reporting(house.hub.journal, doors)


def days(house: EvidenceHouse, count: int) -> Window:
    now = house.evidence.fleet.now_ms // BUCKET_MS * BUCKET_MS
    return Window(now - count * DAY_MS, now)


async def answering(stream: FakeStream, make: Callable[[dict[str, Any]], bytes]) -> None:
    question = await stream.until("question")
    assert question.kind == "report"
    body = make(msgspec.json.decode(question.body))
    await stream.say(pb.FromCluster(answer=pb.Answer(id=question.id, body=body, as_of_ms=5)))


def said(asked: dict[str, Any], **changed: Any) -> bytes:
    window = {"from_ms": asked["from_ms"], "to_ms": asked["to_ms"]}
    return msgspec.json.encode(report(**{**window, "ran_by": asked["ran_by"], **changed}))


@pytest.fixture
async def fleet_report(house: EvidenceHouse) -> FleetReport:
    """One cluster answers, one is away after it failed a rotation, one was never heard, and the hub itself."""
    away, fleet = await house.cluster("away"), house.evidence.fleet
    answers = await house.cluster(ANSWERS)
    await house.hub.enrolled("never")
    held = Authority("x509-1", "x509", "active", "ec-p256", "file", 1, fleet.now_ms + DAY_MS, 1)
    async with away.stream() as stream:
        rows = [row(at_ms=fleet.now_ms, due=1_000, on_time=999, late=1)]
        failed = pb.Failed(
            id="f", class_="leaf", spiffe_id="spiffe://away/w", instance="i", slot="x509", predecessor="0a", outcome="late",
            why="the node was slow", on_time_ms=fleet.now_ms - BUCKET_MS, hard_ms=fleet.now_ms, ended_ms=fleet.now_ms - 1,
        )  # fmt: skip
        await stream.say(away.delta(1, rows, whole=True, failed=[failed]), away.standing(authorities=(held,)))
        await stream.until("taken")
        await until(lambda: fleet.standing("away") is not None)
        await away.grow("a", "b")
        await stream.say(await away.offer(0))
        assert (await stream.until("cosignature")).size == 2
    await until(lambda: not fleet.held("away").connected)
    await house.evidence.orders.order("away", Order("rotate", {}, "drill", "uid:1", id="o1"))
    house.hub.clock.move(600)
    await until(lambda: fleet.standing("hub.example") is not None)
    async with answers.stream() as stream:
        await stream.until("welcome")
        asked = asyncio.ensure_future(reporting(house).report(days(house, 7), "uid:0"))
        await answering(stream, said)
        return await asked


async def test_every_trust_domain_is_in_it_by_itself(fleet_report: FleetReport, house: EvidenceHouse) -> None:
    by_name = {one.scope[0]: one for one in fleet_report.reports}
    heard = {one.trust_domain: one for one in fleet_report.domains}
    assert sorted(by_name) == ["away", "hub.example", "never", ANSWERS] and list(by_name) == list(heard)
    assert heard[ANSWERS].answered and by_name[ANSWERS].ran_by == "uid:0"
    assert not heard["away"].answered and heard["away"].says.startswith("not heard since ")
    assert heard["never"].says == "never heard" and "not connected" in heard["never"].why
    away = by_name["away"]
    (leaf,) = [one for one in away.figures if one.class_ == "leaf"]
    # 999 of 1,000 were on time; what was due since then is unknown, so there is no figure.
    assert (leaf.counts["due"], leaf.headline) == (1_000, None) and leaf.why.startswith("not heard since ")
    assert [(one.spiffe_id, one.outcome) for one in away.failures] == [("spiffe://away/w", "late")]
    assert [(one.kind, one.actor, one.reason) for one in away.changes] == [("order.rotate", "uid:1", "drill")]
    assert [one.name for one in away.assets] == ["x509-1"]
    (proof,) = away.proofs  # what the hub holds as a witness, not what the cluster says
    assert (proof.origin, proof.size, proof.cosigned_by) == ("trustfed/away/journal", 2, ("trustfed/hub.example",))
    own = by_name["hub.example"]
    assert [one.purpose for one in own.assets] == ["root"] and "domain.enrolled" in {one.kind for one in own.changes}
    assert own.absent == () and {one.place for one in own.endpoints} == {"hub.example:443", "/run/hub.sock"}


async def test_what_the_hub_holds_in_part_satisfies_nothing(fleet_report: FleetReport) -> None:
    found = json.loads(render_fleet(fleet_report, "json"))
    by_name = {one["trust_domain"]: one for one in found["domains"]}
    said_to_hold = {one["control"] for one in by_name["never"]["controls"] if one["status"] == "satisfied"}
    assert said_to_hold == {"IPE"}  # that the report says what it is made of
    away = {one["control"]: one for one in by_name["away"]["controls"]}
    assert away["3.7.4"]["status"] == "not-satisfied" and "not heard since" in away["3.7.4"]["says"]
    assert away["4.2.1.1"]["status"] == away["CM"]["status"] == "not-assessed"
    assert "only the cluster itself" in away["4.2.1.1"]["says"]
    assert away["10.3"]["status"] == "satisfied" and "trustfed/away/journal at 2, root " in away["10.3"]["proof"]
    assert away["3.7.4"]["query"] == "trustfed evidence report --hub --domain away --table figures"
    assert away["CM"]["query"] == "at the cluster of away: trustfed approval list --all"
    own = {one["control"]: one["query"] for one in by_name["hub.example"]["controls"]}
    assert own["CM"] == "trustfed approval list --all --hub"
    well = {one["control"]: one["status"] for one in by_name[ANSWERS]["controls"]}
    assert well["3.7.4"] == well["4.2.1.1"] == well["CM"] == "satisfied"


async def test_each_format_names_each_trust_domain(fleet_report: FleetReport) -> None:
    names = ["away", "hub.example", "never", ANSWERS]
    text = render_fleet(fleet_report, "text").decode()
    assert text.index("Trust domains") < text.index("Controls") and "never heard" in text
    rows = list(csv.DictReader(io.StringIO(render_fleet(fleet_report, "csv").decode())))
    assert [one["trust domain"] for one in rows] == names
    assert rows[0]["lowest success"].startswith("none: not heard since")
    matrix = list(csv.DictReader(io.StringIO(render_fleet(fleet_report, "csv", ["pci"], "controls").decode())))
    assert {one["trust domain"] for one in matrix} == set(names) and all(one["query"] for one in matrix)
    assert "root" in next(one["proof"] for one in matrix if one["trust domain"] == ANSWERS)
    page = render_fleet(fleet_report, "html").decode()
    assert page.count("<section") == 13 and "not heard since" in page
    assert render_fleet(fleet_report, "pdf").startswith(b"%PDF")
    document = json.loads(render_fleet(fleet_report, "oscal", ["pci", "sox"]))
    titles = [one["title"] for one in document["assessment-results"]["results"]]
    assert len(titles) == 8 and titles[0] == "away: PCI DSS 4.0.1"
    uuids = [one["uuid"] for one in document["assessment-results"]["results"]]
    assert len(set(uuids)) == 8
    assert {"name": "trustfed:trust_domain", "value": "away"} in [
        pair
        for one in json.loads(render_fleet(fleet_report, "cyclonedx"))["components"]
        for pair in one.get("properties", ())
    ]
    for bad in ({"form": "docx"}, {"form": "text", "table": "x"}, {"form": "text", "frameworks": ["hipaa"]}):
        with pytest.raises(Invalid):
            render_fleet(fleet_report, **{"form": "text", **bad})  # type: ignore[arg-type]


OTHERS: dict[str, Callable[[Report], Report]] = {
    "another trust domain": lambda one: replace(one, scope=("west",)),
    "another window": lambda one: replace(one, from_ms=one.from_ms - BUCKET_MS),
    "another's figures": lambda one: replace(one, figures=(replace(one.figures[0], trust_domain="west"),)),
    "another's proof": lambda one: replace(one, proofs=(replace(one.proofs[0], origin="trustfed/west/journal"),)),
    "a rate that its counts do not say": lambda one: replace(
        one, figures=(replace(one.figures[0], counts={"due": 10, "expired": 10}, headline=1.0),)
    ),
    "more than was asked for": lambda one: replace(one, ran_by="x" * (901 << 10)),
    "a number that is none": lambda one: replace(one, unknown=1 << 60),
}


BAD = {"nothing": b"{}", "no report": b'{"scope": [1]}', "nested": b'{"x":' + b"[" * 700 + b"]" * 700 + b"}"}


@pytest.mark.parametrize("fault", [*OTHERS, *BAD])
async def test_what_a_cluster_says_of_others_is_not_taken(house: EvidenceHouse, fault: str) -> None:
    cluster = await house.cluster(ANSWERS)

    def make(asked: dict[str, Any]) -> bytes:
        if fault in BAD:
            return BAD[fault]
        return msgspec.json.encode(OTHERS[fault](msgspec.json.decode(said(asked), type=Report)))

    async with cluster.stream() as stream:
        await stream.until("welcome")
        asked = asyncio.ensure_future(reporting(house).report(days(house, 1), "uid:0", [ANSWERS]))
        await answering(stream, make)
        found = await asked
    (heard,) = found.domains
    assert not heard.answered and heard.why and heard.says.startswith("as told ")
    assert found.reports[0].source.startswith("hub of hub.example") and found.reports[0].absent


async def test_what_the_witness_found_stands_whatever_a_cluster_says(house: EvidenceHouse) -> None:
    cluster = await house.cluster(ANSWERS)
    origin = f"trustfed/{ANSWERS}/journal"
    house.evidence.witness._answer(ANSWERS, origin, Shrunk(Held(origin, 5, b"r" * 32, b""), b"", 3), b"")
    async with cluster.stream() as stream:
        await stream.until("welcome")
        asked = asyncio.ensure_future(reporting(house).report(days(house, 1), "uid:0", [ANSWERS]))
        await answering(stream, said)
        found = await asked
    assert found.domains[0].answered and {one.problem for one in found.reports[0].proofs} == {
        f"{origin} has 3 entries, and had 5"
    }


async def test_bad_questions_and_long_windows(house: EvidenceHouse) -> None:
    await house.cluster("west")
    making, now = reporting(house), house.evidence.fleet.now_ms
    with pytest.raises(NotFound):
        await making.report(days(house, 1), "uid:0", ["nowhere"])
    with pytest.raises(Invalid):
        await making.report(Window(now + DAY_MS - (now + DAY_MS) % BUCKET_MS, now * 2 - now * 2 % BUCKET_MS), "uid:0")
    house.evidence.fleet.tell_standing("west", Standing("west", now))
    (report_,) = (await making.report(days(house, 90), "uid:0", ["west"])).reports
    assert {one.why for one in report_.figures} == {"the hub holds 35 days: its cluster reports more"}
    assert "figures" in report_.absent
