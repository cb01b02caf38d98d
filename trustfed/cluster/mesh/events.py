"""What a cluster decides about its mesh: events of its journal, folded in trustfed.cluster.mesh.state."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class MeshPut(Struct, frozen=True):
    """This domain says, or says anew, what a gateway, an export or an import of its own is."""

    kind: str  # trustfed.federation.mesh.Kind
    name: str
    item: bytes  # trustfed.federation.mesh.write_item
    sequence: int  # rises with every event of this kind and of MeshDropped
    source: str  # "command" | "directory" | "kubernetes": who may change it without being asked
    at: datetime


class MeshDropped(Struct, frozen=True):
    """This domain takes one of its own back."""

    kind: str
    name: str
    sequence: int
    at: datetime


class RouteTold(Struct, frozen=True):
    """Another domain's gateway or export, signed by it, that this cluster imports."""

    exporter: str
    kind: str  # "gateway" | "export"
    name: str
    item: bytes
    sequence: int
    key: bytes  # the publication key that was pinned when it came
    at: datetime
    hub_position: int = 0


class RouteGone(Struct, frozen=True):
    """One of those is no longer offered to this cluster."""

    exporter: str
    kind: str
    name: str
    why: str
    at: datetime
    hub_position: int = 0


class LocalSeen(Struct, frozen=True):
    """What is known of a host inside this cluster: without it nothing is rendered for an import of that host."""

    host: str
    sidecars: str  # "absent": no such service here | "all" | "some" | "none" of its endpoints have a sidecar
    answers: tuple[str, ...]  # SPIFFE IDs of this domain that answer it here
    rules: bytes  # JSON list of the DestinationRules that owners wrote and that apply to it, as Kubernetes objects
    source: str  # "command" | "directory" | "kubernetes"
    at: datetime
    ports: tuple[str, ...] = ()  # "NUMBER:NAME" of the Service here; (): not known


class LocalForgotten(Struct, frozen=True):
    """Nothing is known of this host any more."""

    host: str
    at: datetime


class GatewayJudged(Struct, frozen=True):
    """Measurements moved a remote gateway across a line that hysteresis draws: in or out, or another weight."""

    exporter: str
    name: str
    up: bool
    weight: int  # 1 to 100, of this importer's own measuring; multiplied with what the gateway's owner said
    rtt_us: int  # the median behind it
    at: datetime


class ServiceJudged(Struct, frozen=True):
    """A TLS probe named one exported service at one gateway: it says nothing of the gateway."""

    exporter: str
    host: str
    gateway: str
    up: bool
    at: datetime


class FeedAllowed(Struct, frozen=True):
    """The workload with this SPIFFE ID of this domain may pull the routes: it is the feed beside an istiod."""

    spiffe_id: str
    at: datetime


class FeedForbidden(Struct, frozen=True):
    """It may no longer."""

    spiffe_id: str
    at: datetime


EVENTS: dict[str, type[Struct]] = {
    "mesh.put": MeshPut,
    "mesh.dropped": MeshDropped,
    "route.told": RouteTold,
    "route.gone": RouteGone,
    "local.seen": LocalSeen,
    "local.forgotten": LocalForgotten,
    "gateway.judged": GatewayJudged,
    "service.judged": ServiceJudged,
    "feed.allowed": FeedAllowed,
    "feed.forbidden": FeedForbidden,
}
