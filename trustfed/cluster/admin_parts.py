"""What every path of the admin socket is made of: its parts, the actor, bodies in and out, decisions recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ca.lifecycle import AuthorityState, Consumer, Level
from ca.lifecycle import Policy as LifecyclePolicy
from trustfed.cluster.approvals import commands
from trustfed.cluster.config import Policy
from trustfed.cluster.presence import Presence
from trustfed.cluster.reported import Reported
from trustfed.cluster.state import ClusterState
from trustfed.errors import Invalid
from trustfed.journal.approvals import LIFE, Actor
from trustfed.journal.approving import Approving
from trustfed.journal.events import Recorded, TypedEvent
from trustfed.journal.fold import Fold
from trustfed.journal.ports import Journal, Ledger
from trustfed.runtime import metrics
from trustfed.runtime.clock import Clock

MAX_PAGE = 1_000
Body = TypeVar("Body")


@dataclass(frozen=True)
class AdminParts:
    """What the admin socket reads and moves."""

    fold: Fold[ClusterState]
    journal: Journal
    ledger: Ledger
    presence: Presence
    policy: Policy
    clock: Clock
    registry: metrics.Registry
    consumers: Callable[[datetime], Sequence[Consumer]]
    lifecycle: LifecyclePolicy
    last_leaf: Callable[[AuthorityState, datetime], datetime]
    hub_status: Callable[[], dict[str, object]]
    reported: Reported
    addresses: dict[str, str]
    ready: Callable[[], list[str]]
    apart: Callable[[], dict[str, object]] = dict
    peers: Callable[[], dict[str, dict[str, object]]] = dict
    proxies: Callable[[], dict[str, object]] = dict
    approval_life: timedelta = LIFE

    @cached_property
    def approvals(self) -> Approving[ClusterState]:
        """The commands on CAs, which take two people."""
        broken = self.registry.counter("cluster_glass_broken_total", "CA commands that one person did without a second")
        return Approving(self.fold, commands(self), self.clock, self.approval_life, broken)


class Reason(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""


async def record(
    parts: AdminParts, request: Request, decide: Callable[[ClusterState], Sequence[TypedEvent]], reason: str = ""
) -> list[Recorded]:
    """Run a decision as the caller. A client that retries names its command in Command-Id, and it is applied once."""
    command_id = command_id_of(request)
    return await parts.fold.execute(
        decide, command_id=command_id, actor=actor(request), reason=reason, now=parts.clock.now()
    )


def actor(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def command_id_of(request: Request) -> str:
    """What the client named its command, so that one that is sent again is the same; else a new id."""
    named = request.headers.get("command-id") or uuid4().hex
    if len(named) > 100:
        raise Invalid("Command-Id is longer than 100 characters", hint="a UUID will do")
    return named


def acting(request: Request) -> Actor:
    """The caller as the rule of two people knows it: each uid with an account is its own person, others are nobody."""
    who = actor(request)
    return Actor(who, who if who.startswith("uid:") else "")


async def body_of(request: Request, kind: type[Body]) -> Body:
    """The JSON body as `kind`; an empty body is an empty object. Raises Invalid naming the member."""
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Invalid(f"the request body does not fit: {str(error)[:200]}") from None


def seconds(period: timedelta) -> int:
    return int(period.total_seconds())


def page(limit: int) -> int:
    return min(max(limit, 1), MAX_PAGE)


def level_of(level: Level) -> dict[str, int]:
    return {"epoch": level.epoch, "sequence": level.sequence}


def answered(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
