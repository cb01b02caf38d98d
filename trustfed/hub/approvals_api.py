"""The operators' routes for what takes two people: CA commands are proposed (202), another person approves them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Response
from msgspec import Struct

from trustfed.hub import presentation as show
from trustfed.hub.access import Caller
from trustfed.hub.api import Admin, Auditor, Parts, shown_domain, shown_roots
from trustfed.hub.approvals import (
    NEXT_ROOT,
    PREPARED_ROOT,
    DomainRemoval,
    IntermediateRevocation,
    RootRetirement,
)
from trustfed.hub.domains import check_reason, intermediate
from trustfed.hub.orders import Approval, CaCommand, RevocationOrder, RootRetirementOrder, Withdrawal
from trustfed.hub.state import HubState
from trustfed.journal.approving import Pinned

Json = dict[str, Any]
CommandId = Annotated[str | None, Header(alias="Command-Id", min_length=1, max_length=100)]
Ask = Callable[..., Awaitable[Json]]


def routes(parts: Parts) -> APIRouter:
    """All of them."""
    router = APIRouter()
    _commands(router, parts, _asking(parts))
    _approvals(router, parts)
    return router


def _asking(parts: Parts) -> Ask:
    operations = parts.operations

    async def ask(
        response: Response,
        caller: Caller,
        body: Struct | Pinned[HubState],
        order: CaCommand,
        command_id: str | None,
        done: Callable[[], Json],
    ) -> Json:
        """What is done, or 202 and the proposal that waits for another person."""
        asked = await operations.ask(
            caller, body, order.reason, break_glass=order.break_glass, command_id=command_id or ""
        )
        if asked.waits and asked.proposal:
            response.status_code = 202
            return operations.approvals.waiting(asked.proposal)
        return done()

    return ask


def _commands(router: APIRouter, parts: Parts, ask: Ask) -> None:
    operations = parts.operations

    @router.delete("/domains/{name}")
    async def remove(
        response: Response,
        caller: Admin,
        name: str,
        reason: Annotated[str, Query(max_length=1024)],
        break_glass: bool = False,
        command_id: CommandId = None,
    ) -> Json:
        """Take a trust domain out: its grants end and its intermediates are revoked. Takes two people."""
        order = CaCommand(reason=check_reason(reason), break_glass=break_glass)
        body = DomainRemoval(name, reason)
        return await ask(response, caller, body, order, command_id, lambda: shown_domain(parts, name))

    @router.post("/intermediates/{serial}/revoke")
    async def revoke(
        response: Response,
        caller: Admin,
        serial: str,
        order: Annotated[RevocationOrder, Body()],
        command_id: CommandId = None,
    ) -> Json:
        """Put an intermediate onto the CRL; `reason` is one of RFC 5280 §5.3.1, such as keyCompromise. Takes two people."""
        serial = intermediate(
            operations.state, serial
        ).serial  # what is proposed, and journalled, names it as the hub does
        body, why = (
            IntermediateRevocation(serial, order.reason),
            CaCommand(reason=order.why, break_glass=order.break_glass),
        )
        if not order.break_glass and not order.why:
            why = CaCommand(reason=order.reason)
        return await ask(
            response, caller, body, why, command_id, lambda: show.intermediate(operations.state.intermediates[serial])
        )

    @router.post("/roots/prepare")
    async def prepare(
        response: Response,
        caller: Admin,
        order: Annotated[CaCommand | None, Body()] = None,
        command_id: CommandId = None,
    ) -> Json:
        """Put the next root into the root set; it signs nothing yet. Takes two people."""
        return await ask(response, caller, NEXT_ROOT, order or CaCommand(), command_id, lambda: shown_roots(parts))

    @router.post("/roots/activate")
    async def activate(
        response: Response,
        caller: Admin,
        order: Annotated[CaCommand | None, Body()] = None,
        command_id: CommandId = None,
    ) -> Json:
        """Let the prepared root sign from now on. Takes two people."""
        return await ask(response, caller, PREPARED_ROOT, order or CaCommand(), command_id, lambda: shown_roots(parts))

    @router.post("/roots/retire")
    async def retire(
        response: Response,
        caller: Admin,
        order: Annotated[RootRetirementOrder, Body()],
        command_id: CommandId = None,
    ) -> Json:
        """Take a replaced root out of the root set: what it signed is believed no more. Takes two people."""
        check_reason(order.reason)
        body = RootRetirement(order.name, order.force)
        return await ask(response, caller, body, order, command_id, lambda: shown_roots(parts))


def _approvals(router: APIRouter, parts: Parts) -> None:
    approvals = parts.operations.approvals

    @router.get("/approvals")
    async def listed(caller: Auditor, broken: bool = False, all: bool = False) -> Json:
        """What waits for another person; `broken` lists what was done without one, `all` also what has ended."""
        return {"approvals": approvals.listed(broken=broken, all_=all)}

    @router.get("/approvals/{proposal}")
    async def found(caller: Auditor, proposal: str) -> Json:
        """One proposal."""
        return approvals.found(proposal)

    @router.post("/approvals/{proposal}/approve")
    async def approve(caller: Admin, proposal: str, said: Annotated[Approval | None, Body()] = None) -> Json:
        """Let it happen, as another person than its proposer: it is done when this answers."""
        await approvals.approve(caller.acting, proposal, said.body_hash if said else "")
        return approvals.found(proposal)

    @router.post("/approvals/{proposal}/withdraw")
    async def withdraw(caller: Admin, proposal: str, said: Annotated[Withdrawal | None, Body()] = None) -> Json:
        """Take it back, or say no."""
        await approvals.withdraw(caller.acting, proposal, said.reason if said else "")
        return approvals.found(proposal)
