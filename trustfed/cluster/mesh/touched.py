"""Which hosts an event touches: what must be decided anew, and nothing else. Keeps the names that it needs for that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

from trustfed.cluster.mesh import events as e
from trustfed.cluster.mesh.route_index import RouteIndex, item
from trustfed.cluster.mesh.state import Mesh, key
from trustfed.cluster.mesh.workloads import Workloads
from trustfed.federation.mesh import Export, Gateway, caller_domain
from trustfed.journal.events import TypedEvent

IMPORT, EXPORT = "import", "export"
Place: TypeAlias = tuple[str, str]
"""IMPORT or EXPORT, and the host."""


class Touched:
    """The hosts to be decided anew, from events."""

    def __init__(self, mesh: Mesh) -> None:
        self.index = RouteIndex(mesh)
        self.workloads = Workloads()
        self._callers_of: dict[str, frozenset[str]] = {}  # own exports → the domains of their callers
        self._regions: dict[str, str] = {}  # own gateways and exports → region
        self._region_counts: Counter[str] = Counter()
        self._due: dict[Place, None] = {}
        self._mesh_policy = True
        for own in mesh.own.values():
            self._own(own.kind, own.name, own.item)

    def __bool__(self) -> bool:
        return bool(self._due) or self._mesh_policy

    def take(self) -> Place | None:
        """The next host; None when there is none."""
        if not self._due:
            return None
        place = next(iter(self._due))
        del self._due[place]
        return place

    def places(self, places: Iterable[Place]) -> None:
        """These are touched."""
        self._due |= dict.fromkeys(sorted(places))

    def callers(self) -> None:
        """Who may call somewhere has changed, or the mesh begins or ends to be one."""
        self._mesh_policy = True

    def callers_moved(self) -> bool:
        """Whether that was so since the last call."""
        moved, self._mesh_policy = self._mesh_policy, False
        return moved

    def everything(self) -> None:
        """All there is."""
        # Own exports first: where there is not room for all, imports wait.
        self.places((EXPORT, host) for host in self._callers_of)
        self.places((IMPORT, host) for host in self.index.hosts())
        self._mesh_policy = True

    def exports(self) -> None:
        """All own exports."""
        self._exports(self._callers_of)

    def domains(self, domains: Iterable[str]) -> None:
        """What stands between this domain and these has changed."""
        changed = frozenset(domains)
        for domain in changed:
            self.places((IMPORT, host) for host in self.index.hosts_of(domain))
        if changed:
            exports = [host for host, callers in self._callers_of.items() if callers & changed]
            self._exports(exports)

    def regions(self) -> tuple[str, ...]:
        """Where this cluster is, as its own gateways and exports say."""
        return tuple(sorted(self._region_counts))

    def event(self, event: TypedEvent) -> None:
        """One event of the journal."""
        match event:
            case e.RouteTold():
                self.index.told(event.exporter, event.kind, event.name)
                self._route(event.exporter, event.kind, event.name)
            case e.RouteGone():
                self._route(event.exporter, event.kind, event.name)
                self.index.gone(event)
            case e.LocalSeen() | e.LocalForgotten():
                self.places([(IMPORT, event.host)])
            case e.GatewayJudged():
                self._route(event.exporter, "gateway", event.name)
            case e.ServiceJudged():
                self.places([(IMPORT, event.host)])
            case e.MeshPut():
                self._own(event.kind, event.name, event.item)
            case e.MeshDropped():
                self._own(event.kind, event.name, None)

    def _route(self, exporter: str, kind: str, name: str) -> None:
        hosts = self.index.hosts_of(exporter) if kind == "gateway" else {name}
        self.places((IMPORT, host) for host in hosts)

    def _own(self, kind: str, name: str, data: bytes | None) -> None:
        if kind == "import":
            self.places((IMPORT, host) for host in self.index.wanted(name, data))
            return
        before = self.regions()
        found = item(kind, data) if data is not None else None
        if kind == "export":
            self._export(name, found)
        at = key(kind, name)
        if held := self._regions.pop(at, ""):
            self._region_counts[held] -= 1
            if not self._region_counts[held]:
                del self._region_counts[held]
        if isinstance(found, Gateway | Export) and (region := found.locality.split("/")[0]):
            self._regions[at] = region
            self._region_counts[region] += 1
        if self.regions() != before:
            self.places((IMPORT, host) for host in self.index.hosts())

    def _export(self, host: str, export: object) -> None:
        beside = self.workloads.below(host)
        if isinstance(export, Export):
            self._callers_of[host] = frozenset(caller_domain(caller).name for caller in export.callers)
            self.workloads.put(host, export.workload)
        else:
            self._callers_of.pop(host, None)
            self.workloads.drop(host)
        self._exports([host, *beside])
        self.places([(IMPORT, host)])  # its answers are local ones of an import of the same host

    def _exports(self, hosts: Iterable[str]) -> None:
        """These own exports, and those whose pods are theirs as well."""
        self._mesh_policy = True
        for host in hosts:
            self.places((EXPORT, one) for one in (host, *self.workloads.below(host)))
