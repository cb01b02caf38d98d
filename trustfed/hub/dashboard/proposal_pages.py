"""What waits for a second person: the list, what each would do, and the yes or no of another one.

The rule itself is not here (trustfed.journal.approvals): a page only asks. What is approved is what the page showed, by the
hash of its body.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from trustfed.errors import Conflict, Denied, TrustfedError
from trustfed.hub.dashboard.frame import PREFIX, View, render, visit_of
from trustfed.hub.dashboard.guard import Guard
from trustfed.hub.dashboard.parts import DashboardParts

MAX_REASON = 1_024


class ProposalPages:
    """Proposals and broken glasses."""

    def __init__(self, parts: DashboardParts) -> None:
        self._parts, self._approvals = parts, parts.hub.operations.approvals

    @property
    def views(self) -> tuple[View, ...]:
        """The pages in the navigation."""
        return (View("/proposals", "Proposals", "What waits for a second person?", self.listed, "auditor", "Actions"),)

    def routes(self, guard: Guard) -> list[Route]:
        """One proposal, and the two answers to it."""
        return [
            guard.get("/proposals/{id}", self.one, "auditor"),
            guard.post("/proposals/{id}/approve", self.approve, "admin"),
            guard.post("/proposals/{id}/withdraw", self.withdraw, "admin"),
        ]

    async def listed(self, request: Request) -> Response:
        """What is open, and what ended."""
        rows = self._approvals.listed(all_=True)
        waiting = [row for row in rows if row["status"] == "open"]
        ended = [row for row in rows if row["status"] != "open"]
        return render(request, "proposals.html.jinja", waiting=waiting, ended=ended[:100])

    async def one(self, request: Request) -> Response:
        """What it would do, who wants it, and why."""
        return self._page(request, request.path_params["id"])

    async def approve(self, request: Request, form: dict[str, str]) -> Response:
        """Let it happen, as another person than who proposed it."""
        found = request.path_params["id"]
        try:
            await self._approvals.approve(visit_of(request).caller.acting, found, form.get("body_hash", "") or "none")
        except (Denied, Conflict) as error:
            return self._page(request, found, error)
        self._parts.news.tell("approvals", "journal")
        return RedirectResponse(f"{PREFIX}/proposals/{found}", 303)

    async def withdraw(self, request: Request, form: dict[str, str]) -> Response:
        """End it before it happens."""
        found, reason = request.path_params["id"], " ".join(form.get("reason", "").split())[:MAX_REASON]
        try:
            await self._approvals.withdraw(visit_of(request).caller.acting, found, reason)
        except (Denied, Conflict) as error:
            return self._page(request, found, error)
        self._parts.news.tell("approvals", "journal")
        return RedirectResponse(f"{PREFIX}/proposals", 303)

    def _page(self, request: Request, found: str, error: TrustfedError | None = None) -> Response:
        shown, visit = self._approvals.found(found), visit_of(request)
        held = self._parts.hub.operations.state.proposals[found]
        mine = bool(held.person) and visit.caller.acting.person == held.person
        status = 200 if error is None else 403 if isinstance(error, Denied) else 409
        title = f"Proposal {found}"
        return render(
            request,
            "proposal.html.jinja",
            status,
            title=title,
            question="What would this do, and who wants it?",
            one=shown,
            held=held,
            mine=mine,
            named=bool(visit.caller.acting.person),
            error=error,
        )
