"""Desired state made so: decided as a whole, recorded in as few appends as the journal allows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from trustfed.cluster.mesh.desired import plan
from trustfed.cluster.mesh.desired.plan import Terms
from trustfed.cluster.mesh.desired.wanted import Wanted
from trustfed.cluster.state import ClusterState
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.journal.ports import MAX_EVENTS
from trustfed.runtime.clock import Clock
from trustfed.runtime.reach import Reach


@dataclass(frozen=True)
class By:
    """Who applies it, and why."""

    command_id: str
    actor: str
    reason: str


async def apply(
    fold: Fold[ClusterState],
    wanted: Mapping[tuple[str, str], Wanted],
    terms: Terms,
    by: By,
    clock: Clock,
    reach: Reach,
) -> int:
    """How many events it took. Up to 1,000 are one append; beyond that each append is decided on what is then.

    Raises what `plan.decide` does, before anything of that append is kept: a directory with a fault changes nothing.
    """
    made, turn = 0, 0
    while True:
        now, seen = clock.now(), fold.state
        # Thousands of documents take a while: the loop goes on meanwhile, on a state that does not change.
        first = await asyncio.to_thread(plan.decide, seen, wanted, terms, now, reach)

        def decide(
            state: ClusterState, seen: ClusterState = seen, first: list[TypedEvent] = first, now: datetime = now
        ) -> list[TypedEvent]:
            same = state.mesh is seen.mesh
            return (first if same else plan.decide(state, wanted, terms, now, reach))[:MAX_EVENTS]

        records = await fold.execute(
            decide,
            command_id=f"{by.command_id[:120]}-{turn}" if turn else by.command_id,
            actor=by.actor,
            reason=by.reason,
            now=now,
        )
        made, turn = made + len(records), turn + 1
        if len(records) < MAX_EVENTS:
            return made
