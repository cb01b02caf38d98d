"""What the hub's journal adds up to, as far as the mesh goes. Pure.

Statements are kept as their domains signed them; every one here was verified before it was recorded.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from trustfed.hub.mesh.events import MeshTold, MeshWithdrawn
from trustfed.journal.table import Table


class Told(msgspec.Struct, frozen=True, gc=False):
    """One gateway, export or import of a domain."""

    domain: str
    kind: str
    name: str
    sequence: int
    statement: bytes
    told_ms: int


class HubMesh(msgspec.Struct, frozen=True):
    """The meshes of all domains."""

    domains: Table[Table[Told]] = Table()  # domain → key(kind, name) → what it said
    hosts: Table[tuple[str, ...]] = Table()  # exported host → the domains that export it, the first one first

    def of(self, domain: str) -> Table[Told]:
        """What one domain says, by `key`."""
        return self.domains.get(domain) or Table()


def key(kind: str, name: str) -> str:
    """What tells the items of one domain apart; a kind has no slash."""
    return f"{kind}/{name}"


def told(mesh: HubMesh, event: MeshTold) -> HubMesh:
    """The mesh after a domain said something."""
    row = Told(event.domain, event.kind, event.name, event.sequence, event.statement, event.at_ms)
    mesh = replace(
        mesh, domains=mesh.domains.put(event.domain, mesh.of(event.domain).put(key(row.kind, row.name), row))
    )
    exporters = mesh.hosts.get(event.name) or ()
    if event.kind == "export" and event.domain not in exporters:
        mesh = replace(mesh, hosts=mesh.hosts.put(event.name, (*exporters, event.domain)))
    return mesh


def withdrawn(mesh: HubMesh, event: MeshWithdrawn) -> HubMesh:
    """The mesh after a domain took something back."""
    left = mesh.of(event.domain).drop(key(event.kind, event.name))
    domains = mesh.domains.put(event.domain, left) if len(left) else mesh.domains.drop(event.domain)
    mesh = replace(mesh, domains=domains)
    return _freed(mesh, event.domain, event.name) if event.kind == "export" else mesh


def removed(mesh: HubMesh, domain: str) -> HubMesh:
    """The mesh without a domain that was removed from the federation."""
    for row in mesh.of(domain).values():
        if row.kind == "export":
            mesh = _freed(mesh, domain, row.name)
    return replace(mesh, domains=mesh.domains.drop(domain))


def _freed(mesh: HubMesh, domain: str, host: str) -> HubMesh:
    left = tuple(other for other in mesh.hosts.get(host) or () if other != domain)
    return replace(mesh, hosts=mesh.hosts.put(host, left) if left else mesh.hosts.drop(host))
