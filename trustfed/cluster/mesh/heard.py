"""What of others' meshes is believed, whatever the hub says: decisions. Pure.

1. its domain and this one have accepted a grant for each other, which the hub had no hand in on this side
2. the publication key that this side's grant pins signed it, and it says what it is carried as
3. it is a gateway at an address that may be reached, or an export; of a domain from which something is imported
4. an import of this domain wants the export
5. it is not older than what is or was held of this name under this key, nor something else under the same sequence
6. there is room
So a hub in wrong hands can hold routes back; it can neither make one nor bring an old one back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from trustfed.cluster.mesh import events as e
from trustfed.cluster.mesh.own import check_address
from trustfed.cluster.mesh.state import key
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.mesh import Export, Gateway, Import, read_item, write_item
from trustfed.federation.mesh_statement import Statement, open_statement
from trustfed.journal.events import TypedEvent
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.reach import Reach
from trustfed.spiffe.ids import TrustDomain, shown

MAX_ROUTES = 60_000
GONE_AT_ONCE = 500

Name = tuple[str, str, str]  # exporter, kind, name


@dataclass
class Wants:
    """What the own imports name, by exporter."""

    hosts: dict[str, set[str]] = field(default_factory=dict)
    namespaces: dict[str, set[str]] = field(default_factory=dict)
    groups: dict[str, set[str]] = field(default_factory=dict)
    exporters: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, state: ClusterState) -> Wants:
        """Everything that is imported now."""
        made = cls()
        for own in state.mesh.of_kind("import"):
            item = read_item("import", own.item)
            assert isinstance(item, Import)
            made.exporters.add(item.exporter)
            for wanted, text in ((made.hosts, item.host), (made.namespaces, item.namespace), (made.groups, item.group)):
                if text:
                    wanted.setdefault(item.exporter, set()).add(text)
        return made

    def export(self, exporter: str, export: Export) -> bool:
        """Whether an import wants it."""
        return (
            export.host in self.hosts.get(exporter, ())
            or export.namespace in self.namespaces.get(exporter, ())
            or not self.groups.get(exporter, set()).isdisjoint(export.groups)
        )


def exporters(state: ClusterState, now: datetime) -> dict[str, bytes]:
    """The domains whose routes are believed, each with the publication key that is pinned (1)."""
    mutual = {
        grant.importer
        for grant in state.grants.values()
        if grant.exporter == state.trust_domain and grant.state == "accepted" and now < grant.until and not grant.local
    }
    pins = state.pins(now).items()
    return {name: grant.exporter_key for name, grant in pins if name in mutual and not grant.local}


def open_route(route: pb.Route, known: Mapping[str, bytes], wants: Wants, reach: Reach) -> Statement:
    """The verified statement of a route. Raises Denied, Invalid."""
    pinned = known.get(route.exporter)
    if pinned is None:  # 1
        raise Denied(
            f"a route of {shown(route.exporter)}, which has no accepted grant in both directions",
            hint="trustfed grant list",
        )
    if route.kind not in ("gateway", "export"):  # 3
        raise Invalid(f"a route of the kind {shown(route.kind)}")
    said = open_statement(route.statement, TrustDomain.parse(route.exporter), _key(pinned))  # 2
    if (said.kind, said.name) != (route.kind, route.name):
        raise Invalid(f"{route.kind} {shown(route.name)} carries a statement on {said.kind} {shown(said.name)}")
    if route.exporter not in wants.exporters:
        raise Denied(f"nothing is imported from {route.exporter}", hint="trustfed import add")
    if isinstance(said.item, Gateway):
        check_address(said.item, reach)
    elif isinstance(said.item, Export) and not wants.export(route.exporter, said.item):  # 4
        raise Denied(f"export {said.name} of {route.exporter} is not imported", hint="trustfed import list")
    return said


@lru_cache(maxsize=2_048)
def _key(spki: bytes) -> PublicationKey:
    return PublicationKey(spki)


@dataclass
class Judged:
    """What came of routes: what is recorded, and what is refused with which words."""

    events: list[TypedEvent] = field(default_factory=list)
    refused: dict[Name, str] = field(default_factory=dict)


def judge(state: ClusterState, said: Sequence[Statement], gone: Sequence[Name], now: datetime) -> Judged:
    """What is recorded of verified statements and of withdrawals, which come first."""
    found, known, size = Judged(), exporters(state, now), len(state.mesh.routes)
    left = set()
    for name in gone:
        if key(*name) in state.mesh.routes and name not in left:
            left.add(name)
            found.events.append(e.RouteGone(*name, "withdrawn", now))
    for one in said:
        name = (one.trust_domain.name, one.kind, one.name)
        try:
            event = _told(state, one, known, now, new_fits=size - len(left) < MAX_ROUTES)
        except TrustfedError as error:
            found.refused[name] = error.message
            continue
        if event is not None:
            size += key(*name) not in state.mesh.routes
            found.events.append(event)
    return found


def _told(
    state: ClusterState, said: Statement, known: Mapping[str, bytes], now: datetime, *, new_fits: bool
) -> e.RouteTold | None:
    exporter, what = said.trust_domain.name, f"{said.kind} {said.name} of {said.trust_domain}"
    pinned = known.get(exporter)
    if pinned is None:  # it ended since
        raise Denied(f"{what} comes after its grant ended")
    at, item = key(exporter, said.kind, said.name), write_item(said.item)
    held, gone = state.mesh.routes.get(at), state.mesh.gone.get(at)
    if held is not None and held.key == pinned:  # 5
        if said.sequence < held.sequence:
            raise Denied(f"{what} with sequence {said.sequence} is older than {held.sequence}, which is held")
        if said.sequence == held.sequence:
            if item != held.item:
                raise Denied(f"{what} says two things under the sequence {said.sequence}")
            return None
    elif gone is not None and gone.key == pinned and said.sequence < gone.sequence:
        raise Denied(f"{what} with sequence {said.sequence} is older than {gone.sequence}, which was held")
    if held is None and not new_fits:  # 6
        raise Denied(f"{what} does not fit: {MAX_ROUTES} routes are held", hint="import less")
    return e.RouteTold(exporter, said.kind, said.name, item, said.sequence, pinned, now)


def is_news(state: ClusterState, said: Statement) -> bool:
    """Whether a statement would be recorded, if it is believed."""
    held = state.mesh.routes.get(key(said.trust_domain.name, said.kind, said.name))
    return held is None or held.sequence != said.sequence


def over(state: ClusterState, now: datetime) -> list[e.RouteGone]:
    """The routes whose domain is believed no longer, or under another key (at most 500 at once)."""
    known, found = exporters(state, now), []
    for route in state.mesh.routes.values():
        if known.get(route.exporter) != route.key:
            why = "another key is pinned" if route.exporter in known else "the grant ended"
            found.append(e.RouteGone(route.exporter, route.kind, route.name, why, now))
            if len(found) >= GONE_AT_ONCE:
                break
    return found


def held_of(state: ClusterState, exporter: str) -> list[Name]:
    """The routes of one domain."""
    return [(r.exporter, r.kind, r.name) for r in state.mesh.routes.values() if r.exporter == exporter]
