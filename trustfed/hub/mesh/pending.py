"""What one cluster's stream is still to be told of the mesh: which routes, never the routes themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

from trustfed.hub.mesh.refusals import Refused


@dataclass
class MeshPending:
    """Each thing once, however often it changed."""

    routes: set[str] = field(default_factory=set)  # trustfed.hub.mesh.index.route
    whole: set[str] = field(default_factory=set)  # exporters of which all is sent anew
    unsure: set[str] = field(default_factory=set)  # exporters of which all waits until this hub can stand behind it
    refused: dict[str, Refused] = field(default_factory=dict)
