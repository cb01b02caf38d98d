"""What the hub's journal adds up to, as far as evidence goes. Pure."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from trustfed.errors import Conflict, Invalid, NotFound
from trustfed.hub.evidence.events import EvidenceEvent, LogCheckpoint, LogKeyPinned, LogsAccepted, OrderEnded, OrderMade
from trustfed.journal.table import Table

MAX_OPEN, MAX_ENDED = 100, 100
"""Orders of one trust domain that wait for it, and ended ones that are remembered."""
EVERYDAY, MAX_EVERYDAY = frozenset({"rotate", "republish", "refresh"}), 80
"""What one operator orders alone, and how many of those may wait: there is always room for what two admins decide."""


class Pin(msgspec.Struct, frozen=True):
    """The log key of one trust domain."""

    vkey: str
    endorsement: bytes
    at_ms: int


class Ordered(msgspec.Struct, frozen=True):
    """One order, and what became of it (outcome "" while it is open)."""

    made: OrderMade
    position: int
    outcome: str = ""
    error: str = ""
    ended_ms: int = 0


class HubEvidence(msgspec.Struct, frozen=True):
    """Log keys, the ledger's checkpoints, and orders."""

    pins: Table[Pin] = Table()  # by domain
    orders: Table[tuple[Ordered, ...]] = Table()  # by domain, oldest first
    checkpoints: tuple[LogCheckpoint, ...] = ()  # the newest of the hub's own

    def orders_of(self, domain: str) -> tuple[Ordered, ...]:
        """The orders of one domain, oldest first."""
        return self.orders.get(domain) or ()

    def order(self, domain: str, order_id: str) -> Ordered:
        """One order. NotFound."""
        for one in self.orders_of(domain):
            if one.made.id == order_id:
                return one
        raise NotFound(f"no order of {domain} has the id {order_id[:64]!r}")


def apply(held: HubEvidence, event: EvidenceEvent, position: int) -> HubEvidence:
    """What is held after one more event."""
    match event:
        case LogKeyPinned():
            return replace(held, pins=held.pins.put(event.domain, Pin(event.vkey, event.endorsement, event.at_ms)))
        case LogsAccepted():
            return held
        case LogCheckpoint():
            return replace(held, checkpoints=(*held.checkpoints[-1:], event))
        case OrderMade():
            row = (*held.orders_of(event.domain), Ordered(event, position))
            return replace(held, orders=held.orders.put(event.domain, row))
        case OrderEnded():
            rows = tuple(_ended(one, event) for one in held.orders_of(event.domain))
            over = len([one for one in rows if one.outcome]) - MAX_ENDED
            if over > 0:
                gone = [one.made.id for one in rows if one.outcome][:over]
                rows = tuple(one for one in rows if one.made.id not in gone)
            return replace(held, orders=held.orders.put(event.domain, rows))


def removed(held: HubEvidence, domain: str) -> HubEvidence:
    """What is held after a domain is out of the federation."""
    return replace(held, pins=held.pins.drop(domain), orders=held.orders.drop(domain))


def make_order(held: HubEvidence, order: OrderMade) -> list[EvidenceEvent]:
    """Let a cluster be told to do something; the same id again changes nothing. Conflict when too many wait."""
    rows = held.orders_of(order.domain)
    if any(one.made.id == order.id for one in rows):
        return []
    most = MAX_EVERYDAY if order.kind in EVERYDAY else MAX_OPEN
    if sum(not one.outcome for one in rows) >= most:
        raise Conflict(f"{most} orders wait for {order.domain} already", hint="is its cluster connected?")
    try:
        msgspec.json.decode(order.body, type=dict)
    except msgspec.DecodeError:
        raise Invalid("the body of an order is not a JSON object") from None
    return [order]


def end_order(
    held: HubEvidence, domain: str, order_id: str, outcome: str, error: str, at_ms: int
) -> list[EvidenceEvent]:
    """Record what became of an order, once."""
    for one in held.orders_of(domain):
        if one.made.id == order_id and not one.outcome:
            return [OrderEnded(order_id, domain, outcome[:32] or "done", error[:1024], at_ms)]
    return []


def _ended(one: Ordered, event: OrderEnded) -> Ordered:
    if one.made.id != event.id:
        return one
    return replace(one, outcome=event.outcome, error=event.error, ended_ms=event.at_ms)
