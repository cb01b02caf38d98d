"""The dashboard over a hub in memory, asked as a browser asks: cookies, Host, Origin and Sec-Fetch-Site."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import timedelta
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.unit.hub.hub_parts import HubParts
from trustfed.hub.access import Caller
from trustfed.hub.dashboard.actions import two_people
from trustfed.hub.dashboard.door import dashboard_app
from trustfed.hub.dashboard.frame import View
from trustfed.hub.dashboard.logins import Logins
from trustfed.hub.dashboard.news import News
from trustfed.hub.dashboard.parts import DashboardParts
from trustfed.hub.dashboard.sessions import Sessions, csrf_of
from trustfed.hub.dashboard.views import VIEWS
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.orders import Orders
from trustfed.hub.evidence.session import Sessions as ClusterSessions
from trustfed.journal.ports import Journal

ORIGIN = "https://hub.example"
SENT_BY_US = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}


class Browser:
    """One browser with its own cookies."""

    def __init__(self, app: Any, address: str = "192.0.2.7") -> None:
        transport = httpx.ASGITransport(app=app, client=(address, 50_000), raise_app_exceptions=True)
        self.client = httpx.AsyncClient(transport=transport, base_url=ORIGIN, follow_redirects=False)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """A page below /dashboard (or a whole path)."""
        return await self.client.get(_whole(path), headers=headers)

    async def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        """A form that one of our own pages sends."""
        return await self.client.post(_whole(path), data=form or {}, headers={**SENT_BY_US, **headers})

    async def send(self, page: str, action: str, **fields: str) -> httpx.Response:
        """Open a page and send its form `action`, with its hidden fields and these."""
        shown = await self.get(page)
        assert shown.status_code == 200, shown.text
        forms = [one for one in re.findall(r"<form.*?</form>", shown.text, re.S) if f'action="{_whole(action)}"' in one]
        form = next((one for one in forms if 'method="post"' in one), None)
        assert form, f"{page} has no form {action}:\n{shown.text}"
        hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form)
        return await self.post(action, {**{name: unescape(value) for name, value in hidden}, **fields})

    @property
    def csrf(self) -> str:
        """What the forms of this browser's session carry."""
        return csrf_of(self.client.cookies["__Host-trustfed"])

    async def log_in(self, url: str) -> httpx.Response:
        """Open a login link, as a person does."""
        parts = urlsplit(url)
        return await self.send(f"{parts.path}?{parts.query}", "/dashboard/login/link")


class DashboardHouse(Browser):
    """`await DashboardHouse.make("operator")`; `await close()` at the end. `browser()` is another one, logged out."""

    def __init__(self, hub: HubParts, views: Sequence[View], **more: Any) -> None:
        self.hub, self.clock = hub, hub.clock
        self.fleet = Fleet(hub.clock)
        self._folder = TemporaryDirectory()
        self.sessions_file = Path(self._folder.name) / "sessions.db"
        self.sessions = Sessions.open(self.sessions_file, hub.clock, os.urandom)
        self.news = News(self.fleet)
        self.sessions.on_end(self.news.wake)
        self.logins = Logins(hub.operations, self.sessions, os.urandom, ORIGIN)
        hub.operations.approvals.add(two_people.command())
        self.orders = Orders(hub.fold, ClusterSessions(), hub.clock, os.urandom)
        self.parts = DashboardParts(
            hub=hub.parts(),
            orders=self.orders,
            fleet=self.fleet,
            sessions=self.sessions,
            logins=self.logins,
            news=self.news,
            clock=hub.clock,
            hosts=frozenset({"hub.example"}),
            randomness=os.urandom,
            **more,
        )
        self.app = dashboard_app(self.parts, views)
        self.mounted = _mounted(self.app)
        super().__init__(self.mounted)

    @classmethod
    async def make(
        cls, role: str = "", views: Sequence[View] = VIEWS, journal: Journal | None = None, **more: Any
    ) -> DashboardHouse:
        """A house, and the first browser in it logged in with `role` ("": logged out)."""
        made = cls(await HubParts.make(journal), views, **more)
        if role:
            await made.enter(made, role)
        return made

    def browser(self) -> Browser:
        """One more browser."""
        return Browser(self.mounted)

    async def enter(self, browser: Browser, role: str, name: str = "alice", by: str = "uid:1000") -> None:
        """Log a browser in by a link that the user `by` made."""
        url, _ = await self.logins.link(Caller(by, "admin"), name, role, timedelta(minutes=5))
        response = await browser.log_in(url)
        assert response.status_code == 303, response.text

    async def close(self) -> None:
        self.news.close()
        await self.client.aclose()
        await self.sessions.close()
        await self.hub.close()
        self._folder.cleanup()


def _whole(path: str) -> str:
    return path if path.startswith("/dashboard") else f"/dashboard{path}"


def _mounted(app: Any) -> Any:
    from fastapi import FastAPI

    outside = FastAPI()
    outside.mount("/dashboard", app)
    return outside
