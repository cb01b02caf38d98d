"""Rows of the evidence store that changed, as the hub is told them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from trustfed.evidence.model import Obligation, Outcome
from trustfed.proto import evidence_pb2 as pb

FAILURES = ("late", "expired", "unknown")


class Changes(Protocol):
    """trustfed.evidence.store.ChangedRows."""

    @property
    def cursor(self) -> int: ...

    @property
    def counters(self) -> Sequence[Any]:
        """(class, bucket_ms, counts)"""

    @property
    def failed(self) -> Sequence[Obligation]:
        """Those that failed, or no longer have."""

    @property
    def whole(self) -> bool: ...


def delta_of(rows: Changes, cursor: int) -> pb.Delta | None:
    """The message for a hub that holds all up to `cursor`; None when nothing changed."""
    if not rows.counters and not rows.failed and (not rows.whole or rows.cursor == cursor):
        return None
    delta = pb.Delta(cursor=rows.cursor, whole=rows.whole)
    for class_, bucket, counts in rows.counters:
        delta.counters.add(class_=str(class_), bucket_ms=bucket, counts=[max(count, 0) for count in counts])
    for one in rows.failed:
        delta.failed.append(failed_of(one))
    return delta


def failed_of(one: Obligation) -> pb.Failed:
    """One obligation, with no outcome if it is no failure."""
    outcome = str(one.outcome) if one.outcome in (Outcome.LATE, Outcome.EXPIRED, Outcome.UNKNOWN) else ""
    return pb.Failed(
        id=one.id,
        class_=str(one.class_),
        spiffe_id=one.spiffe_id,
        instance=one.instance,
        slot=one.slot,
        predecessor=one.predecessor,
        outcome=outcome,
        why=one.why[:500],
        on_time_ms=one.on_time_ms,
        hard_ms=one.hard_ms,
        ended_ms=one.ended_ms,
    )
