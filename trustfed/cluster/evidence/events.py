"""What a cluster decides about its evidence: events of its journal, folded in trustfed.cluster.evidence.state."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class CheckpointCut(Struct, frozen=True):
    """The ledger had this root at this size: what the journal's own checkpoints cover, and so what cosigners cover."""

    origin: str
    size: int
    root: bytes  # SHA-256, RFC 6962 §2.1


class OrderTaken(Struct, frozen=True):
    """What people at the hub decided, and this cluster's configuration lets it do; what follows from it comes behind it."""

    id: str
    kind: str
    body: str  # JSON as it came
    proposed_by: str
    approved_by: str
    break_glass: bool
    at: datetime


class RotationOrdered(Struct, frozen=True):
    """SVIDs issued before `issued_before` are to be replaced: those of these entries, or of these authorities."""

    id: str
    entries: tuple[str, ...]
    authorities: tuple[str, ...]
    issued_before: datetime
    deadline: datetime
    spread_seconds: int
    reason: str


class RolloverPaused(Struct, frozen=True):
    """The rollover of this kind of authority waits for people, until its last safe moment."""

    kind: str
    paused: bool


class HubLogForgotten(Struct, frozen=True):
    """What was held of the hub's log counts no more, and what it shows next is believed as it comes: its key, its past."""

    origin: str
    vkey: str  # the log key that was pinned; "": none
    size: int  # the newest checkpoint that was taken, 0: none
    root: bytes


EVENTS: dict[str, type[Struct]] = {
    "log.checkpoint": CheckpointCut,
    "order.taken": OrderTaken,
    "rotation.ordered": RotationOrdered,
    "rollover.paused": RolloverPaused,
    "log.hub_forgotten": HubLogForgotten,
}
