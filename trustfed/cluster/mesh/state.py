"""What a cluster's journal adds up to, as far as its mesh goes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from trustfed.cluster.mesh import events as e
from trustfed.journal.table import Table

KEPT_GONE = 20_000


class Own(Struct, frozen=True):
    """A gateway, an export or an import of this domain."""

    kind: str
    name: str
    item: bytes
    sequence: int
    source: str
    created_at: datetime
    changed_at: datetime


class Route(Struct, frozen=True):
    """A gateway or an export of another domain, as that domain signed it."""

    exporter: str
    kind: str
    name: str
    item: bytes
    sequence: int
    key: bytes
    created_at: datetime
    changed_at: datetime


class Gone(Struct, frozen=True):
    """How far a route had come that is held no longer."""

    sequence: int
    key: bytes


class Mesh(Struct, frozen=True):
    """The mesh of one cluster; the keys of every table are what `key` makes of its parts."""

    sequence: int = 0
    own: Table[Own] = Table()  # key(kind, name)
    routes: Table[Route] = Table()  # key(exporter, kind, name)
    local: Table[e.LocalSeen] = Table()  # host
    gateways: Table[e.GatewayJudged] = Table()  # key(exporter, gateway)
    services: Table[e.ServiceJudged] = Table()  # key(exporter, host, gateway)
    feeds: Table[e.FeedAllowed] = Table()  # SPIFFE ID
    gone: Table[Gone] = Table()  # key(exporter, kind, name): so that nobody brings an older one back

    def of_kind(self, kind: str) -> Iterator[Own]:
        """The own items of one kind."""
        return (own for own in self.own.values() if own.kind == kind)


def key(*parts: str) -> str:
    """The key of a table: parts that have no slash, in order."""
    return "/".join(parts)


def apply(mesh: Mesh, event: Struct) -> Mesh:
    """The mesh after one event of EVENTS."""
    return _APPLY[type(event)](mesh, event)


def _put(m: Mesh, ev: e.MeshPut) -> Mesh:
    held = m.own.get(at := key(ev.kind, ev.name))
    created = held.created_at if held is not None else ev.at
    own = Own(ev.kind, ev.name, ev.item, ev.sequence, ev.source, created, ev.at)
    return replace(m, sequence=ev.sequence, own=m.own.put(at, own))


def _dropped(m: Mesh, ev: e.MeshDropped) -> Mesh:
    return replace(m, sequence=ev.sequence, own=m.own.drop(key(ev.kind, ev.name)))


def _told(m: Mesh, ev: e.RouteTold) -> Mesh:
    held = m.routes.get(at := key(ev.exporter, ev.kind, ev.name))
    created = held.created_at if held is not None else ev.at
    route = Route(ev.exporter, ev.kind, ev.name, ev.item, ev.sequence, ev.key, created, ev.at)
    return replace(m, routes=m.routes.put(at, route), gone=m.gone.drop(at))


def _gone(m: Mesh, ev: e.RouteGone) -> Mesh:
    held = m.routes.get(at := key(ev.exporter, ev.kind, ev.name))
    if held is not None:
        kept = m.gone if len(m.gone) < KEPT_GONE else _without_most(m.gone)
        m = replace(m, routes=m.routes.drop(at), gone=kept.put(at, Gone(held.sequence, held.key)))
    if ev.kind == "gateway":
        m = replace(m, gateways=m.gateways.drop(key(ev.exporter, ev.name)))
    gone = [at for at, s in m.services.items() if s.exporter == ev.exporter and ev.name in (s.host, s.gateway)]
    for at in gone:
        m = replace(m, services=m.services.drop(at))
    return m


def _seen(m: Mesh, ev: e.LocalSeen) -> Mesh:
    return replace(m, local=m.local.put(ev.host, ev))


def _forgotten(m: Mesh, ev: e.LocalForgotten) -> Mesh:
    return replace(m, local=m.local.drop(ev.host))


def _gateway(m: Mesh, ev: e.GatewayJudged) -> Mesh:
    return replace(m, gateways=m.gateways.put(key(ev.exporter, ev.name), ev))


def _service(m: Mesh, ev: e.ServiceJudged) -> Mesh:
    return replace(m, services=m.services.put(key(ev.exporter, ev.host, ev.gateway), ev))


def _allowed(m: Mesh, ev: e.FeedAllowed) -> Mesh:
    return replace(m, feeds=m.feeds.put(ev.spiffe_id, ev))


def _forbidden(m: Mesh, ev: e.FeedForbidden) -> Mesh:
    return replace(m, feeds=m.feeds.drop(ev.spiffe_id))


def _without_most(gone: Table[Gone]) -> Table[Gone]:
    """Without those of the exporter that has most of them: it alone pays for what it took back."""
    ((most, _),) = Counter(at.partition("/")[0] for at in gone).most_common(1)
    for at in [at for at in gone if at.partition("/")[0] == most]:
        gone = gone.drop(at)
    return gone


_APPLY: dict[type[Any], Callable[[Mesh, Any], Mesh]] = {
    e.MeshPut: _put,
    e.MeshDropped: _dropped,
    e.RouteTold: _told,
    e.RouteGone: _gone,
    e.LocalSeen: _seen,
    e.LocalForgotten: _forgotten,
    e.GatewayJudged: _gateway,
    e.ServiceJudged: _service,
    e.FeedAllowed: _allowed,
    e.FeedForbidden: _forbidden,
}
