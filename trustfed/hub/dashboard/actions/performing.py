"""How actions are done: an order to a cluster, a decision of the hub, or a proposal that a second person approves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode

import msgspec

from trustfed.errors import Unavailable
from trustfed.hub import domains
from trustfed.hub.dashboard.actions import decisions
from trustfed.hub.dashboard.actions.action import Asking, Done, Values
from trustfed.hub.dashboard.actions.two_people import ClusterOrder
from trustfed.hub.dashboard.events import ActionTaken
from trustfed.hub.dashboard.frame import PREFIX
from trustfed.hub.dashboard.parts import DashboardParts
from trustfed.hub.evidence.orders import Order, Orders
from trustfed.runtime.config import duration

Perform = Callable[[DashboardParts, Asking], Awaitable[Done]]
Body = Callable[[Values], Mapping[str, object]]


def nothing(values: Values) -> Mapping[str, object]:
    """The body of an order that says all by its kind."""
    return {}


def rotation(values: Values) -> Mapping[str, object]:
    """Which entries shall get new certificates; all without any."""
    entries = values.get("entries", "").split()
    return {"entries": entries} if entries else {}


def order(kind: str, body: Body) -> Perform:
    """One person orders a cluster to do it."""

    async def perform(parts: DashboardParts, asking: Asking) -> Done:
        domain = asking.values["domain"]
        made = Order(kind, body(asking.values), asking.reason, asking.caller.actor, id=parts.randomness(16).hex())
        await _orders(parts).order(domain, made)
        return Done(f"{PREFIX}/orders?{urlencode({'domain': domain, 'order': made.id})}")

    return perform


def order_of_two(kind: str, *members: str) -> Perform:
    """One person proposes to order it, another one approves."""

    async def perform(parts: DashboardParts, asking: Asking) -> Done:
        _orders(parts)
        body = {name: asking.values[name] for name in members}
        said = ClusterOrder(parts.randomness(16).hex(), asking.values["domain"], kind, body, asking.reason)
        done = await proposed(parts, asking, said)
        if asking.break_glass:
            return Done(f"{PREFIX}/orders?{urlencode({'domain': said.domain, 'order': said.id})}")
        return done

    return perform


def command(make: Callable[[DashboardParts, Values], msgspec.Struct]) -> Perform:
    """One person proposes a command on the hub's own CA, another one approves."""

    async def perform(parts: DashboardParts, asking: Asking) -> Done:
        return await proposed(parts, asking, make(parts, {**asking.values, "reason": asking.reason}))

    return perform


async def proposed(parts: DashboardParts, asking: Asking, body: msgspec.Struct) -> Done:
    """Propose what `body` says, or do it with the glass broken."""
    asked = await parts.hub.operations.ask(asking.caller, body, asking.reason, break_glass=asking.break_glass)
    parts.news.tell("approvals")
    return Done(f"{PREFIX}/proposals/{asked.proposal.id}" if asked.proposal else f"{PREFIX}/proposals")


async def send_again(parts: DashboardParts, asking: Asking) -> Done:
    """Send a cluster everything that it shall hold."""
    domain = asking.values["domain"]
    await _taken(parts, asking, "repush")
    parts.hub.relay.repeat(domain, parts.hub.operations.state)
    return _back("repush", domain)


async def publish_again(parts: DashboardParts, asking: Asking) -> Done:
    """Bring a domain's bundle to every target."""
    domain = asking.values["domain"]
    await _taken(parts, asking, "publish")
    parts.hub.publication.again(domains.enrolled(parts.hub.operations.state, domain))
    return _back("publish", domain)


async def make_exception(parts: DashboardParts, asking: Asking) -> Done:
    """Answer for something for a time."""
    values, now, made = asking.values, parts.hub.operations.now(), parts.randomness(8).hex()
    await parts.hub.operations.record(
        asking.caller,
        lambda state: decisions.except_(
            state,
            made,
            domain=values["domain"],
            subject=values.get("subject", ""),
            life=duration(values["life"]),
            now=now,
        ),
        asking.reason,
    )
    return Done(f"{PREFIX}/exceptions")


async def change_owner(parts: DashboardParts, asking: Asking) -> Done:
    """Let somebody else answer for a domain."""
    domain, owner = asking.values["domain"], asking.values["owner"]
    await parts.hub.operations.record(
        asking.caller, lambda state: decisions.change_owner(state, domain, owner), asking.reason
    )
    parts.fleet.know(domain, owner=owner)
    return _back("owner", domain)


async def _taken(parts: DashboardParts, asking: Asking, kind: str) -> None:
    taken = ActionTaken(kind, asking.values["domain"])
    await parts.hub.operations.record(asking.caller, lambda _: [taken], asking.reason)


def _back(kind: str, domain: str) -> Done:
    return Done(f"{PREFIX}/actions?{urlencode({'done': kind, 'domain': domain})}")


def _orders(parts: DashboardParts) -> Orders:
    if parts.orders is None:
        raise Unavailable("this hub gives no orders to clusters", hint="its evidence service is not running")
    return parts.orders
