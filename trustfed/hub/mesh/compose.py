"""Puts the parts of this room together, and gives the hub's own composition one thing to hold."""

from __future__ import annotations

from trustfed.hub.mesh.intake import MeshIntake
from trustfed.hub.mesh.relaying import MeshRelay
from trustfed.hub.operations import Operations
from trustfed.hub.relay import Relay
from trustfed.hub.state import HubState
from trustfed.journal.events import TypedEvent
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach


class HubMeshParts:
    """The mesh at the hub: what is taken from domains, and what importers are sent."""

    def __init__(
        self,
        operations: Operations,
        relay: Relay,
        clock: Clock,
        reach: Reach | None = None,
        registry: Registry | None = None,
    ) -> None:
        registry = registry or Registry()
        self.relay = MeshRelay(relay.views, relay.all_views, registry)
        self.intake = MeshIntake(
            lambda: operations.state,
            operations.hear_mesh,
            reach or Reach(),
            clock,
            registry,
            self.relay.refused,
            lambda domain: self.relay.all_said(domain, operations.state),
        )

        def count() -> float:
            return float(sum(len(said) for said in operations.state.mesh.domains.values()))

        registry.gauge("hub_mesh_items", "gateways, exports and imports that domains say").read(count)

    def on_event(self, position: int, event: TypedEvent, state: HubState) -> None:
        """One event of the hub's journal, after it was folded."""
        self.relay.on_event(position, event, state)
        self.intake.on_event(event)
