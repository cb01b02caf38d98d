"""The pages of actions: choose one, see what it touches, say why; then orders, proposals and exceptions, and what became
of them.

A page with a form is shown to whoever may send it, and to nobody else; the route checks the role all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from trustfed.errors import Conflict, Denied, Invalid, TrustfedError
from trustfed.hub.dashboard.actions import decisions
from trustfed.hub.dashboard.actions.action import Action, Asking, Field
from trustfed.hub.dashboard.actions.catalogue import ACTIONS, action_named
from trustfed.hub.dashboard.frame import PREFIX, View, render, visit_of
from trustfed.hub.dashboard.guard import Guard
from trustfed.hub.dashboard.parts import DashboardParts
from trustfed.runtime.errors import answer
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain, shown

MAX_REASON = 1_024
LEAST_REASON = 3
GLASS = "break the glass"
"""What has to be typed to do alone what takes two."""
_GROUP = "Actions"


class ActionPages:
    """All of them, over the parts of one hub."""

    def __init__(self, parts: DashboardParts) -> None:
        self._parts = parts

    @property
    def views(self) -> tuple[View, ...]:
        """The pages in the navigation."""
        return (
            View("/actions", "Actions", "What can be done from here?", self.listed, "operator", _GROUP),
            View("/orders", "Orders", "What became of what clusters were ordered?", self.orders, "auditor", _GROUP),
            View("/exceptions", "Exceptions", "Who answers for what, until when?", self.exceptions, "viewer", _GROUP),
        )

    def routes(self, guard: Guard) -> list[Route]:
        """The pages beside the navigation, and the forms: those of actions check the action's own role besides."""
        return [
            guard.get("/actions/{kind}", self.asked, "operator"),
            guard.post("/actions/{kind}", self.done, "operator"),
            guard.post("/exceptions/{id}/end", self.end_exception, "operator"),
        ]

    async def listed(self, request: Request) -> Response:
        """Every action that this visitor may take."""
        visit, groups = visit_of(request), dict[str, list[Action]]()
        for action in ACTIONS:
            if visit.may(action.role):
                groups.setdefault(action.group, []).append(action)
        done = request.query_params.get("done", "")
        said = next((action.title for action in ACTIONS if action.kind == done), "")
        domain = request.query_params.get("domain", "")[:255]
        return render(request, "actions.html.jinja", groups=groups, said=said, domain=domain)

    async def asked(self, request: Request) -> Response:
        """First what it is about; then what it touches, and the form that does it."""
        action = self._allowed(request)
        given = {name: text[:2_048] for name, text in request.query_params.items()}
        return await self._page(request, action, given)

    async def done(self, request: Request, form: dict[str, str]) -> Response:
        """Do it, or say on the same page why not."""
        action, visit = self._allowed(request), visit_of(request)
        try:
            values = self._values(action, form)
            blast = action.blast(self._parts, values)
            if blast.blocked:
                raise Conflict(blast.blocked)
            alone = self._alone(action, form)
            asking = Asking(visit.caller, values, _reason(form), alone)
            done = await action.perform(self._parts, asking)
        except TrustfedError as error:
            return await self._page(request, action, form, error)
        self._parts.news.tell("journal")
        return RedirectResponse(done.href, 303)

    async def orders(self, request: Request) -> Response:
        """The newest orders, of one domain or of all."""
        state, domain = self._parts.hub.operations.state, request.query_params.get("domain", "")
        if domain:
            domain = TrustDomain.parse(domain).name
        names = [domain] if domain else list(state.evidence.orders)
        rows = [one for name in names for one in state.evidence.orders_of(name)]
        rows.sort(key=lambda one: (one.made.at_ms, one.position), reverse=True)
        marked = request.query_params.get("order", "")[:64]
        return render(request, "orders.html.jinja", rows=rows[:200], total=len(rows), domain=domain, marked=marked)

    async def exceptions(self, request: Request) -> Response:
        """Who answers for what: the journal knows who said so, and why."""
        state, now = self._parts.hub.operations.state, visit_of(request).now_ms
        held = sorted(state.dashboard.exceptions.values(), key=lambda one: one.until_ms)
        rows = []
        for one in held:
            found = await self._parts.hub.journal.read(one.position - 1, 1)
            event = found[0].event if found else None
            rows.append((one, event.actor if event else "", event.reason if event else "", one.until_ms <= now))
        return render(request, "exceptions.html.jinja", rows=rows)

    async def end_exception(self, request: Request, form: dict[str, str]) -> Response:
        """End an exception before its time."""
        held, reason = request.path_params["id"], _reason(form)
        await self._parts.hub.operations.record(
            visit_of(request).caller, lambda state: decisions.end_exception(state, held), reason
        )
        return RedirectResponse(f"{PREFIX}/exceptions", 303)

    def _allowed(self, request: Request) -> Action:
        action = action_named(request.path_params["kind"])
        visit_of(request).caller.must_be(action.role)
        return action

    def _values(self, action: Action, given: Mapping[str, str]) -> dict[str, str]:
        """The checked values of all fields. Raises what is wrong with the first one."""
        values: dict[str, str] = {}
        for field in action.fields:
            text = given.get(field.name, "").strip()
            if not text and not field.optional:
                raise Invalid(f"{field.label} is missing", hint="choose one")
            if text and field.check:
                text = field.check(self._parts, text, values)
            values[field.name] = text
        return values

    @staticmethod
    def _alone(action: Action, form: Mapping[str, str]) -> bool:
        """Whether the glass is broken: only where it takes two, and only with the words typed."""
        if form.get("how") != "glass":
            return False
        if action.people != 2:
            raise Denied(f"{action.title.lower()} takes one person: there is no glass to break")
        if form.get("confirmation", "").strip().lower() != GLASS:
            raise Invalid(f"the glass is broken only by typing {GLASS!r}", hint="or propose it, for another person")
        return True

    async def _page(
        self, request: Request, action: Action, given: Mapping[str, str], error: TrustfedError | None = None
    ) -> Response:
        visit, blast = visit_of(request), None
        known: dict[str, str] = {}
        missing = error
        try:
            known = self._values(action, given)
            blast = action.blast(self._parts, known)
            if action.learn:
                more = await action.learn(self._parts, known)
                blast = replace(blast, facts=[*blast.facts, *more.facts], warnings=[*more.warnings, *blast.warnings])
        except TrustfedError as fault:
            asked_for = any(given.get(field.name, "").strip() for field in action.fields[1:]) or error is not None
            missing = missing or (fault if asked_for else None)
        fields: list[tuple[Field, str, Sequence[tuple[str, str]] | None, bool]] = []
        values: dict[str, str] = {}
        for field in action.fields:
            text = given.get(field.name, "").strip()
            try:
                values[field.name] = field.check(self._parts, text, values) if text and field.check else text
            except TrustfedError:
                values[field.name] = ""
            ready = all(values.get(before.name) or before.optional for before, *_ in fields)
            options = field.options(self._parts, values) if field.options and ready else None
            fields.append((field, values[field.name], options, ready))
        status = answer(error).http_status if error else 200
        return render(
            request,
            "action.html.jinja",
            status,
            title=action.title,
            question=action.does,
            action=action,
            fields=fields,
            known=known if blast else {},
            blast=blast,
            error=missing,
            reason=given.get("reason", "")[:MAX_REASON] if error else "",
            glass=GLASS,
            most=MAX_REASON,
            person=visit.caller.acting.person,
            at_ms=to_ms(self._parts.clock.now()),
        )


def _reason(form: Mapping[str, str]) -> str:
    """Why: one line. Raises Invalid."""
    reason = " ".join(form.get("reason", "").split())
    if not LEAST_REASON <= len(reason) <= MAX_REASON or not reason.isprintable():
        raise Invalid(
            f"a reason is a line of {LEAST_REASON} to {MAX_REASON:,} characters, not {shown(reason)}",
            hint="say why: it is kept in the journal",
        )
    return reason
