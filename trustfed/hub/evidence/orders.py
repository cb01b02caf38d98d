"""Orders to clusters: each is an event of the hub's journal first, then it is sent until its cluster says what became of it.

A cluster applies an order once, whatever it is sent, and its own configuration says which kinds it takes at all. Who has to
agree to an order is decided before it comes here (trustfed.journal.approving).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from trustfed.errors import Unavailable
from trustfed.hub.domains import enrolled
from trustfed.hub.evidence import state as rules
from trustfed.hub.evidence.events import EvidenceEvent, OrderEnded, OrderMade
from trustfed.hub.evidence.session import Session, Sessions
from trustfed.hub.evidence.state import Ordered
from trustfed.hub.state import HubState
from trustfed.journal.fold import Fold
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms

LIFE_MS = 60 * 60 * 1000
WAIT_SECONDS = 5.0
EXPIRE_SECONDS = 15.0
_log = logs.get("hub.evidence.orders")


class Order(msgspec.Struct, frozen=True):
    """What a cluster shall do. `kind` as in trustfed/proto/evidence.proto; `approved_by` is "" where one person is enough."""

    kind: str
    body: Mapping[str, Any]
    reason: str
    proposed_by: str
    approved_by: str = ""
    break_glass: bool = False
    id: str = ""


class Orders:
    """Sends what is open, and records what became of it."""

    def __init__(
        self, fold: Fold[HubState], sessions: Sessions, clock: Clock, randomness: Callable[[int], bytes]
    ) -> None:
        self._fold, self._sessions, self._clock, self._randomness = fold, sessions, clock, randomness
        self._waiting: dict[str, asyncio.Event] = {}

    async def order(self, domain: str, order: Order) -> str:
        """Record an order, send it, and answer its outcome: the cluster's word, or "waiting" when there is none yet.

        NotFound or Conflict for a domain that is not enrolled, Conflict when 100 wait already.
        """
        made = self.made(domain, order)
        news = self._waiting.setdefault(made.id, asyncio.Event())
        try:
            await self._fold.execute(
                lambda state: decide(state, made),
                command_id=f"order {made.id}",
                actor=order.proposed_by,
                reason=order.reason,
                now=self._clock.now(),
            )
            try:
                async with asyncio.timeout(WAIT_SECONDS if self._sessions.get(domain) else 0):
                    await news.wait()
            except TimeoutError:
                return "waiting"
        finally:
            self._waiting.pop(made.id, None)
        return self.outcome(domain, made.id).outcome

    def made(self, domain: str, order: Order) -> OrderMade:
        """The event of an order, for whoever decides it together with something else."""
        now = to_ms(self._clock.now())
        return OrderMade(
            id=order.id or self._randomness(16).hex(),
            domain=domain,
            kind=order.kind,
            body=msgspec.json.encode(order.body).decode(),
            reason=order.reason,
            proposed_by=order.proposed_by,
            approved_by=order.approved_by,
            break_glass=order.break_glass,
            at_ms=now,
            expires_ms=now + LIFE_MS,
        )

    def outcome(self, domain: str, order_id: str) -> Ordered:
        """What became of an order. NotFound."""
        return self._fold.state.evidence.order(domain, order_id)

    def listed(self, domain: str) -> list[Ordered]:
        """The orders of one domain, newest first."""
        return list(reversed(self._fold.state.evidence.orders_of(domain)))

    def greet(self, session: Session) -> None:
        """A cluster has connected: what is open is sent (again)."""
        for one in self._fold.state.evidence.orders_of(session.domain):
            self._send(one.made, one.outcome)

    def on_event(self, event: msgspec.Struct) -> None:
        """An order was made, or ended."""
        if isinstance(event, OrderMade):
            self._send(event, "")
        elif isinstance(event, OrderEnded) and event.id in self._waiting:
            self._waiting[event.id].set()

    async def done(self, domain: str, said: pb.OrderDone) -> None:
        """A cluster says what became of an order; of an unknown one it may say what it likes."""
        await self._end(domain, said.id, said.outcome, said.error)

    async def run(self) -> None:
        """End orders that nobody took in time; until cancelled."""
        while True:
            await self._clock.sleep(EXPIRE_SECONDS)
            now = to_ms(self._clock.now())
            for domain, rows in list(self._fold.state.evidence.orders.items()):
                for one in rows:
                    if not one.outcome and one.made.expires_ms <= now:
                        try:
                            await self._end(domain, one.made.id, "expired", "no cluster took it in time")
                        except Unavailable as error:
                            _log.error("the end of an order is not recorded", order=one.made.id, error=error.message)

    async def _end(self, domain: str, order_id: str, outcome: str, error: str) -> None:
        now = self._clock.now()
        if rules.end_order(self._fold.state.evidence, domain, order_id, outcome, error, to_ms(now)):
            await self._fold.execute(
                lambda state: rules.end_order(state.evidence, domain, order_id, outcome, error, to_ms(now)),
                command_id=self._randomness(16).hex(),
                actor=f"cluster:{domain}" if outcome != "expired" else "hub",
                now=now,
            )
            _log.info("order ended", domain=domain, order=order_id, outcome=outcome, error=error)

    def _send(self, made: OrderMade, outcome: str) -> None:
        session = self._sessions.get(made.domain)
        if session is None or outcome or made.expires_ms <= to_ms(self._clock.now()):
            return
        order = pb.Order(
            id=made.id,
            kind=made.kind,
            body=made.body.encode(),
            proposed_by=made.proposed_by,
            approved_by=made.approved_by,
            reason=made.reason,
            break_glass=made.break_glass,
        )
        session.send(pb.FromHub(order=order))


def decide(state: HubState, made: OrderMade) -> list[EvidenceEvent]:
    """Let an enrolled domain's cluster be told to do something. NotFound, Conflict, Invalid."""
    enrolled(state, made.domain)
    return rules.make_order(state.evidence, made)
