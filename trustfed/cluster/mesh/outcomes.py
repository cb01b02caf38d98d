"""What a host came to: resources or none, and why; and the view of the cluster that it is worked out from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bundle_publisher.istio.owners import Patch
from bundle_publisher.istio.resource import Resource
from bundle_publisher.istio.settings import Settings
from trustfed.cluster.mesh.reasons import Reason
from trustfed.cluster.mesh.route_index import RouteIndex, item
from trustfed.cluster.mesh.standing import Standing
from trustfed.cluster.mesh.state import Mesh, Own, key
from trustfed.cluster.mesh.workloads import Workloads
from trustfed.federation.mesh import Export
from trustfed.runtime.reach import Reach


@dataclass(frozen=True)
class View:
    """One state at one time."""

    own: str
    mesh: Mesh
    standing: Standing
    index: RouteIndex
    settings: Settings
    reach: Reach
    workloads: Workloads
    regions: tuple[str, ...] = ()

    def own_export(self, host: str) -> tuple[Own, Export] | None:
        """This domain's own export of a host; None when there is none that can be read."""
        own = self.mesh.own.get(key("export", host))
        if own is None:
            return None
        export = item("export", own.item)
        return (own, export) if isinstance(export, Export) else None


@dataclass(frozen=True)
class Outcome:
    """`since` and `names` (keys, and the address of a host) decide who has a name that two hosts want."""

    resources: tuple[Resource, ...] = ()
    reasons: tuple[Reason, ...] = ()
    patches: tuple[Patch, ...] = ()
    since: datetime | None = None
    names: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()  # of an own export: those that are admitted
