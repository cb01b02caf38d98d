"""What the views make of the fleet, without a browser: worst first, nothing invented, and every wrong parameter said."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html import unescape
from urllib.parse import urlencode

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace

from tests.fakes.fleet_answers import ClusterAnswers, lineage, rotated
from tests.fakes.fleet_scene import AHEAD, DARK, Scene
from tests.fakes.fleet_standings import AWAY, HOUR, LATE, STUCK, standing
from tests.unit.hub_dashboard_door.dashboard_house import DashboardHouse
from trustfed.evidence.compliance.controls import CONTROLS
from trustfed.evidence.standing import Authority, Finding, Stage, Standing
from trustfed.hub.dashboard.charts.svg import Kind
from trustfed.hub.dashboard.views import VIEWS
from trustfed.hub.dashboard.views.authorities import lanes
from trustfed.hub.dashboard.views.controls import EVIDENCE, FRAMEWORKS
from trustfed.hub.dashboard.views.fleet import hours_of
from trustfed.hub.dashboard.views.identity import read_lineages
from trustfed.hub.dashboard.views.rollover import read_rotations
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
    order, of = ["bad", "unknown", "warn", "withheld", ""], {name: kind for kind, name in rows}
    assert kinds[0] == "bad" and kinds[-1] == "" and order.index(of[AWAY]) < 3
    assert of[DARK] == "withheld" and not any(kinds[kinds.index("withheld") + 1 :]), "only what is well comes after it"
    assert re.search(r'is-withheld"><a [^>]*#leaf">.*?withheld', page)
    assert "3 h 12 min ago" in page and "80.31 %" in page
    only = await text(house, "/?owner=payments&q=ledger")
    assert len(re.findall(r'<th scope="row">', only.split('class="heat"')[1])) == 1


PATHS = ("/", "/alarms", "/expiry", "/failed", "/identity", "/rollovers", "/drift", "/trust", "/unknown", "/algorithms")


async def test_each_view_offers_what_its_rows_call_for_to_who_may_do_it() -> None:
    made = await DashboardHouse.make("operator")
    scene = Scene.make(to_ms(made.clock.now()))
    scene.fill(made.fleet)
    await scene.enrol(made.hub)
    look, admin = made.browser(), made.browser()
    await made.enter(look, "auditor", "carol", "uid:1001")
    await made.enter(admin, "admin", "bob", "uid:1002")
    for path in (*PATHS, f"/funnel?domain={LATE}", "/lint", "/controls/rotation", f"/domain?name={LATE}"):
        page = await text(made, path)
        links = re.findall(r'href="(/dashboard/actions/[^"]+)"', page)
        assert links, f"{path} offers nothing"
        assert (await made.get(unescape(links[0]))).status_code == 200, links[0]
        assert "/dashboard/actions/taint" not in page and "/dashboard/actions/quarantine" not in page, "an admin's"
        assert "/dashboard/actions/" not in (await look.get(path)).text, f"{path} offers an auditor something"
    board = (await admin.get("/rollovers")).text
    assert f"/dashboard/actions/activate?domain={STUCK}&amp;authority=5eed0002" in board
    assert "node=node-2" in (await admin.get("/unknown")).text
    said = made.fleet.standing(LATE)
    assert said is not None
    made.fleet.tell_standing(LATE, replace(said, orders=()))  # it takes no orders: only what the hub does itself
    page = await text(made, f"/domain?name={LATE}")
    assert "/actions/rotate?" not in page and "/actions/repush?" in page
    await made.close()


async def test_who_holds_what_was_never_published_is_named(house: DashboardHouse) -> None:
    page = await text(house, "/drift")
    listed = page.split('id="behind"')[1]
    assert listed.index("says to hold what was never published") < listed.index("edge-br.example")
    assert listed.index(AHEAD) < listed.index("edge-br.example") and re.search(r"is-warn.{0,200}ahead", page)


async def test_simulated_rows_say_so(house: DashboardHouse) -> None:
    house.fleet.know(STUCK, simulated=True)
    for path in ("/rollovers", "/alarms", "/"):
        assert re.search(rf"{STUCK}</bdi></a> <span class=\"badge plain\">simulated", await text(house, path)), path


async def test_pages_are_compiled_before_somebody_asks_for_them(house: DashboardHouse) -> None:
    frame = house.app.state.frame
    assert len(list(frame.ahead())) == len(frame._environment.list_templates())
    assert {key[1] for key in frame._environment.cache} >= set(frame._environment.list_templates())


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
        ("/rollovers?class=jwt_key", 400, "whose rotations"),
        (f"/rollovers?domain={LATE}&class=leaf", 400, "class"),
        ("/lint?code=" + "x" * 65, 400, "longer than"),
    ):
        answer = await house.get(path)
        assert answer.status_code == status and says in answer.text, (path, answer.text)


async def test_a_serial_is_found_as_openssl_writes_it(house: DashboardHouse) -> None:
    said = house.fleet.standing(LATE)
    assert said is not None
    serial = "00bd30466bf509a3f359bd04f4848234"
    house.fleet.tell_standing(LATE, replace(said, endings=(replace(said.endings[0], serial=serial),)))
    for text_ in (serial, serial.upper(), serial[2:].upper(), "bd:30:46:6b:f5:09:a3:f3:59:bd:04:f4:84:82:34"):
        answer = await house.get("/search?" + urlencode({"q": text_}))
        assert answer.status_code == 303 and f"serial={serial}" in answer.headers["location"], text_
    listed = await text(house, "/search?q=00:BD:30:46")  # how it begins
    assert serial in listed


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
    assert answers.asked[-1] == (LATE, "identity", {"serial": "00ff00ff00".zfill(32)})
    await asking.close()


async def test_a_token_key_is_followed_from_its_figure_to_the_position_that_proves_its_step() -> None:
    answers = ClusterAnswers(0)
    house = await DashboardHouse.make("viewer", questions=answers)
    answers.now_ms = to_ms(house.clock.now())
    Scene.make(answers.now_ms).fill(house.fleet)
    for page, leads in (
        (f"/domain?name={LATE}", "class=intermediate"),
        (f"/rollovers?domain={LATE}&show=all", "authority="),
        (f"/rollovers?domain={LATE}&class=intermediate", "class=jwt_key"),
        (f"/rollovers?domain={LATE}&class=jwt_key", "authority=jwt-0002"),
    ):
        assert f'href="/dashboard/rollovers?domain={LATE}&amp;{leads}' in await text(house, page), page
    assert answers.asked[-1] == (LATE, "rotations", {"class": "jwt_key", "limit": 100})
    page = await text(house, f"/rollovers?domain={LATE}&authority=jwt-0002")
    assert answers.asked[-1] == (LATE, "rotations", {"authority": "jwt-0002", "limit": 100})
    assert "retires jwt-0001; forced; missing: node-3; journal 812" in page
    assert "9,731" in page and "up to position 9,950" in page and ">late<" in page
    assert f'data-age="{answers.now_ms - 400}"' in page, "it is as of its cluster's time"
    assert "No rotation yet" not in page and "state error" not in page
    for domain, says in ((AWAY, "Its cluster is away"), (STUCK, "Its cluster knows nothing of it")):
        assert says in await text(house, f"/rollovers?domain={domain}&authority=5eed0002")
    page = await text(house, f"/rollovers?domain={AWAY}&class=jwt_key")
    assert re.search(r'authority=c3d2[^"]*">.{0,80}</a> as the hub knows it: .{0,40}active', page, re.S)
    odd = "<script>alert(1)</script>\u202e"
    told = rotated(odd, answers.now_ms)
    told["rotations"][0] |= {"successor": odd, "why": odd}
    told["steps"][0]["body"] |= {"step": odd, "missing": [odd]}
    answers.answer = told
    page = await text(house, "/rollovers?" + urlencode({"domain": LATE, "authority": odd}))
    assert page.count("&lt;script&gt;alert") >= 5 and "<script>alert" not in page and "\u202e" not in page
    answers.answer = {"rotations": []}
    assert "its own trust domain has them" in await text(house, f"/rollovers?domain={LATE}&class=root")
    for broken in ({"rotations": 7}, {"rotations": [{"id": 7}, "x"], "steps": {}}, ["x"], "x"):
        answers.answer = broken
        assert "could not be read" in await text(house, f"/rollovers?domain={LATE}&class=jwt_key"), broken
    answers.away = True
    assert "Its cluster did not answer" in await text(house, f"/rollovers?domain={LATE}&class=jwt_key")
    await house.close()


def test_what_a_cluster_says_of_a_rotation_stays_text_within_bounds() -> None:
    told = rotated("jwt-0002", 10 * HOUR)
    body = {
        "step": ["<script>"] * 99,
        "missing": ["\u202e" * 999] * 999,
        "journal": "9",
        "retires": {"a": 1},
        "forced": 1,
    }
    odd = [{**told["steps"][0], "body": body}, {**told["steps"][0], "position": 2**62}, {"body": 7}, 7]
    leaf = {**told["rotations"][0], "class_": "leaf"}
    found, stepped, position = read_rotations({**told, "rotations": [leaf, *told["rotations"], 7], "steps": odd})
    assert [one.predecessor for one in found] == ["jwt-0001"] and position == 9_950
    assert len(stepped) == 1 and len(stepped[0].step) == 64 and stepped[0].says.endswith(" and 994 more")
    assert len(stepped[0].says) < 500 and "journal" not in stepped[0].says and "forced" not in stepped[0].says
    for broken in (None, [], "x", 7, {"rotations": 7, "steps": None, "position": 2**62}):
        assert read_rotations(broken) == ([], [], 0)


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


def test_the_funnel_loses_only_what_had_to_come_further() -> None:
    told = [
        Stage("due", 100, {"excused": 2}),
        Stage("issued", 90, {"silent": 3}),
        Stage("delivered", 90, {}),
        Stage("loaded", 50, {"kept the old one": 4}),
        Stage("confirmed", 20, {}),
    ]
    assert [(step.lost, step.enough, step.reasons) for step in steps(told)] == [
        (10, 0, [("silent", 3), ("still under way, or no reason told", 7)]),
        (0, 0, []),
        (4, 36, [("kept the old one", 4)]),
        (0, 30, []),
        (0, 0, []),
    ]
    assert steps(told)[0].left_out == (("excused", 2),)
    assert [step.lost for step in steps([Stage("due", 5, {}), Stage("loaded", 9, {"x": 3})])] == [0, 0]
    assert steps([]) == [] and steps([Stage("due", 0, {})])[0].share == 0


async def test_advice_comes_last_and_fails_nothing() -> None:
    made = await DashboardHouse.make("auditor")
    now = to_ms(made.clock.now())
    advice = Finding(
        "no-witness", "a.example", "no auditor holds checkpoints", "evidence.witness_directory", advice=True
    )
    made.fleet.stream("a.example", True, now)
    made.fleet.tell_standing("a.example", Standing("a.example", now, lint=(advice,)))
    page = await text(made, "/lint")
    assert "Advice: nothing fails by it" in page and '<tr class="warn">' not in page
    assert "every lifetime nests" in await text(made, "/controls/cryptoperiods")
    assert ">Advice</h2>" in await text(made, "/domain?name=a.example")
    fails = Finding("short-node-svid", "b.example", "a short outage cuts nodes off", "a longer policy.node_ttl")
    made.fleet.stream("b.example", True, now)
    made.fleet.tell_standing("b.example", Standing("b.example", now, lint=(fails,)))
    page = await text(made, "/lint")
    assert page.index("short outage") < page.index("no auditor holds") and page.count('<tr class="warn">') == 1
    assert "1 exception" in await text(made, "/controls/cryptoperiods")
    await made.close()


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
    assert 20 < len(hours) <= 72 and hours[0].ending > 0 and sum(hour.short for hour in hours) == 12
    said = standing("far.example", "x", now)
    far = replace(said.runway[0], hour_ms=now + 70 * HOUR)
    house.fleet.tell_standing("far.example", replace(said, runway=(said.runway[1], far)))
    assert len(hours_of(house.fleet, now, "far.example")) == 70
    assert hours_of(house.fleet, now, STUCK)[0].short == 0
