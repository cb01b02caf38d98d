"""The dashboard at the hub's own doors: mounted, led to, and let in from the admin socket's side."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.unit.hub.hub_parts import HubParts
from tests.unit.hub_dashboard_door.dashboard_house import Browser
from trustfed.cli.main import main
from trustfed.errors import Invalid
from trustfed.hub.access import Caller
from trustfed.hub.dashboard.compose import HubDashboard, hosts_of
from trustfed.hub.dashboard.oidc_config import DashboardConfig
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.public import API, admin_app, https_app
from trustfed.runtime.sockets import listen_unix
from trustfed.runtime.web import HttpDoor


class Doors:
    """The hub's two applications with the dashboard mounted."""

    def __init__(self, hub: HubParts, dashboard: HubDashboard) -> None:
        parts = dashboard.parts.hub
        self.hub, self.dashboard = hub, dashboard
        public = https_app(parts, timedelta(days=1), lambda: True)
        operators = admin_app(parts, lambda: True)
        dashboard.mount(public, operators, API)
        self.operators = operators
        self.browser = Browser(public)
        transport = httpx.ASGITransport(app=operators, client=("uid:1000", 1))
        self.admin = httpx.AsyncClient(transport=transport, base_url="http://admin")


@pytest_asyncio.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    hub = await HubParts.make()
    dashboard = await HubDashboard.open(
        hub.parts(),
        Fleet(hub.clock),
        None,
        None,
        directory=tmp_path,
        address="https://hub.example",
        hosts=hosts_of("hub.example:9443"),
        oidc=None,
        clock=hub.clock,
        randomness=os.urandom,
    )
    made = Doors(hub, dashboard)
    yield made
    await made.browser.client.aclose()
    await made.admin.aclose()
    await dashboard.close()
    await hub.close()


async def test_a_link_from_the_admin_socket_opens_the_dashboard(doors: Doors) -> None:
    order = {"name": "alice", "role": "auditor", "ttl": "5m"}
    made = (await doors.admin.post("/logins", json=order)).json()
    assert made["url"].startswith("https://hub.example/dashboard/login/link?token=trustfed-login-")
    assert (await doors.browser.log_in(made["url"])).status_code == 303
    (listed,) = (await doors.admin.get("/logins")).json()["logins"]
    assert (listed["actor"], listed["role"], listed["how"]) == ("uid:1000/alice", "auditor", "link")
    assert (await doors.browser.get("/search?q=")).status_code == 200
    ended = await doors.admin.delete(f"/logins/{listed['id']}")
    assert ended.status_code == 200 and (await doors.browser.get("/search?q=")).status_code == 303
    assert (await doors.admin.delete(f"/logins/{listed['id']}")).status_code == 404


async def test_the_command_line_makes_lists_and_ends_logins(
    doors: Doors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    socket, written = tmp_path / "admin.sock", tmp_path / "link"
    door = HttpDoor(doors.operators, listen_unix(socket))
    await door.open()

    async def run(*arguments: str) -> str:
        assert await asyncio.to_thread(main, ["hub", *arguments, "--socket", str(socket)]) == 0
        return capsys.readouterr().out

    made = (await run("login", "--role", "operator", "--name", "alice")).strip()
    assert (await doors.browser.log_in(made)).status_code == 303
    assert await run("login", "--write", str(written)) == ""
    assert written.stat().st_mode & 0o777 == 0o600 and written.read_text().startswith("https://hub.example/dashboard/")
    (session,) = json.loads(await run("logins", "--output", "json"))
    assert session["actor"] == f"uid:{os.getuid()}/alice" and session["role"] == "operator"
    assert session["id"] in await run("logins")
    assert await run("logout", session["id"]) == f"session {session['id']} has ended\n"
    assert await run("logins") == "none\n"
    await door.close()


async def test_only_admins_make_links(doors: Doors) -> None:
    operations = doors.hub.operations
    for role, status in (("viewer", 403), ("auditor", 403), ("operator", 403), ("admin", 201)):
        _, token = await operations.issue_token(Caller("uid:1000", "admin"), role, role, timedelta(hours=1))
        bearer = {"Authorization": f"Bearer {token}"}
        answer = await doors.browser.client.post(f"{API}/logins", json={"role": "viewer"}, headers=bearer)
        assert answer.status_code == status, role
    assert (await doors.browser.client.post(f"{API}/logins", json={})).status_code == 401
    for odd in ({"role": "root"}, {"ttl": "2h"}, {"name": "<b>"}, {"who": "x"}):
        assert (await doors.admin.post("/logins", json=odd)).status_code == 400, odd


async def test_the_root_leads_to_the_dashboard_and_nowhere_else(doors: Doors) -> None:
    for path in ("/", "/dashboard"):
        for host in ("hub.example", "evil.example"):
            answer = await doors.browser.client.get(path, headers={"Host": host})
            assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/")
    # The API is not the dashboard's: its cookie opens nothing there, and its bearers nothing here.
    _, token = await doors.hub.operations.issue_token(Caller("uid:0", "admin"), "x", "admin", timedelta(hours=1))
    answer = await doors.browser.client.get("/dashboard/actions", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 303
    made = (await doors.admin.post("/logins", json={"role": "admin"})).json()
    await doors.browser.log_in(made["url"])
    assert (await doors.browser.client.get(f"{API}/status")).status_code == 401


def test_the_hosts_are_names_without_ports() -> None:
    assert hosts_of("Hub.Example:9443", "https://x.example:1/", "[2001:db8::1]:3", "") == {
        "hub.example",
        "x.example",
        "2001:db8::1",
    }
    assert {"localhost", "127.0.0.1", "::1"} <= hosts_of("127.0.0.1:0")


@pytest.mark.parametrize("address", ["http://x", "https://", "https://x/y", "https://u@x", "https://x?y", "x"])
def test_an_address_is_an_origin(address: str) -> None:
    with pytest.raises(Invalid):
        DashboardConfig(address=address)
