"""Who sees which routes: kept current event by event, so that a change costs what it changes.

An export is seen by an importer that wants it, when each of the two domains has accepted a grant for the other. A gateway
is seen by whoever sees an export of its domain. In memory: made from the state when the process starts.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from trustfed.federation.mesh import Item, item_of
from trustfed.federation.mesh_digest import digest
from trustfed.hub.mesh.events import MeshTold
from trustfed.hub.mesh.state import Told, key
from trustfed.hub.state import HubState
from trustfed.proto import federation_pb2 as pb

Mark = Callable[[str, str], None]


def route(exporter: str, kind: str, name: str) -> str:
    """What tells routes apart."""
    return f"{exporter}/{kind}/{name}"


def item_in(statement: bytes) -> Item:
    """What a statement says that was verified before it was recorded."""
    document = _payload(statement)
    return item_of(document["kind"], document["body"])


def _body(statement: bytes) -> dict[str, Any]:
    body: dict[str, Any] = _payload(statement)["body"]
    return body


def _payload(statement: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(base64.b64decode(json.loads(statement)["payload"]))
    return document


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One route as it is sent; of an export also what imports name it by. There are many: no collector looks at them."""

    sequence: int
    message: pb.Route
    size: int
    host: str = ""
    namespace: str = ""
    groups: tuple[str, ...] = ()


class _Import(msgspec.Struct, frozen=True, gc=False):
    """What an import names."""

    exporter: str
    host: str
    namespace: str
    group: str

    def wants(self, export: Entry) -> bool:
        return self.host == export.host or self.namespace == export.namespace or self.group in export.groups


@dataclass
class _Wants:
    """What one domain wants of another one."""

    imports: dict[str, _Import] = field(default_factory=dict)
    _hosts: frozenset[str] = frozenset()
    _namespaces: frozenset[str] = frozenset()
    _groups: frozenset[str] = frozenset()

    def changed(self) -> None:
        every = self.imports.values()
        self._hosts = frozenset(one.host for one in every if one.host)
        self._namespaces = frozenset(one.namespace for one in every if one.namespace)
        self._groups = frozenset(one.group for one in every if one.group)

    def wants(self, export: Entry) -> bool:
        return (
            export.host in self._hosts
            or export.namespace in self._namespaces
            or not self._groups.isdisjoint(export.groups)
        )


@dataclass
class _Exporter:
    """What one domain offers, and who sees which hosts of it."""

    gateways: dict[str, Entry] = field(default_factory=dict)
    exports: dict[str, Entry] = field(default_factory=dict)
    wanted: dict[str, _Wants] = field(default_factory=dict)  # by importer
    seen: dict[str, set[str]] = field(default_factory=dict)  # by importer, never empty
    digests: dict[frozenset[str], bytes] = field(default_factory=dict)


class Index:
    """`mark(importer, route)` is called for each route that came, changed or went, for whom it did."""

    def __init__(self, mark: Mark) -> None:
        self._mark = mark
        self._exporters: dict[str, _Exporter] = {}
        self._imports: dict[str, dict[str, _Import]] = {}  # by importer
        self._grants: dict[tuple[str, str], str] = {}  # (importer, exporter) → id of the accepted grant

    def load(self, state: HubState) -> None:
        """Begin with all that there is."""
        for domain in state.mesh.domains.values():
            for row in domain.values():
                self.told(row)
        for grant in state.grants.values():
            if grant.status == "accepted":
                self.granted(grant.importer, grant.exporter, grant.id)

    def agreed(self, importer: str, exporter: str) -> bool:
        """Whether each of the two has accepted a grant for the other."""
        return (importer, exporter) in self._grants and (exporter, importer) in self._grants

    def importers(self, exporter: str) -> list[str]:
        """Who sees anything of this domain."""
        return sorted(self._exporter(exporter).seen)

    def importers_of(self, exporter: str, host: str) -> list[str]:
        """Who sees this export."""
        return sorted(importer for importer, hosts in self._exporter(exporter).seen.items() if host in hosts)

    def exporters(self, importer: str) -> set[str]:
        """Of which domains this one sees anything."""
        wanted = {one.exporter for one in self._imports.get(importer, {}).values()}
        return {exporter for exporter in wanted if importer in self._exporter(exporter).seen}

    def routes(self, importer: str, exporter: str) -> list[str]:
        """All that one domain sees of another: gateways first."""
        offered = self._exporter(exporter)
        hosts = offered.seen.get(importer)
        if hosts is None:
            return []
        gateways = [route(exporter, "gateway", name) for name in offered.gateways]
        return gateways + [route(exporter, "export", host) for host in sorted(hosts)]

    def entry(self, importer: str, at: str) -> Entry | None:
        """A route, if this domain sees it."""
        exporter, kind, name = at.split("/", 2)
        offered = self._exporter(exporter)
        hosts = offered.seen.get(importer)
        if hosts is None:
            return None
        if kind == "gateway":
            return offered.gateways.get(name)
        return offered.exports.get(name) if name in hosts else None

    def digest(self, importer: str, exporter: str) -> bytes:
        """Of all that one domain sees of another."""
        offered = self._exporter(exporter)
        hosts = frozenset(offered.seen.get(importer, ()))
        if hosts not in offered.digests:
            seen = {key("export", host): offered.exports[host] for host in hosts}
            if hosts:
                seen |= {key("gateway", name): entry for name, entry in offered.gateways.items()}
            offered.digests[hosts] = digest({at: str(entry.sequence) for at, entry in seen.items()})
        return offered.digests[hosts]

    def told(self, said: MeshTold | Told) -> None:
        """A domain said something."""
        domain, name = said.domain, said.name
        if said.kind == "import":
            body = _body(said.statement)
            names = (body.get(member, "") for member in ("exporter", "host", "namespace", "group"))
            self._import(domain, name, _Import(*names))
            return
        offered = self._exporters.setdefault(domain, _Exporter())
        offered.digests.clear()
        message = pb.Route(exporter=domain, kind=said.kind, name=name, statement=said.statement)
        size = message.ByteSize()
        if said.kind == "gateway":
            offered.gateways[name] = Entry(said.sequence, message, size)
            self._mark_seen(domain, offered, "gateway", name)
            return
        groups = tuple(_body(said.statement).get("groups", ()))
        export = Entry(said.sequence, message, size, name, name.split(".", 2)[1], groups)
        offered.exports[name] = export
        self._mark_seen(domain, offered, "export", name)
        for importer in list(offered.wanted):
            sees = self._sees(importer, domain, export)
            if sees != (name in offered.seen.get(importer, ())):
                self._see_one(importer, domain, name, sees=sees)

    def withdrawn(self, domain: str, kind: str, name: str) -> None:
        """A domain took something back."""
        if kind == "import":
            self._import(domain, name, None)
            return
        offered = self._exporter(domain)
        offered.digests.clear()
        if kind == "gateway":
            offered.gateways.pop(name, None)
            self._mark_seen(domain, offered, kind, name)
        elif offered.exports.pop(name, None) is not None:
            for importer, hosts in list(offered.seen.items()):
                if name in hosts:
                    self._see_one(importer, domain, name, sees=False)
        self._sweep(domain)

    def removed(self, domain: str) -> None:
        """A domain is out."""
        offered = self._exporter(domain)
        for at in [("export", host) for host in offered.exports] + [("gateway", name) for name in offered.gateways]:
            self.withdrawn(domain, *at)
        for name in list(self._imports.get(domain, {})):
            self._import(domain, name, None)

    def granted(self, importer: str, exporter: str, grant: str) -> None:
        """A grant was accepted."""
        self._grants[importer, exporter] = grant
        self._both(importer, exporter)

    def ended(self, importer: str, exporter: str, grant: str) -> None:
        """A grant is over."""
        if self._grants.get((importer, exporter)) == grant:
            del self._grants[importer, exporter]
            self._both(importer, exporter)

    def _both(self, one: str, other: str) -> None:
        self._see_anew(one, other)
        self._see_anew(other, one)

    def _import(self, importer: str, name: str, item: _Import | None) -> None:
        held = self._imports.setdefault(importer, {})
        before = held.pop(name, None)
        touched = {one.exporter for one in (before, item) if one is not None}
        for exporter in touched:
            wants = self._exporters.setdefault(exporter, _Exporter()).wanted.setdefault(importer, _Wants())
            wants.imports.pop(name, None)
            if item is not None and item.exporter == exporter:
                wants.imports[name] = item
            wants.changed()
            if not wants.imports:
                del self._exporters[exporter].wanted[importer]
        if item is not None:
            held[name] = item
        if not held:
            del self._imports[importer]
        for exporter in touched:
            self._see_anew(importer, exporter)
            self._sweep(exporter)
        if item is not None:
            # Said anew, whatever was seen of it before: who took its import back and put it again has dropped the routes.
            offered = self._exporter(item.exporter)
            wanted = [h for h in offered.seen.get(importer, ()) if item.wants(offered.exports[h])]
            self._mark_all(importer, item.exporter, offered, wanted)

    def _see_anew(self, importer: str, exporter: str) -> None:
        offered = self._exporter(exporter)
        seen = {host for host, entry in offered.exports.items() if self._sees(importer, exporter, entry)}
        if seen != offered.seen.get(importer, set()):
            self._see(importer, exporter, seen)

    def _sees(self, importer: str, exporter: str, export: Entry) -> bool:
        wants = self._exporter(exporter).wanted.get(importer)
        return self.agreed(importer, exporter) and wants is not None and wants.wants(export)

    def _see_one(self, importer: str, exporter: str, host: str, *, sees: bool) -> None:
        """One host came or went: costs as much, however many others are seen."""
        held = self._exporter(exporter).seen.get(importer)
        if held is None or held == {host}:
            self._see(importer, exporter, {host} if sees else set())
            return
        if sees:
            held.add(host)
        else:
            held.discard(host)
        self._mark(importer, route(exporter, "export", host))

    def _see(self, importer: str, exporter: str, hosts: set[str]) -> None:
        """From now on this is what is seen: mark the difference."""
        offered = self._exporter(exporter)
        before = offered.seen.pop(importer, set())
        if hosts:
            offered.seen[importer] = hosts
        for host in before ^ hosts:
            self._mark(importer, route(exporter, "export", host))
        if bool(before) != bool(hosts):
            self._mark_all(importer, exporter, offered, ())

    def _mark_all(self, importer: str, exporter: str, offered: _Exporter, hosts: list[str] | tuple[str, ...]) -> None:
        for name in offered.gateways:
            self._mark(importer, route(exporter, "gateway", name))
        for host in hosts:
            self._mark(importer, route(exporter, "export", host))

    def _mark_seen(self, exporter: str, offered: _Exporter, kind: str, name: str) -> None:
        at = route(exporter, kind, name)
        for importer, hosts in offered.seen.items():
            if kind == "gateway" or name in hosts:
                self._mark(importer, at)

    def _exporter(self, domain: str) -> _Exporter:
        return self._exporters.get(domain) or _Exporter()

    def _sweep(self, domain: str) -> None:
        offered = self._exporters.get(domain)
        if offered is not None and not (offered.gateways or offered.exports or offered.wanted or offered.seen):
            del self._exporters[domain]
