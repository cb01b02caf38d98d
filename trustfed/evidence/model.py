"""The words of rotation success: classes, levels, outcomes, obligations and what is counted of them. Pure."""

from __future__ import annotations

from enum import IntEnum, StrEnum

import msgspec


class Class(StrEnum):
    """What kind of key material an obligation renews."""

    LEAF = "leaf"
    AGENT = "agent"
    INTERMEDIATE = "intermediate"
    ROOT = "root"
    JWT_KEY = "jwt_key"
    BUNDLE = "bundle"


FEW = frozenset({Class.INTERMEDIATE, Class.ROOT, Class.JWT_KEY, Class.BUNDLE})
"""Classes whose rotations are listed one by one: no percentage of so few."""


class Level(IntEnum):
    """How far a successor has come, by the best evidence there is."""

    DUE = 0
    REQUESTED = 1
    ISSUED = 2
    DELIVERED = 3
    LOADED = 4
    CONFIRMED = 5


class Outcome(StrEnum):
    """How an obligation ended; OPEN while it has not."""

    OPEN = "open"
    ON_TIME = "on_time"
    LATE = "late"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    EXCUSED = "excused"
    SUPERSEDED = "superseded"
    UNUSED = "unused"
    """By the agent's own word no workload had it any more when it was due: neither success nor failure, and shown beside both."""


FAILED = frozenset({Outcome.LATE, Outcome.EXPIRED, Outcome.UNKNOWN})

COUNTS = (
    "due",  # on-time limits that fall into the bucket, whatever became of them
    "on_time",
    "late",
    "expired",
    "unknown",
    "excused",
    "superseded",
    "unused",
    "open",
    "issued",  # reached this level by the on-time limit
    "delivered",
    "loaded",
    "confirmed",
    "tries",  # requests for a successor, answered or refused
    "refused",  # of these, those that were refused
    "first",  # first issuances, in the bucket of the event like all below
    "abandoned",  # issued, never delivered, ended
    "prefetched",  # likewise, but an agent held it ready
    "unknown_serials",  # that somebody held or showed and that were never issued
    "corrected",  # facts that came after the close and were not counted
)
"""What is counted per class and bucket, in this order."""

BUCKET_MS = 5 * 60 * 1000


class Obligation(msgspec.Struct):
    """One due rotation of one slot. Times are Unix ms; 0 is never."""

    id: str  # first 32 hex digits of SHA-256 over the key: trust domain, SPIFFE ID, instance, slot, predecessor, force
    class_: Class
    spiffe_id: str
    instance: str
    slot: str
    node: str
    entry: str
    predecessor: str
    opened_ms: int
    due_ms: int
    on_time_ms: int
    hard_ms: int
    level: Level  # that it must reach, fixed when it opened
    force: str = ""  # journal position of the command that forced it
    reached: Level = Level.DUE
    reached_ms: int = 0
    successor: str = ""
    tries: int = 0
    refused: int = 0
    outcome: Outcome = Outcome.OPEN
    ended_ms: int = 0
    why: str = ""
    by_level_ms: dict[str, int] = {}
    """When the successor had reached each level: "issued", "delivered", "loaded", "confirmed"."""
    again_ms: int = 0
    """When its SPIFFE ID was issued again on its node, though it was excused because it was gone."""
