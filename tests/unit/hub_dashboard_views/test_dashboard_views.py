"""What the views make of the fleet, without a browser: worst first, nothing invented, and every wrong parameter said."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace

from tests.fakes.fleet_answers import ClusterAnswers, lineage
from tests.fakes.fleet_scene import Scene
from tests.fakes.fleet_standings import AWAY, HOUR, LATE, STUCK, standing
from tests.unit.hub_dashboard_door.dashboard_house import DashboardHouse
from trustfed.evidence.compliance.controls import CONTROLS
from trustfed.evidence.standing import Authority, Stage
from trustfed.hub.dashboard.charts.svg import Kind
from trustfed.hub.dashboard.views import VIEWS
from trustfed.hub.dashboard.views.authorities import lanes
from trustfed.hub.dashboard.views.controls import EVIDENCE, FRAMEWORKS
from trustfed.hub.dashboard.views.fleet import hours_of
from trustfed.hub.dashboard.views.identity import read_lineages
from trustfed.hub.dashboard.views.rotation import steps
from trustfed.hub.evidence.views import Of
from trustfed.runtime.timestamps import to_ms


@pytest_asyncio.fixture
async def house() -> AsyncIterator[DashboardHouse]:
    made = await DashboardHouse.make("auditor")
    Scene.make(to_ms(made.clock.now())).fill(made.fleet)
    yield made
    await made.close()


async def text(house: DashboardHouse, path: str) -> str:
    answer = await house.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_each_view_asks_a_question_and_has_its_own_place() -> None:
    assert len({view.path for view in VIEWS}) == len(VIEWS)
    assert all(view.question.endswith("?") for view in VIEWS)
    assert sum(bool(view.group) for view in VIEWS) >= 11


def test_every_control_of_the_report_is_in_the_matrix_once() -> None:
    shown = [(framework, name) for row in EVIDENCE for framework, names in row.controls.items() for name in names]
    assert sorted(shown) == sorted((control.framework, control.id) for control in CONTROLS)
    assert {framework for framework, _ in shown} == set(FRAMEWORKS)


async def test_the_worst_comes_first_and_what_is_away_is_never_well(house: DashboardHouse) -> None:
    page = await text(house, "/")
    rows = re.findall(r'<tr class="(\w*)">\s*<th scope="row">.*?domain\?name=([a-z.-]+)', page, re.S)
    kinds = [kind for kind, _ in rows]
    order = ["bad", "unknown", "warn", ""]
    assert kinds[0] == "bad" and kinds[-1] == "" and order.index({name: kind for kind, name in rows}[AWAY]) < 3
    assert "3 h 12 min ago" in page and "80.31 %" in page
    only = await text(house, "/?owner=payments&q=ledger")
    assert len(re.findall(r'<th scope="row">', only.split('class="heat"')[1])) == 1


async def test_a_wrong_parameter_is_said(house: DashboardHouse) -> None:
    for path, status, says in (
        ("/?page=0", 400, "page"),
        ("/?page=\u0663", 400, "page"),
        ("/?page=000000001" + "1" * 5_000, 400, "page"),
        ("/?show=every", 400, "show"),
        ("/funnel?domain=nobody.example", 404, "not registered"),
        ("/funnel?domain=..%2F..", 400, "trust domain"),
        ("/failed?class=root%00", 400, "class"),
        ("/alarms?severity=high", 400, "severity"),
        ("/identity?serial=xyz&domain=ledger-us.example", 400, "hex digits"),
        ("/controls/none", 404, "there is no evidence"),
        ("/domain", 400, "which trust domain"),
        ("/lint?code=" + "x" * 65, 400, "longer than"),
    ):
        answer = await house.get(path)
        assert answer.status_code == status and says in answer.text, (path, answer.text)


async def test_a_page_beyond_the_last_is_the_last(house: DashboardHouse) -> None:
    assert await text(house, "/?page=9999") == await text(house, "/?page=9999")
    assert "edge-br.example" in await text(house, "/?page=9999")


async def test_the_auditors_view_is_not_for_viewers() -> None:
    made = await DashboardHouse.make("viewer")
    assert (await made.get("/auditor")).status_code == 403
    assert "/dashboard/auditor" not in (await made.get("/")).text
    await made.close()


async def test_an_identity_is_asked_of_its_cluster_and_its_age_is_shown(house: DashboardHouse) -> None:
    assert "asks clusters nothing" in await text(house, f"/identity?id=spiffe://{LATE}/x")
    answers = ClusterAnswers(to_ms(house.clock.now()))
    asking = await DashboardHouse.make("viewer", questions=answers)
    Scene.make(answers.now_ms).fill(asking.fleet)
    page = await text(asking, f"/identity?id=spiffe://{LATE}/ns/billing/sa/invoice")
    assert answers.asked == [(LATE, "identity", {"spiffe_id": f"spiffe://{LATE}/ns/billing/sa/invoice"})]
    assert "loaded 2 min after the on-time limit" in page and "9,900" in page and "receipt counts" in page
    await text(asking, f"/identity?serial=00ff00ff00&domain={LATE}")
    assert answers.asked[-1] == (LATE, "identity", {"serial": "00ff00ff00"})
    await asking.close()


def test_lineages_are_read_and_what_is_none_is_left_out() -> None:
    good = msgspec.to_builtins(lineage("spiffe://a.example/x", 10 * HOUR))
    assert read_lineages({"lineages": [{"obligations": ["x", {}, *good], "facts": [7]}, 3, {}]}, 10 * HOUR)[
        0
    ].obligations
    for broken in (None, [], "x", {"lineages": 7}, {"lineages": [None]}, {"lineages": [{"identity": []}]}):
        assert read_lineages(broken, 0) == []


@pytest.mark.parametrize("number", [2**62, -(2**62), 10**30, 10**400])
async def test_what_a_cluster_says_in_impossible_numbers_is_left_out(number: int) -> None:
    now = 10 * HOUR
    answers = ClusterAnswers(now)
    house = await DashboardHouse.make("viewer", questions=answers)
    Scene.make(to_ms(house.clock.now())).fill(house.fleet)
    good = msgspec.to_builtins(lineage(f"spiffe://{LATE}/x", now))
    for name in ("opened_ms", "hard_ms", "on_time_ms", "tries", "by_level_ms"):
        bad = [{**one, name: {"issued": number} if name == "by_level_ms" else number} for one in good]
        answers.answer = {"lineages": [{"obligations": bad, "facts": [{"position": number}]}]}
        assert (await house.get(f"/identity?id=spiffe://{LATE}/x")).status_code == 200
        answers.answer = {"lineages": [{"obligations": [*bad, *good]}]}
        assert "Lineage of" in await text(house, f"/identity?id=spiffe://{LATE}/x")
    await house.close()


def test_the_funnel_loses_what_it_loses_whatever_reasons_were_told() -> None:
    made = steps([Stage("due", 100, {"silent": 3}), Stage("issued", 90, {}), Stage("loaded", 95, {})])
    assert [(step.lost, step.reasons) for step in made] == [
        (10, [("silent", 3), ("still under way, or no reason told", 7)]),
        (0, []),
        (0, []),
    ]
    assert steps([]) == [] and steps([Stage("due", 0, {})])[0].share == 0


def test_the_board_puts_a_passed_safe_moment_and_a_taint_before_the_rest() -> None:
    def one(name: str, state: str, **more: object) -> Of[Authority]:
        held = Authority(name, "x509", state, "P-256", "file", 0, 9, 0, **more)  # type: ignore[arg-type]
        return Of(name, held, 1_000)

    made = lanes(
        [
            one("c", "active"),
            one("b", "prepared", waiting_count=1, waiting_for=("n",), activates_by_ms=5_000),
            one("a", "prepared"),
            one("d", "prepared", waiting_count=1, activates_by_ms=900),
            one("e", "tainted"),
            one("f", "retiring"),
        ]
    )
    assert [lane.trust_domain for lane in made] == ["d", "e", "b", "a", "c", "f"]
    assert [lane.kind for lane in made][:4] == [Kind.BAD, Kind.BAD, Kind.WARN, Kind.OK]
    assert made[-1].columns["active"][0].state == "retiring"


async def test_the_runway_begins_now_and_has_no_holes(house: DashboardHouse) -> None:
    now = to_ms(house.clock.now())
    hours = hours_of(house.fleet, now)
    assert 20 < len(hours) <= 72 and hours[0].ending > 0 and sum(hour.without for hour in hours) == 12
    said = standing("far.example", "x", now)
    far = replace(said.runway[0], hour_ms=now + 70 * HOUR)
    house.fleet.tell_standing("far.example", replace(said, runway=(said.runway[1], far)))
    assert len(hours_of(house.fleet, now, "far.example")) == 70
    assert hours_of(house.fleet, now, STUCK)[0].without == 0
