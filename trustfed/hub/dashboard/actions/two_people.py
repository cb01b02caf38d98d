"""Orders to clusters that move an authority: two people at the hub decide them, and the order names both.

The command is "cluster.order" (trustfed.journal.approving); its effect is the same event that an everyday order is, so it is
sent, repeated and answered like one. The cluster holds the two to be two by the hub's word, if its owner configured so.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from trustfed.errors import Invalid
from trustfed.hub.evidence.events import OrderMade
from trustfed.hub.evidence.orders import LIFE_MS
from trustfed.hub.evidence.orders import decide as decide_order
from trustfed.hub.state import HubState
from trustfed.journal.approving import Command, decided
from trustfed.journal.events import TypedEvent
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import shown

KINDS = {
    "prepare": "prepare a successor of the {kind} authority of {domain}",
    "activate": "let {authority} of {domain} sign from now on",
    "taint": "trust {authority} of {domain} no longer",
    "pause": "pause the rollover of the {kind} authority of {domain}",
    "resume": "let the rollover of the {kind} authority of {domain} go on",
}


class ClusterOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Have the cluster of `domain` do this to its authorities."""

    id: str
    domain: str
    kind: str
    body: dict[str, str]
    reason: str


def command() -> Command[HubState]:
    """For `Approving.add`: with both names in the event that it leaves."""
    made = decided("cluster.order", ClusterOrder, _decide, _words)
    return Command(made.name, made.body, made.words, made.check, made.make, _named)


def _named(events: Sequence[TypedEvent], proposed_by: str, approved_by: str) -> Sequence[TypedEvent]:
    alone = not approved_by
    return [
        replace(one, proposed_by=proposed_by, approved_by=approved_by, break_glass=alone)
        if isinstance(one, OrderMade)
        else one
        for one in events
    ]


def _decide(state: HubState, said: ClusterOrder, now: datetime) -> Sequence[TypedEvent]:
    if said.kind not in KINDS:
        raise Invalid(f"order {shown(said.kind)} does not take two people", hint=f"one of: {', '.join(KINDS)}")
    at = to_ms(now)
    made = OrderMade(
        id=said.id,
        domain=said.domain,
        kind=said.kind,
        body=msgspec.json.encode(said.body).decode(),
        reason=said.reason,
        proposed_by="",
        approved_by="",
        break_glass=False,
        at_ms=at,
        expires_ms=at + LIFE_MS,
    )
    return decide_order(state, made)


def _words(said: ClusterOrder) -> str:
    known = {"kind": "", "authority": "", **said.body}
    return KINDS.get(said.kind, said.kind).format(domain=said.domain, kind=known["kind"], authority=known["authority"])
