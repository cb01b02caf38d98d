"""Puts the dashboard together, and gives the hub's own composition one thing to hold."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import RedirectResponse

from trustfed.hub.access import Caller
from trustfed.hub.api import Parts
from trustfed.hub.dashboard import logins_api
from trustfed.hub.dashboard.actions import two_people
from trustfed.hub.dashboard.door import dashboard_app
from trustfed.hub.dashboard.frame import PREFIX
from trustfed.hub.dashboard.logins import Logins
from trustfed.hub.dashboard.news import News
from trustfed.hub.dashboard.oidc import Oidc
from trustfed.hub.dashboard.oidc_config import OidcConfig
from trustfed.hub.dashboard.oidc_key import open_key
from trustfed.hub.dashboard.oidc_provider import Provider
from trustfed.hub.dashboard.parts import DashboardParts
from trustfed.hub.dashboard.sessions import Sessions
from trustfed.hub.events import ApiTokenRevoked
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.orders import Orders
from trustfed.hub.evidence.questions import Questions
from trustfed.hub.operations import Operations
from trustfed.hub.state import HubState
from trustfed.journal.approvals import EVENTS as APPROVALS
from trustfed.journal.approvals import ProposalWithdrawn, open_ones
from trustfed.journal.events import TypedEvent
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms

_APPROVALS = tuple(APPROVALS.values())
AFTER_START = 10.0
"""Seconds after which the pages' templates are compiled that nobody asked for yet."""


class HubDashboard:
    """`await HubDashboard.open(...)`, `mount` it on the applications, `run` it beside the doors; `hush` it before they
    close, `close` it after."""

    def __init__(self, parts: DashboardParts) -> None:
        self.parts = parts
        self.app = dashboard_app(parts)

    @classmethod
    async def open(
        cls,
        hub: Parts,
        fleet: Fleet,
        questions: Questions | None,
        orders: Orders | None,
        *,
        directory: Path,
        address: str,
        hosts: frozenset[str],
        oidc: OidcConfig | None,
        clock: Clock,
        randomness: Callable[[int], bytes],
    ) -> HubDashboard:
        """`address` is where browsers find it; `hosts` as of `hosts_of`. Raises Invalid, Unavailable (its file)."""
        key, anew = b"", False
        if oidc is not None:
            key, anew = await asyncio.to_thread(open_key, directory / "oidc.key", randomness)
        sessions = await asyncio.to_thread(Sessions.open, directory / "sessions.db", clock, randomness)
        logins, news = Logins(hub.operations, sessions, randomness, address), News(fleet)
        sessions.on_end(news.wake)
        hub.operations.approvals.add(two_people.command())
        provider = None
        if oidc is not None:
            provider = Oidc(oidc, Provider(oidc, clock), clock, randomness, f"{address}{PREFIX}/oidc/callback", key)
        # Whoever a provider let in has nobody who answers for them any more, a role that no group of theirs gives now, or
        # counts as somebody else now.
        given = oidc.roles.values() if oidc else ()

        def stands(actor: str, person: str) -> bool:
            return not anew and provider is not None and person == provider.person(actor)

        let_in = [one for one in sessions.alive() if one.how == "oidc"]
        await sessions.end([one for one in let_in if one.role not in given or not stands(one.actor, one.person)])
        await _take_back(hub.operations, stands)
        return cls(
            DashboardParts(
                hub=hub,
                fleet=fleet,
                sessions=sessions,
                logins=logins,
                news=news,
                clock=clock,
                hosts=hosts,
                randomness=randomness,
                questions=questions,
                orders=orders,
                oidc=provider,
            )
        )

    def mount(self, public: FastAPI, admin: FastAPI, api: str) -> None:
        """Put the pages at the HTTPS door, and the routes of logins at both."""
        routes = logins_api.routes(self.parts.logins, self.parts.sessions)
        public.include_router(routes, prefix=api)
        admin.include_router(routes)

        async def first_page() -> RedirectResponse:
            return RedirectResponse(f"{PREFIX}/", 303)

        for path in ("/", PREFIX):
            public.add_api_route(path, first_page, methods=["GET"], include_in_schema=False)
        public.mount(PREFIX, self.app)

    async def run(self) -> None:
        """Tell open pages what changes in the fleet; and, once the start is over, have every page ready for its first reader."""
        preparing = asyncio.create_task(self._prepare())
        try:
            await self.parts.news.run()
        finally:
            preparing.cancel()

    async def _prepare(self) -> None:
        # Half a second of a core in all: not while doors open and clusters come back, and with pauses for others.
        await asyncio.sleep(AFTER_START)
        for _ in self.app.state.frame.ahead():
            await asyncio.sleep(0.05)

    def on_event(self, event: TypedEvent) -> None:
        """One event of the hub's journal, after it was folded."""
        self.parts.news.tell("journal", *(("approvals",) if isinstance(event, _APPROVALS) else ()))
        if isinstance(event, ApiTokenRevoked):  # streams of logins that it opened end now
            self.parts.news.wake()

    def hush(self) -> None:
        """End the streams of open pages."""
        self.parts.news.close()

    async def close(self) -> None:
        """Close the file of sessions, once nobody asks any more."""
        self.hush()
        await self.parts.sessions.close()


async def _take_back(operations: Operations, stands: Callable[[str, str], bool]) -> None:
    """Withdraw what accounts of a provider proposed as somebody that they are not now: they could approve it themselves."""
    why = "the account that proposed it counts as somebody else since the hub was started anew"

    def gone(state: HubState) -> list[ProposalWithdrawn]:
        now = operations.now()
        return [
            ProposalWithdrawn(one.id, one.command, "hub", why, to_ms(now))
            for one in open_ones(state.proposals, now)
            if one.proposed_by.startswith("oidc:") and not stands(one.proposed_by, one.person)
        ]

    if gone(operations.state):
        await operations.record(Caller("hub", "admin"), gone, why)


def hosts_of(*places: str) -> frozenset[str]:
    """Names and addresses, with a port or without, as the Host header is compared with: without one, in lower case.

    On a loopback address it is also "localhost", which no name of somebody else's can be.
    """
    found: set[str] = set()
    for place in places:
        host = place.removeprefix("https://").rstrip("/")
        if host.startswith("["):
            host = host[1:].partition("]")[0]
        elif host.count(":") == 1:
            host = host.partition(":")[0]
        if not host:
            continue
        found.add(host.lower())
        try:
            if ipaddress.ip_address(host).is_loopback:
                found |= {"localhost", "127.0.0.1", "::1"}
        except ValueError:
            continue
    return frozenset(found)
