"""Login by a link: once, in time, by a button, into a new session, on record without its secret."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from tests.unit.hub_dashboard_door.dashboard_house import Browser, DashboardHouse
from trustfed.errors import Denied, Invalid
from trustfed.hub.access import Caller
from trustfed.hub.dashboard import door_pace
from trustfed.hub.dashboard.guard import own_path

ADMIN = Caller("uid:1000", "admin")
MINUTES = timedelta(minutes=5)


def _token(url: str) -> str:
    return parse_qs(urlsplit(url).query)["token"][0]


async def test_a_link_works_once_also_when_two_open_it_at_once(house: DashboardHouse) -> None:
    url, _ = await house.logins.link(ADMIN, "alice", "operator", MINUTES)
    others = [house.browser() for _ in range(6)]
    answers = await asyncio.gather(*(one.post("/login/link", {"token": _token(url)}) for one in others))
    assert sorted(answer.status_code for answer in answers) == [303, 403, 403, 403, 403, 403]
    assert (await house.post("/login/link", {"token": _token(url)})).status_code == 403
    (session,) = house.sessions.alive()
    assert (session.actor, session.role, session.person) == ("uid:1000/alice", "operator", "uid:1000")


async def test_looking_at_a_link_does_not_spend_it(house: DashboardHouse) -> None:
    url, _ = await house.logins.link(ADMIN, "alice", "viewer", MINUTES)
    path = urlsplit(url).path + "?" + urlsplit(url).query
    for _ in range(3):
        page = await house.get(path)
        assert page.status_code == 200 and "set-cookie" not in page.headers
    assert (await house.log_in(url)).status_code == 303


async def test_what_opens_nothing_is_refused_in_the_same_words(house: DashboardHouse) -> None:
    for text in ("", "x", "trustfed-login-0123456789abcdef-" + "A" * 43, "trustfed-login-" + "a" * 400):
        page = await house.post("/login/link", {"token": text})
        assert page.status_code == 403 and "not known here, is over, or was opened already" in page.text
        assert (await house.client.get("/dashboard/login/link", params={"token": text})).status_code == 403


async def test_a_link_ends(house: DashboardHouse) -> None:
    url, until_ms = await house.logins.link(ADMIN, "alice", "viewer", MINUTES)
    assert until_ms == int(house.clock.now().timestamp() * 1000) + 300_000
    house.clock.move(301)
    assert (await house.post("/login/link", {"token": _token(url)})).status_code == 403


async def test_the_journal_has_who_and_when_and_no_secret(house: DashboardHouse) -> None:
    url, _ = await house.logins.link(ADMIN, "alice", "auditor", MINUTES)
    await house.log_in(url)
    cookie = house.client.cookies["__Host-trustfed"]
    await house.send("/search", "/logout")
    events = [record.event for record in await house.hub.journal.read(0, 1000)]
    seen = {event.kind: event for event in events if event.kind.startswith("login.")}
    assert [event.kind for event in events if event.kind.startswith("login.")] == [
        "login.linked",
        "login.opened",
        "login.ended",
    ]
    assert seen["login.linked"].actor == "uid:1000" and seen["login.opened"].actor == "uid:1000/alice"
    everything = msgspec.json.encode(events).decode()
    assert _token(url) not in everything and _token(url)[-43:] not in everything and cookie not in everything


async def test_a_session_is_new_at_each_login(house: DashboardHouse) -> None:
    fixed = "A" * 43
    house.client.cookies.set("__Host-trustfed", fixed, domain="hub.example")
    await house.enter(house, "viewer")
    first = house.client.cookies["__Host-trustfed"]
    assert first != fixed and house.sessions.of(fixed) is None
    await house.enter(house, "viewer")
    second = house.client.cookies["__Host-trustfed"]
    assert second != first and house.sessions.of(first) is None and house.sessions.of(second)


async def test_the_cookie_is_for_this_origin_alone(house: DashboardHouse) -> None:
    url, _ = await house.logins.link(ADMIN, "alice", "viewer", MINUTES)
    cookie = (await house.log_in(url)).headers["set-cookie"]
    name, _, rest = cookie.partition("=")
    attributes = {part.strip().lower() for part in rest.split(";")[1:]}
    assert name == "__Host-trustfed" and attributes == {"path=/", "secure", "httponly", "samesite=lax"}


async def test_logging_out_ends_the_session_at_the_server(house: DashboardHouse) -> None:
    await house.enter(house, "viewer")
    cookie = house.client.cookies["__Host-trustfed"]
    assert (await house.send("/search", "/logout")).headers["location"] == "/dashboard/login"
    house.client.cookies.set("__Host-trustfed", cookie, domain="hub.example")
    assert (await house.get("/search")).headers["location"].startswith("/dashboard/login")


async def test_nobody_gives_more_than_they_have(house: DashboardHouse) -> None:
    with pytest.raises(Denied):
        await house.logins.link(Caller("token:1", "operator"), "eve", "admin", MINUTES)
    for name, role, life in (
        ("Al ice", "viewer", MINUTES),
        ("a", "root", MINUTES),
        ("a", "viewer", timedelta(hours=2)),
    ):
        with pytest.raises(Invalid):
            await house.logins.link(ADMIN, name, role, life)


async def test_open_links_are_bounded_and_those_that_are_over_do_not_count(house: DashboardHouse) -> None:
    for _ in range(200):
        await house.logins.link(ADMIN, "a", "viewer", MINUTES)
    with pytest.raises(Exception, match="200 login links"):
        await house.logins.link(ADMIN, "a", "viewer", MINUTES)
    house.clock.move(301)
    await house.logins.link(ADMIN, "a", "viewer", MINUTES)
    assert len(house.hub.state.dashboard.links) == 1


async def test_links_of_a_revoked_token_take_nobodys_place(house: DashboardHouse) -> None:
    token, _ = await house.hub.operations.issue_token(ADMIN, "ci", "admin", timedelta(days=1))
    for _ in range(200):
        await house.logins.link(Caller(f"token:{token}", "admin", "uid:1000"), "mallory", "admin", MINUTES)
    with pytest.raises(Exception, match="200 login links"):
        await house.logins.link(ADMIN, "a", "viewer", MINUTES)
    await house.hub.operations.revoke_token(ADMIN, token)
    await house.logins.link(ADMIN, "a", "viewer", MINUTES)


async def test_whom_a_revoked_token_let_in_is_out_at_once(house: DashboardHouse) -> None:
    operations, open_one = house.hub.operations, timedelta(minutes=50)
    token, _ = await operations.issue_token(ADMIN, "ci", "admin", timedelta(days=1))
    maker = Caller(f"token:{token}", "admin", "uid:1000")
    used, _ = await house.logins.link(maker, "mallory", "admin", open_one)
    unused, _ = await house.logins.link(maker, "mallory", "admin", open_one)
    await house.enter(other := house.browser(), "viewer", by="uid:1001")
    assert (await house.log_in(used)).status_code == 303 and (await house.get("/actions")).status_code == 200
    await operations.revoke_token(ADMIN, token)
    assert (await house.get("/actions")).status_code == 303
    assert (await house.post("/login/link", {"token": _token(unused)})).status_code == 403
    assert [one.actor for one in house.sessions.alive()] == ["uid:1001/alice"]
    assert (await other.get("/")).status_code == 200
    await other.client.aclose()


async def test_a_login_ends_with_the_token_whose_link_it_was(house: DashboardHouse) -> None:
    token, _ = await house.hub.operations.issue_token(ADMIN, "ci", "admin", timedelta(minutes=10))
    maker = Caller(f"token:{token}", "admin", "uid:1000")
    used, _ = await house.logins.link(maker, "ann", "viewer", timedelta(minutes=50))
    late, _ = await house.logins.link(maker, "ann", "viewer", timedelta(minutes=50))
    assert (await house.log_in(used)).status_code == 303
    house.clock.move(599)
    assert (await house.get("/")).status_code == 200
    house.clock.move(1)
    assert (await house.get("/")).status_code == 303 and not house.sessions.alive()
    assert (await house.post("/login/link", {"token": _token(late)})).status_code == 403


async def test_tries_are_paced_by_address(house: DashboardHouse) -> None:
    answers = [(await house.post("/login/link", {"token": "x"})).status_code for _ in range(door_pace.BURST + 2)]
    assert answers == [403] * door_pace.BURST + [429] * 2
    house.clock.move(door_pace.SECONDS)
    assert (await house.post("/login/link", {"token": "x"})).status_code == 403


async def test_one_address_does_not_use_up_what_all_have(house: DashboardHouse) -> None:
    other = Browser(house.mounted, "198.51.100.9")
    for _ in range(door_pace.BURST_OF_ALL + door_pace.BURST):
        await house.post("/login/link", {"token": "x"})
    assert (await other.post("/login/link", {"token": "x"})).status_code == 403
    await other.client.aclose()


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.example/",
        "//evil.example/dashboard/",
        "/\\evil.example",
        "/dashboard/\\..\\x",
        "/dashboard/../api",
        "javascript:alert(1)",
        "/dashboardx",
        "/dashboard/\r\nSet-Cookie: a=b",
        "/dashboard/ü",
        "/dashboard/" + "a" * 3000,
        "",
    ],
)
def test_a_redirect_leads_nowhere_else(text: str) -> None:
    assert own_path(text) == "/dashboard/"


async def test_whoever_is_logged_out_comes_back_to_the_page(house: DashboardHouse) -> None:
    sent = await house.get("/search?q=a%26b")
    assert sent.status_code == 303
    assert sent.headers["location"] == "/dashboard/login?next=%2Fdashboard%2Fsearch%3Fq%3Da%2526b"
    page = await house.get(sent.headers["location"])
    assert page.status_code == 200 and "trustfed hub login" in page.text
    assert (await house.get("/search", **{"X-Fragment": "1"})).status_code == 401
