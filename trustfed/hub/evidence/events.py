"""What the hub records of evidence: events of its journal, folded in trustfed.hub.evidence.state."""

from __future__ import annotations

import msgspec


class LogKeyPinned(msgspec.Struct, frozen=True):
    """This is the key that signs a trust domain's logs: the first one that it showed, or one that an operator accepted.

    `endorsement` is the DSSE of the domain's publication key, exact bytes.
    """

    domain: str
    vkey: str
    endorsement: bytes
    at_ms: int


class LogsAccepted(msgspec.Struct, frozen=True):
    """The logs of a domain may begin anew, at the hub as their witness: what was held of them is forgotten."""

    domain: str
    at_ms: int


class LogCheckpoint(msgspec.Struct, frozen=True):
    """How far the hub's ledger was: its root (base64) over `size` facts."""

    origin: str
    size: int
    root: str


class OrderMade(msgspec.Struct, frozen=True):
    """What people at the hub decided that a cluster shall do: sent until it is done, or until `expires_ms`."""

    id: str
    domain: str
    kind: str
    body: str  # JSON
    reason: str
    proposed_by: str
    approved_by: str
    break_glass: bool
    at_ms: int
    expires_ms: int


class OrderEnded(msgspec.Struct, frozen=True):
    """What became of it: the cluster's word, or "expired"."""

    id: str
    domain: str
    outcome: str
    error: str
    at_ms: int


EvidenceEvent = LogKeyPinned | LogsAccepted | LogCheckpoint | OrderMade | OrderEnded

EVENTS: dict[str, type[msgspec.Struct]] = {
    "log.key_pinned": LogKeyPinned,
    "log.accepted": LogsAccepted,
    "log.checkpoint": LogCheckpoint,
    "order.made": OrderMade,
    "order.ended": OrderEnded,
}
