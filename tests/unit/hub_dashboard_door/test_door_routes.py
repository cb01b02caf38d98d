"""Every route of the dashboard by everybody: who gets in, what each answer says to the browser, and that no other site gets
a form sent. The table is the application itself: a route that is added is walked without being named here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest_asyncio
from starlette.routing import Route

from tests.unit.hub_dashboard_door.dashboard_house import ORIGIN, SENT_BY_US, Browser, DashboardHouse
from trustfed.hub.access import ROLES
from trustfed.hub.dashboard.actions.catalogue import ACTIONS
from trustfed.hub.dashboard.csrf import MAX_FIELDS, MAX_FORM
from trustfed.hub.dashboard.frame import TEMPLATES
from trustfed.hub.dashboard.security_headers import HEADERS, SecurityHeaders

PEOPLE = ("", *ROLES)


class Town:
    """One house, and one browser for each role."""

    def __init__(self, house: DashboardHouse, people: dict[str, Browser]) -> None:
        self.house, self.people = house, people
        self.routes = [route for route in house.app.routes if isinstance(route, Route)]
        self.pages = [route for route in self.routes if not route.endpoint.changes]
        self.forms = [route for route in self.routes if route.endpoint.changes]

    def csrf(self, role: str) -> str:
        session = self.house.sessions.of(self.people[role].client.cookies.get("__Host-trustfed"))
        return session.csrf if session else ""


@pytest_asyncio.fixture
async def town() -> AsyncIterator[Town]:
    house = await DashboardHouse.make()
    people = {role: house.browser() for role in PEOPLE}
    for role in ROLES:
        await house.enter(people[role], role, name=role)
    yield Town(house, people)
    for one in people.values():
        await one.client.aclose()
    await house.close()


def _address(route: Route) -> str:
    """The route with something in its parameters; actions with their real names."""
    filled = re.sub(r"\{kind\}", "rotate", route.path)
    return "/dashboard" + re.sub(r"\{[^}]+\}", "nothing", filled)


async def _asked(browser: Browser, address: str) -> httpx.Response:
    if address.endswith("/events"):  # a stream that is let in does not end: it is asked for nothing that is news
        address += "?names=%3Cnothing%3E"
    return await browser.get(address)


async def test_pages_are_shown_to_their_role_and_above_with_nothing_inline_and_no_form_for_readers(town: Town) -> None:
    assert len(town.pages) >= 12
    for route in town.pages:
        for role in PEOPLE:
            answer = await _asked(town.people[role], _address(route))
            needed = route.endpoint.role
            if not needed:
                assert answer.status_code in (200, 303, 403, 404, 429), (route.path, role)
            elif not role:
                assert answer.status_code == 303, (route.path, role)
                assert answer.headers["location"].startswith("/dashboard/login"), (route.path, role)
            elif ROLES.index(role) < ROLES.index(needed):
                assert answer.status_code == 403, (route.path, role)
            else:
                assert answer.status_code in (200, 400, 404), (route.path, role, answer.text)
            if "html" in answer.headers.get("content-type", ""):
                _check_page(answer.text, role, route.path)


async def test_every_answer_says_the_same_to_the_browser(town: Town) -> None:
    for route in town.routes:
        for role in ("", "admin"):
            method = "POST" if route.endpoint.changes else "GET"
            browser, address = town.people[role], _address(route)
            answer = await (browser.post(address) if method == "POST" else _asked(browser, address))
            for name, value in HEADERS.items():
                assert answer.headers[name] == value, (route.path, role, name)
            assert answer.headers["cache-control"] == "no-store" or "/static/" in route.path, route.path
    missing = await town.people["viewer"].get("/no/such/page")
    assert missing.status_code == 404 and missing.headers["content-security-policy"]


def _check_page(page: str, role: str, path: str) -> None:
    """Nothing inline, nothing from elsewhere, and for a reader no form but the way out."""
    assert not re.search(r"<[^>]+\s(?:on\w+|style)\s*=", page), path
    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|javascript:", page), path
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page), path
    if role in ("viewer", "auditor"):
        forms = [form for form in re.findall(r"<form[^>]*>", page) if 'method="post"' in form]
        assert all("/dashboard/log" in form for form in forms), path


async def test_forms_take_their_role_and_above(town: Town) -> None:
    assert len(town.forms) >= 6
    for route in town.forms:
        if route.path == "/logout":
            continue
        for role in PEOPLE:
            answer = await town.people[role].post(_address(route), {"csrf": town.csrf(role)})
            needed = route.endpoint.role
            if needed and not role:
                assert answer.status_code == 401, (route.path, role)
            elif needed and ROLES.index(role) < ROLES.index(needed):
                assert answer.status_code == 403, (route.path, role)
            elif needed:
                assert answer.status_code in (400, 404, 409), (route.path, role, answer.text)


FOREIGN: list[dict[str, str]] = [
    {},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://hub.example"},
    {"Origin": "https://hub.example:444"},
    {"Origin": "https://hub.example.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "https://a.hub.example"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "cross-site", "Origin": ORIGIN},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
]


async def test_no_other_site_gets_a_form_sent(town: Town) -> None:
    browser = town.people["admin"]
    for route in town.forms:
        for headers in FOREIGN:
            form = {"csrf": town.csrf("admin"), "reason": "because"}
            answer = await browser.client.post(_address(route), data=form, headers=headers)
            assert answer.status_code == 403, (route.path, headers)
            assert "not sent by a page of this dashboard" in answer.text, (route.path, headers)
    assert town.house.sessions.of(browser.client.cookies["__Host-trustfed"])


async def test_our_own_pages_do(town: Town) -> None:
    browsers = (SENT_BY_US, {"Sec-Fetch-Site": "same-origin", "Origin": "null"}, {"Origin": ORIGIN})
    for role, headers in zip(ROLES, browsers, strict=False):
        browser = town.people[role].client
        answer = await browser.post("/dashboard/logout", data={"csrf": town.csrf(role)}, headers=headers)
        assert answer.status_code == 303, headers


async def test_a_form_needs_the_token_of_its_own_session(town: Town) -> None:
    for token in ("", "x", town.csrf("viewer"), town.csrf("admin") + "x"):
        for route in town.forms:
            if route.endpoint.role:
                answer = await town.people["admin"].post(_address(route), {"csrf": token})
                assert answer.status_code == 403, route.path


async def test_forms_are_bounded_and_forms(town: Town) -> None:
    admin, csrf = town.people["admin"], town.csrf("admin")

    async def send(content: str, kind: str = "application/x-www-form-urlencoded") -> int:
        headers = {**SENT_BY_US, "Content-Type": kind}
        return (await admin.client.post("/dashboard/logout", content=content, headers=headers)).status_code

    assert await send(f'{{"csrf": "{csrf}"}}', "application/json") == 400
    assert await send(f"csrf={csrf}", "multipart/form-data; boundary=x") == 400
    assert await send(f"csrf={csrf}&a=" + "x" * MAX_FORM) == 400
    assert await send(f"csrf={csrf}" + "&a=b" * MAX_FIELDS) == 400
    assert await send(f"csrf={csrf}&csrf={csrf}") == 400
    assert await send(f"csrf={csrf}&a=%ff%fe") == 400
    assert await send("%zz") == 400


async def test_a_browser_comes_back_by_tls_alone_and_loads_no_data_from_an_address(town: Town) -> None:
    answer = await town.people[""].get("/login")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert "data:" not in answer.headers["content-security-policy"]
    used = [*TEMPLATES.rglob("*.jinja"), *(TEMPLATES.parent / "static").iterdir()]
    assert len(used) > 10 and not [path for path in used if re.search(r"(?:data|blob):[a-z]", path.read_text())]
    app = SecurityHeaders(town.house.app, frozenset(("localhost", "hub.example")))
    for origin in ("http://hub.example", "https://localhost:9443", "https://evil.example"):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=origin) as plain:
            assert "strict-transport-security" not in (await plain.get("/nothing")).headers, origin


HOSTS = ("evil.example", "hub.example.evil.example", "hub.example@evil", "hub.example/..", "", "hub.example:x", "[::1")


async def test_another_host_gets_nothing(town: Town) -> None:
    for host in HOSTS:
        for path in ("/dashboard/", "/dashboard/login", "/dashboard/static/x"):
            answer = await town.people["admin"].client.get(path, headers={"Host": host})
            assert answer.status_code == 421 and "evil" not in answer.text, (host, path)


async def test_a_reader_takes_no_action(town: Town) -> None:
    for role in ("viewer", "auditor"):
        for action in ACTIONS:
            assert (await town.people[role].get(f"/actions/{action.kind}")).status_code == 403
            answer = await town.people[role].post(
                f"/actions/{action.kind}", {"csrf": town.csrf(role), "reason": "because"}
            )
            assert answer.status_code == 403, action.kind


async def test_operators_take_no_admins_action(town: Town) -> None:
    for action in ACTIONS:
        page = await town.people["operator"].get(f"/actions/{action.kind}")
        assert page.status_code == (200 if action.role == "operator" else 403), action.kind
        if action.role == "admin":
            form = {"csrf": town.csrf("operator"), "reason": "because"}
            assert (await town.people["operator"].post(f"/actions/{action.kind}", form)).status_code == 403


async def test_other_methods_are_refused(town: Town) -> None:
    for route in town.routes:
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "POST" if not route.endpoint.changes else "GET"):
            shared = [one for one in town.routes if one.path == route.path and method in (one.methods or ())]
            if not shared:
                answer = await town.people["admin"].client.request(method, _address(route), headers=SENT_BY_US)
                assert answer.status_code in (403, 404, 405), (method, route.path)


async def test_files_are_kept_for_ever_under_the_name_of_their_content(town: Town) -> None:
    page = (await town.people[""].get("/login")).text
    sheet = re.search(r'href="(/dashboard/static/style\.[0-9a-f]{16}\.css)"', page)
    assert sheet
    answer = await town.people[""].get(sheet[1])
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "text/css; charset=utf-8" and answer.headers["content-encoding"] == "gzip"
    for name in ("style.css", "style.0000000000000000.css", "..%2fdoor.py", "%2e%2e/door.py", "../door.py"):
        assert (await town.people["admin"].get(f"/static/{name}")).status_code == 404


async def test_a_flood_of_one_session_waits_behind_itself_and_not_in_front_of_others() -> None:
    house = await DashboardHouse.make("viewer")
    other, done = house.browser(), list[str]()
    await house.enter(other, "viewer", by="uid:1001")

    async def look(browser: Browser, name: str) -> None:
        assert (await browser.get("/")).status_code == 200
        done.append(name)

    flood = [asyncio.create_task(look(house, "flood")) for _ in range(40)]
    await asyncio.sleep(0)
    await look(other, "other")
    await asyncio.gather(*flood)
    assert done.index("other") < 10
    await other.client.aclose()
    await house.close()
