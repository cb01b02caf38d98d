"""Which hosts and gateways belong to which exporter: names only, so that a change is followed to what it touches.

Kept from the events; what an item says is read from the state, under these names.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeVar

from trustfed.cluster.mesh import events as e
from trustfed.cluster.mesh.state import Mesh
from trustfed.errors import TrustfedError
from trustfed.federation.mesh import Export, Import, Item, read_item

Key = TypeVar("Key")
CACHED = 32_768


@lru_cache(CACHED)
def item(kind: str, data: bytes) -> Item | str:
    """The item that these bytes of the journal say; if it is none by today's rules, why."""
    try:
        return read_item(kind, data)
    except TrustfedError as error:
        return error.message


class RouteIndex:
    """Names of the routes of others, and what is imported, by exporter."""

    def __init__(self, mesh: Mesh) -> None:
        self._exporters: dict[str, set[str]] = {}  # of a host
        self._hosts: dict[str, set[str]] = {}  # of an exporter
        self._gateways: dict[str, set[str]] = {}  # of an exporter
        self._imports: dict[str, Import] = {}  # by name
        self._names: dict[tuple[str, str], set[str]] = {}  # of imports, by what they name: host, namespace or exporter
        for route in mesh.routes.values():
            self.told(route.exporter, route.kind, route.name)
        for own in mesh.of_kind("import"):
            self.wanted(own.name, own.item)

    def told(self, exporter: str, kind: str, name: str) -> None:
        """There is such a route."""
        if kind == "gateway":
            self._gateways.setdefault(exporter, set()).add(name)
        else:
            self._hosts.setdefault(exporter, set()).add(name)
            self._exporters.setdefault(name, set()).add(exporter)

    def gone(self, event: e.RouteGone) -> None:
        """There is no such route any more."""
        if event.kind == "gateway":
            _drop(self._gateways, event.exporter, event.name)
        else:
            _drop(self._hosts, event.exporter, event.name)
            _drop(self._exporters, event.name, event.exporter)

    def wanted(self, name: str, data: bytes | None) -> set[str]:
        """An own import is this from now on (None: it is dropped); the hosts that it may touch, before and now."""
        before = self._imports.pop(name, None)
        now = item("import", data) if data is not None else None
        if before is not None:
            _drop(self._names, _named(before), name)
        if isinstance(now, Import):
            self._imports[name] = now
            self._names.setdefault(_named(now), set()).add(name)
        both = [one for one in (before, now) if isinstance(one, Import)]
        return {host for one in both for host in (self.hosts_of(one.exporter) | {one.host} - {""})}

    def imports(self, exporter: str, export: Export) -> bool:
        """Whether this is among what is wanted."""
        in_groups = (self._imports[name] for name in self._names.get(("group", exporter), ()))
        return any(one.wants(exporter, export) for one in (*self.wanting(export.host), *in_groups))

    def wanting(self, host: str) -> list[Import]:
        """The own imports that name this host or its namespace; what is in a group only the exporter knows."""
        namespace = host.split(".")[1]
        names = self._names.get(("host", host), set()) | self._names.get(("namespace", namespace), set())
        return [self._imports[name] for name in sorted(names)]

    def hosts(self) -> Iterable[str]:
        """Every host that an exporter offers, or that is imported by its name."""
        return self._exporters.keys() | {text for kind, text in self._names if kind == "host"}

    def hosts_of(self, exporter: str) -> set[str]:
        return set(self._hosts.get(exporter, ()))

    def exporters_of(self, host: str) -> set[str]:
        return set(self._exporters.get(host, ()))

    def gateways_of(self, exporter: str) -> list[str]:
        return sorted(self._gateways.get(exporter, ()))


def _named(one: Import) -> tuple[str, str]:
    """What an import is found by."""
    if one.host:
        return "host", one.host
    return ("namespace", one.namespace) if one.namespace else ("group", one.exporter)


def _drop(table: dict[Key, set[str]], key: Key, name: str) -> None:
    held = table.get(key)
    if held is not None:
        held.discard(name)
        if not held:
            del table[key]
