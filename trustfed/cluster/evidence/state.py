"""What evidence adds to a cluster's state: rotations that agents are still to hear of, and rollovers that people hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from trustfed.cluster.evidence import events as e

MAX_ROTATIONS = 32
"""That agents which come back are told of, newest last."""
FORGOTTEN_AFTER = timedelta(days=8)
"""After that, nothing that was issued before the order is alive (the longest SVID lives 7 days)."""


class EvidenceState(Struct, frozen=True):
    rotations: tuple[e.RotationOrdered, ...] = ()
    paused: tuple[str, ...] = ()  # kinds of authorities
    checkpoint_size: int = 0  # of the ledger, as journalled last

    def rotation(self, id_: str) -> e.RotationOrdered | None:
        """The rotation of this order, while agents may have to hear of it."""
        return next((one for one in self.rotations if one.id == id_), None)


def _rotation(held: EvidenceState, event: e.RotationOrdered) -> EvidenceState:
    kept = [r for r in held.rotations if r.issued_before > event.issued_before - FORGOTTEN_AFTER]
    return replace(held, rotations=(*kept, event)[-MAX_ROTATIONS:])


def _paused(held: EvidenceState, event: e.RolloverPaused) -> EvidenceState:
    others = tuple(kind for kind in held.paused if kind != event.kind)
    return replace(held, paused=(*others, event.kind) if event.paused else others)


def _cut(held: EvidenceState, event: e.CheckpointCut) -> EvidenceState:
    return replace(held, checkpoint_size=event.size)


_CHANGES: dict[type[Any], Callable[[EvidenceState, Any], EvidenceState]] = {
    e.RotationOrdered: _rotation,
    e.RolloverPaused: _paused,
    e.CheckpointCut: _cut,
    e.OrderTaken: lambda held, _: held,
    e.HubLogForgotten: lambda held, _: held,
}


def _on(change: Callable[[EvidenceState, Any], EvidenceState]) -> Callable[[Any, Any], Any]:
    return lambda state, event: replace(state, evidence=change(state.evidence, event))


APPLY: dict[type[Any], Callable[[Any, Any], Any]] = {kind: _on(change) for kind, change in _CHANGES.items()}
