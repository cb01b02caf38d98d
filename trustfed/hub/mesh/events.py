"""What the hub records of the domains' meshes: events of its journal, folded in trustfed.hub.mesh.state."""

from __future__ import annotations

import msgspec


class MeshTold(msgspec.Struct, frozen=True):
    """A domain says what a gateway, an export or an import of its own is: its signed statement, exact bytes."""

    domain: str
    kind: str  # trustfed.federation.mesh.Kind
    name: str
    sequence: int
    statement: bytes
    at_ms: int


class MeshWithdrawn(msgspec.Struct, frozen=True):
    """A domain took one of its own back."""

    domain: str
    kind: str
    name: str
    sequence: int
    at_ms: int


EVENTS: dict[str, type[msgspec.Struct]] = {"mesh.told": MeshTold, "mesh.withdrawn": MeshWithdrawn}
