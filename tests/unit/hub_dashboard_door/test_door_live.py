"""Server-sent events, search and the frame: news reaches open pages, names lead to their pages, and nothing typed is run."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from tests.unit.hub_dashboard_door.dashboard_house import DashboardHouse
from trustfed.evidence.standing import Standing, Unknown
from trustfed.hub.dashboard import news as news_module
from trustfed.hub.dashboard.frame import View, render, visit_of

HOSTILE = "<script>alert(1)</script>\"'\r\n\u202e"
SERIAL = "0123456789abcdef0123456789abcdef"


class Stream:
    """An open /dashboard/events, asked at the application itself: it does not end by itself."""

    def __init__(self, house: DashboardHouse, names: str, cookie: str, heard: str = "") -> None:
        self.parts: asyncio.Queue[bytes] = asyncio.Queue()
        self.status = 0
        self._left = asyncio.Event()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/dashboard/events",
            "raw_path": b"/dashboard/events",
            "root_path": "",
            "query_string": f"names={names}".encode(),
            "headers": [
                (b"host", b"hub.example"),
                (b"cookie", f"__Host-trustfed={cookie}".encode()),
                *([(b"last-event-id", heard.encode())] if heard else []),
            ],
            "http_version": "1.1",
            "scheme": "https",
            "client": ("192.0.2.7", 1),
            "server": ("hub.example", 443),
        }
        self.task = asyncio.create_task(house.mounted(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.parts.put_nowait(message.get("body", b""))

    async def next(self) -> bytes:
        async with asyncio.timeout(20):
            return await self.parts.get()

    async def leave(self) -> None:
        self._left.set()
        async with asyncio.timeout(20):
            await self.task


async def _open(house: DashboardHouse, names: str, seen: str | None = None, heard: str = "") -> Stream:
    query = f"{names}&seen={house.news.mark if seen is None else seen}"
    stream = Stream(house, query, house.client.cookies["__Host-trustfed"], heard)
    assert b"retry:" in await stream.next()
    return stream


async def test_open_pages_hear_the_names_that_they_asked_for(peopled: DashboardHouse) -> None:
    house = peopled
    await house.enter(house, "viewer")
    running = asyncio.create_task(house.news.run())
    stream = await _open(house, "standing+domain:prod-us")
    await asyncio.sleep(0)
    house.news.tell("journal")  # not asked for
    house.fleet.tell_standing("prod-us", Standing("prod-us", 1))
    assert await stream.next() == f"id: {house.news.mark}\nevent: change\ndata: domain:prod-us standing\n\n".encode()
    await stream.leave()
    running.cancel()


async def test_what_came_between_a_page_and_its_stream_is_told_at_once(house: DashboardHouse) -> None:
    await house.enter(house, "viewer")
    page = (await house.get("/")).text
    (seen,) = re.findall(r'data-seen="([0-9a-f]{16}\.[0-9]+)"', page)
    house.news.tell("journal")
    stream = await _open(house, "journal+approvals", seen)
    told = (await stream.next()).decode()
    assert told.endswith("event: change\ndata: journal\n\n")
    await stream.leave()
    # The connection breaks: the browser says what it heard last, not what the page knew.
    heard = told.partition("\n")[0].removeprefix("id: ")
    again = await _open(house, "journal+approvals", seen, heard)
    house.news.tell("approvals")
    assert (await again.next()).endswith(b"data: approvals\n\n")
    await again.leave()


@pytest.mark.parametrize("seen", ["", "0123456789abcdef.1", "x", "{of}.", "{of}.-1", "{of}.1e3", "{of}." + "9" * 5000])
async def test_a_mark_of_nobody_knows_nothing(house: DashboardHouse, seen: str) -> None:
    await house.enter(house, "viewer")
    stream = await _open(house, "journal", seen.replace("{of}", house.news.mark.partition(".")[0]))
    assert (await stream.next()).endswith(b"data: journal\n\n")
    await stream.leave()


async def test_marks_are_bounded(house: DashboardHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_module, "_MAX_KNOWN", 3)
    of = house.news.mark.partition(".")[0]
    house.news.tell("a", "b", "c")
    assert house.news.mark == f"{of}.1"
    house.news.tell("d")
    assert house.news.mark.partition(".")[0] != of and len(house.news._last) == 1


async def test_a_stream_ends_with_its_session(house: DashboardHouse) -> None:
    await house.enter(house, "viewer")
    stream = await _open(house, "journal")
    await house.send("/search", "/logout")
    seen = [await stream.next()]
    while b"event: end" not in seen[-1]:
        seen.append(await stream.next())
    async with asyncio.timeout(20):
        await stream.task


async def test_streams_are_bounded_and_given_back(house: DashboardHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.enter(house, "viewer")
    streams = [await _open(house, "journal") for _ in range(news_module.MAX_OF_ONE)]
    assert (await house.get("/events?names=journal")).status_code == 503
    for stream in streams:
        await stream.leave()
    again = await _open(house, "journal")
    house.news.close()  # the hub stops
    async with asyncio.timeout(20):
        await again.task


NO_NAMES = ("", "<b>", "a b" * 100, "journal%0d%0adata:x", "DOMAIN:x", "domain:" + "a" * 300)


async def test_what_is_no_name_of_news_is_refused(house: DashboardHouse) -> None:
    await house.enter(house, "viewer")
    for names in NO_NAMES:
        assert (await house.get(f"/events?names={names}")).status_code == 400, names


JUMPS = {
    "prod-us": "/dashboard/domain?name=prod-us",
    "spiffe://prod-us": "/dashboard/domain?name=prod-us",
    "spiffe://prod-us/payments/api": "/dashboard/identity?id=spiffe%3A%2F%2Fprod-us%2Fpayments%2Fapi",
    SERIAL.upper(): f"/dashboard/identity?serial={SERIAL}&domain=prod-us",
    "01:23:45:67:89:ab:cd:ef:01:23:45:67:89:ab:cd:ef": f"/dashboard/identity?serial={SERIAL}&domain=prod-us",
}


async def test_a_search_jumps_to_what_it_names(peopled: DashboardHouse) -> None:
    unknown = Unknown(SERIAL, "spiffe://prod-us/x", "10.0.0.1:443", "handshake", 1, 2)
    peopled.fleet.tell_standing("prod-us", Standing("prod-us", 1, unknown=(unknown,), unknown_count=1))
    await peopled.enter(peopled, "viewer")
    for text, leads_to in JUMPS.items():
        answer = await peopled.client.get("/dashboard/search", params={"q": f" {text} "})
        assert answer.status_code == 303 and answer.headers["location"] == leads_to, text


async def test_a_search_lists_what_it_may_be(peopled: DashboardHouse) -> None:
    await peopled.enter(peopled, "viewer")
    peopled.fleet.know("prod-eu")
    page = await peopled.get("/search?q=prod")
    assert page.status_code == 200 and page.text.count('href="/dashboard/domain?name=prod-') == 2
    asked = await peopled.get("/search?q=" + "f" * 30)
    assert f"/dashboard/identity?serial=00{'f' * 30}&amp;domain=prod-us" in asked.text
    assert "Nothing to look for" in (await peopled.get("/search?q=")).text


TYPED = (HOSTILE, "javascript:alert(1)", "//evil.example", "spiffe://nobody/x", "{{7*7}}", "\x00")


async def test_what_is_typed_is_never_more_than_text(house: DashboardHouse) -> None:
    await house.enter(house, "viewer")
    for text in TYPED:
        answer = await house.client.get("/dashboard/search", params={"q": text})
        assert answer.status_code == 200, text
        shown = answer.text.partition("<main")[2].partition("<footer")[0]
        assert "<script>alert" not in answer.text and "\u202e" not in shown and "49" not in shown, text
    assert (await house.client.get("/dashboard/search", params={"q": "x" * 3000})).status_code == 400


async def _hostile(request: Request) -> Response:
    assert visit_of(request).caller.role == "viewer"
    return render(request, "error.html.jinja", title=HOSTILE, question=HOSTILE, message=HOSTILE, hint=HOSTILE, code=200)


async def _broken(request: Request) -> Response:
    raise RuntimeError(f"a secret of the house: {HOSTILE}")


async def test_views_stand_in_the_frame_and_their_faults_are_pages() -> None:
    views = (
        View("/", "First", "What?", _hostile, group="Some"),
        View("/broken", "Broken", "Why?", _broken, group="Some"),
        View("/grave", "Grave", "Who?", _hostile, "admin", "Some"),
    )
    house = await DashboardHouse.make("viewer", views)
    page = await house.get("/")
    assert page.status_code == 200 and "<script>alert" not in page.text
    assert 'href="/dashboard/broken"' in page.text and 'href="/dashboard/grave"' not in page.text
    assert 'aria-current="page"' in page.text
    fault = await house.get("/broken")
    assert fault.status_code == 500 and "secret of the house" not in fault.text and "the log has it under" in fault.text
    await house.close()


async def test_a_page_that_renews_itself_keeps_readers_in_and_nobody_who_may_act(house: DashboardHouse) -> None:
    reader, actor = house.browser(), house.browser()
    await house.enter(reader, "viewer", name="reader")
    await house.enter(actor, "operator", name="actor")
    for _ in range(3):
        house.clock.move(1_500)
        last = [(await one.get("/search?q=x", **{"X-Fragment": "1"})).status_code for one in (reader, actor)]
    assert last == [200, 401]
