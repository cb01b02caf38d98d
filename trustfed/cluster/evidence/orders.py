"""What people at the hub decided that this cluster shall do: taken if its own configuration names the kind, and once.

    rotate      {"entries": [...]} or {"authorities": [...]} or {}: SVIDs issued until now are replaced, spread out
    republish   {}: the own envelope and role go to the hub again
    refresh     {}: peers are asked at their own endpoints now
    quarantine  {"node": NAME}: the node is banned
    prepare     {"kind": "x509" | "jwt"}, activate {"authority": ID}, taint {"authority": ID, "remove_first": bool}
    pause, resume {"kind": "x509" | "jwt"}: the rollover waits for people, at most until its last safe moment

Each is an event with who proposed and approved it, and why; its effect is decided by the same rules as an operator's command
here. What moves an authority takes two people at the hub, or a broken glass.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from ca.lifecycle import Kind
from trustfed.cluster import approvals, nodes
from trustfed.cluster.evidence.config import CA_KINDS
from trustfed.cluster.evidence.events import OrderTaken, RolloverPaused, RotationOrdered
from trustfed.cluster.evidence.fleet_link import code_of
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from trustfed.journal.approving import Command, decided
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.journal.ports import Journal
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.pace import Paces

log = logs.get("cluster.evidence")

MAX_BODY = 64 << 10
MAX_NAMED = 1_000
MAX_SPREAD = 86_400
BURST, EVERY_SECONDS = 20, 30.0
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)


class RolloverPause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Let the rollover of this kind of authority wait, or go on."""

    kind: str
    paused: bool


class _Rotate(msgspec.Struct, forbid_unknown_fields=True):
    entries: tuple[str, ...] = ()
    authorities: tuple[str, ...] = ()


class _Node(msgspec.Struct, forbid_unknown_fields=True):
    node: str


class _Kind(msgspec.Struct, forbid_unknown_fields=True):
    kind: str


class _Authority(msgspec.Struct, forbid_unknown_fields=True):
    authority: str
    remove_first: bool = False


_Body = TypeVar("_Body", bound=msgspec.Struct)


class Ordering(Protocol):
    """What two people decided elsewhere (trustfed.journal.approving.Approving)."""

    async def ordered(
        self,
        order_id: str,
        body: msgspec.Struct,
        reason: str,
        *,
        hub: str,
        proposed_by: str,
        approved_by: str,
        break_glass: bool = False,
    ) -> Any: ...


def pause_command() -> Command[ClusterState]:
    """The command by which people hold a rollover back, for `Approving.add`."""

    def decide(state: ClusterState, body: RolloverPause, now: datetime) -> Sequence[TypedEvent]:
        if body.kind not in (Kind.X509, Kind.JWT):
            raise Invalid(f"authority kind {body.kind[:40]!r} is unknown", hint="x509 or jwt")
        return [] if (body.kind in state.evidence.paused) == body.paused else [RolloverPaused(body.kind, body.paused)]

    def words(body: RolloverPause) -> str:
        return f"{'pause' if body.paused else 'resume'} the rollover of {body.kind} authorities"

    return decided("rollover.pause", RolloverPause, decide, words)


class Orders:
    """`take` never raises: its answer says what became of the order."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        taken: Sequence[str],
        approving: Callable[[], Ordering],
        republish: Callable[[], None],
        refresh: Callable[[], Awaitable[int]],
        spread_seconds: int,
        journal: Journal,
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._journal = journal
        self.kinds = tuple(taken)
        self._fold, self._approving, self._spread, self._clock = fold, approving, min(spread_seconds, MAX_SPREAD), clock
        self._republish, self._refresh = republish, refresh
        self._pace = Paces(BURST, EVERY_SECONDS)
        self._count = registry.counter("cluster_evidence_orders_total", "orders of the hub", labels=("kind", "outcome"))

    async def take(self, order: pb.Order) -> pb.OrderDone:
        """Do what is ordered, once. An order that is sent again gets the same answer."""
        done = pb.OrderDone(id=order.id[:64])
        kind = order.kind if order.kind in self.kinds else "other"
        try:
            done.outcome = await self._taken(order)
        except Exception as error:  # answer() keeps what is unknown to itself
            done.outcome, done.error = code_of(error), errors.answer(error).line()[:500]
            log.warning("an order of the hub is not taken", order=done.id, kind=order.kind[:40], error=done.error)
        self._count.add(kind=kind, outcome=done.outcome)
        return done

    async def _taken(self, order: pb.Order) -> str:
        self._check(order)
        # Each kind by itself: everyday orders, which one person makes, must not use up what a taint needs.
        if not self._pace.take(order.kind, self._clock.monotonic()):
            raise Unavailable(f"the hub orders to {order.kind} too often", hint="order it again in some minutes")
        effect = self._effect(order)
        await self._same(order)
        await effect()
        log.warning(
            "order of the hub done",
            order=order.id,
            kind=order.kind,
            proposed_by=order.proposed_by,
            approved_by=order.approved_by,
            reason=order.reason[:200],
        )
        return "done"

    def _check(self, order: pb.Order) -> None:
        if not _ID.fullmatch(order.id) or len(order.body) > MAX_BODY or len(order.reason) > 2_000:
            raise Invalid("the order is malformed", hint="an id of 1 to 64 characters, a body of at most 64 KiB")
        if any(len(text) > 200 or not text.isprintable() for text in (order.proposed_by, order.approved_by)):
            raise Invalid("the order names people who cannot be", hint="at most 200 printable characters")
        if order.kind not in self.kinds:
            took = ", ".join(self.kinds) or "none"
            raise Denied(
                f"this cluster takes no orders to {order.kind[:40]!r}; it takes {took}",
                hint="its owner names them in evidence.orders",
            )
        two = order.proposed_by and order.approved_by and order.proposed_by != order.approved_by
        if order.kind in CA_KINDS and not two and not order.break_glass:
            raise Denied(f"an order to {order.kind} takes two people", hint="another person approves it at the hub")

    async def _same(self, order: pb.Order) -> None:
        """Raise Conflict if another order was taken under this id."""
        for recorded in (await self._journal.find(_command(order)))[:1]:
            said = recorded.event.body
            if (said.get("kind"), said.get("body")) != (order.kind, _text(order)):
                raise Conflict(f"order {order.id} was another one before", hint="a new order needs a new id")

    def _effect(self, order: pb.Order) -> Callable[[], Awaitable[None]]:
        """What it does, with everything that is wrong with its body said before it is recorded."""
        match order.kind:
            case "republish":
                return partial(self._republished, order)
            case "refresh":
                return partial(self._refreshed, order)
            case "rotate":
                wanted = _body(order, _Rotate)
                rotation = partial(_rotate, order, wanted, self._clock.now(), self._spread)
                rotation(self._fold.state)
                return partial(self._decided, order, rotation)
            case "quarantine":
                name, now = _body(order, _Node).node, self._clock.now()
                ban = partial(nodes.ban, name=name, reason=f"ordered by the hub: {order.reason or order.id}", now=now)
                ban(self._fold.state)
                return partial(self._decided, order, ban)
            case "prepare":
                kind = _body(order, _Kind).kind
                return partial(self._approved, order, lambda: approvals.preparation(self._fold.state, kind))
            case "activate":
                id_ = _body(order, _Authority).authority
                return partial(self._approved, order, lambda: approvals.AuthorityActivation(id_, order.reason))
            case "taint":
                named = _body(order, _Authority)
                taint = approvals.AuthorityTaint(named.authority, named.remove_first)
                return partial(self._approved, order, lambda: taint)
            case "pause" | "resume":
                pause = RolloverPause(_body(order, _Kind).kind, order.kind == "pause")
                return partial(self._approved, order, lambda: pause)
        raise Invalid(f"an order to {order.kind[:40]!r} is not known here", hint="upgrade this cluster")

    async def _approved(self, order: pb.Order, body: Callable[[], msgspec.Struct]) -> None:
        if await self._journal.find(_command(order)):
            return  # it was done before; what it would do now is another thing
        hub = self._fold.state.hub
        await self._approving().ordered(
            order.id,
            body(),
            order.reason or f"order {order.id} of the hub",
            hub=hub.trust_domain if hub is not None else "hub",
            proposed_by=order.proposed_by,
            approved_by=order.approved_by,
            break_glass=order.break_glass,
        )
        await self._decided(order)

    async def _decided(
        self, order: pb.Order, decide: Callable[[ClusterState], Sequence[TypedEvent]] = lambda _: ()
    ) -> None:
        """Record the order, and what it does, in one append, once."""
        hub, now = self._fold.state.hub, self._clock.now()
        people = (order.proposed_by, order.approved_by)
        taken = OrderTaken(order.id, order.kind, _text(order), *people, order.break_glass, now)
        await self._fold.execute(
            lambda state: [taken, *decide(state)],
            command_id=_command(order),
            actor=f"hub:{hub.trust_domain if hub is not None else ''}",
            reason=order.reason,
            now=now,
        )

    async def _republished(self, order: pb.Order) -> None:
        await self._decided(order)
        self._republish()

    async def _refreshed(self, order: pb.Order) -> None:
        await self._decided(order)
        log.info("peers are asked at their own endpoints", peers=await self._refresh())


def _rotate(order: pb.Order, wanted: _Rotate, now: datetime, spread: int, state: ClusterState) -> list[RotationOrdered]:
    """Everything that was issued until now by what is named; of what does not exist nothing. Raises NotFound, Invalid."""
    if len(wanted.entries) > MAX_NAMED or len(wanted.authorities) > MAX_NAMED:
        raise Invalid(f"at most {MAX_NAMED} entries or authorities in one order")
    if wanted.entries and wanted.authorities:
        raise Invalid("an order to rotate names entries or authorities, not both")
    for id_ in wanted.entries:
        if id_ not in state.entries:
            raise NotFound(f"entry {id_[:64]!r} does not exist")
    live = tuple(a.id for a in state.authorities.values() if a.kind is Kind.X509 and a.not_before <= now < a.not_after)
    for id_ in wanted.authorities:
        if id_ not in live:
            raise NotFound(f"authority {id_[:64]!r} has signed nothing that lives")
    authorities = wanted.authorities or (() if wanted.entries else live)
    deadline = now + timedelta(seconds=spread + 60)
    return [RotationOrdered(order.id, wanted.entries, authorities, now, deadline, spread, order.reason[:200])]


def _body(order: pb.Order, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(order.body or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"the order to {order.kind} does not say what to do: {str(error)[:200]}") from None


def _command(order: pb.Order) -> str:
    """No Command-Id of a client can be this: it is a header."""
    return f"order-taken→{order.id}"


def _text(order: pb.Order) -> str:
    return order.body.decode("utf-8", "replace")
