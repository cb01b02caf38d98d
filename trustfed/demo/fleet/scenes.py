"""Which simulated clusters there are, how large each is, and what is wrong with some of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from trustfed.errors import Invalid

MOST = 500
"""Clusters in one process: each has a store, threads and two streams' worth of memory."""


class Fault(StrEnum):
    """What a simulated cluster shows; the rest of it is well."""

    NONE = ""
    DEAD = "dead"
    """It connects, tells everything, and goes away for good."""
    LATE = "late"
    """One workload rotates after its on-time limit, hour after hour."""
    STUCK = "stuck"
    """An authority is prepared and waits for one node; the last safe moment is near."""
    UNKNOWN = "unknown"
    """A handshake showed a serial that was never issued."""
    SILENT = "silent"
    """Nothing is heard of one node, and its workloads' SVIDs end."""
    CLOCK = "clock"
    """One node's clock differs by most of a minute."""
    LINT = "lint"
    """A setting that will fail: node SVIDs live too short for any outage."""
    DARK = "dark"
    """Two nodes were silent for two days: so much is unknown that the headline is withheld."""


@dataclass(frozen=True)
class Scene:
    """One simulated cluster: `services` workloads, each on `replicas` of the `nodes`."""

    name: str
    owner: str
    fault: Fault
    nodes: int
    services: int
    replicas: int = 2


_FIRST = (
    ("prod-eu-west", "team-checkout", Fault.NONE),
    ("prod-us-east", "team-payments", Fault.LATE),
    ("prod-ap-south", "team-search", Fault.STUCK),
    ("prod-ap-northeast", "team-search", Fault.UNKNOWN),
    ("prod-sa-east", "team-checkout", Fault.SILENT),
    ("staging-eu-central", "team-warehouse", Fault.DEAD),
    ("staging-us-west", "team-storefront", Fault.CLOCK),
    ("staging-ap-south", "team-search", Fault.LINT),
    ("edge-me-central", "team-edge", Fault.DARK),
    ("prod-ca-central", "team-payments", Fault.NONE),
    ("prod-eu-north", "team-warehouse", Fault.NONE),
    ("dev-us-west", "team-platform", Fault.NONE),
)
_STAGES = ("prod", "staging", "dev", "edge", "batch", "data")
_REGIONS = ("us-west", "us-east", "eu-west", "eu-north", "eu-south", "ap-south", "ap-east", "sa-east", "af-south")
_OWNERS = ("team-checkout", "team-payments", "team-search", "team-warehouse", "team-edge", "team-platform")
SERVICES = tuple(
    f"{area}/{name}"
    for name, area in product(
        ("api", "worker", "cache", "gateway"), ("cart", "catalog", "ledger", "orders", "pricing", "search")
    )
)
"""The workloads of a cluster, in this order."""


def scenes(count: int) -> list[Scene]:
    """So many clusters, the interesting ones first; more of them are each smaller. Raises Invalid beyond 0 to 500."""
    if not 0 <= count <= MOST:
        raise Invalid(f"a fleet of {count} clusters cannot be simulated", hint=f"--fleet 0 to {MOST}; 0: none")
    named = list(_FIRST)
    zones = (f"{stage}-{region}-{zone}" for zone, region, stage in product(range(2, 20), _REGIONS, _STAGES))
    named += [(name, _OWNERS[at % len(_OWNERS)], Fault.NONE) for at, name in zip(range(count), zones, strict=False)]
    large = count <= 40
    return [
        Scene(name, owner, fault, 3 + at * 5 % 4 if large else 3, 5 + at * 7 % 8 if large else 2, 2 if large else 1)
        for at, (name, owner, fault) in enumerate(named[:count])
    ]
