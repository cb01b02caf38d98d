"""Reserve SVIDs: which groups of nodes keep longer-lived ones for a long partition, and how long they live. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from trustfed.cluster.events import ReserveSet
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Invalid
from trustfed.federation.names import check_name
from trustfed.journal.events import TypedEvent

MAX_GROUPS = 1_000
LEAST = timedelta(minutes=1)


def reserve_seconds(state: ClusterState, groups: Iterable[str], most: timedelta) -> int:
    """How long the reserve SVIDs of a node in these groups live, the longest of them counts; 0: it keeps none."""
    if not len(state.reserves):
        return 0
    return min(max((state.reserves.get(group) or 0 for group in groups), default=0), int(most.total_seconds()))


def set_reserve(state: ClusterState, group: str, ttl: timedelta, most: timedelta, reason: str) -> list[TypedEvent]:
    """Let the nodes of a group keep reserve SVIDs of so long a life, or with 0 no longer. Raises Invalid, Conflict."""
    check_name(group, "group")
    if not reason.strip():
        raise Invalid("a reserve needs a reason", hint="--reason 'ships are at sea for five days'")
    if ttl:
        if not most:
            raise Conflict(
                "this trust domain has no reserve SVIDs", hint="set policy.reserve_ttl_max, and authority_ttl above it"
            )
        if not LEAST <= ttl <= most:
            raise Invalid(f"a reserve of {ttl} is out of range", hint=f"{LEAST} to {most} (policy.reserve_ttl_max)")
        if group not in state.reserves and len(state.reserves) >= MAX_GROUPS:
            raise Conflict(f"{MAX_GROUPS} groups keep reserves already", hint="end one with --off")
    seconds = int(ttl.total_seconds())
    return [] if seconds == (state.reserves.get(group) or 0) else [ReserveSet(group, seconds)]
