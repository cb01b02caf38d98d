"""How a cluster's mesh is configured: the table [mesh] of its file."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta

from trustfed.errors import Invalid


@dataclass(frozen=True)
class MeshConfig:
    """What is rendered for the istiods of this cluster, and from what."""

    # Networks whose addresses a gateway may have although they lead nowhere from elsewhere: loopback, link-local and such.
    allow_networks: tuple[str, ...] = ()
    # Istio's root namespace: what is rendered there holds mesh-wide.
    root_namespace: str = "istio-system"
    # The labels of this cluster's own east-west gateway pods.
    gateway_selector: tuple[str, ...] = ("istio=eastwestgateway",)
    # The port of those pods that takes other networks' traffic.
    gateway_port: int = 15443
    # How long a TCP connection to another cluster may last: what a grant's end leaves open ends with it.
    max_connection_duration: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        for network in self.allow_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise Invalid(f"mesh.allow_networks has {network!r}", hint="a network as 10.0.0.0/8") from None
        if not timedelta(seconds=1) <= self.max_connection_duration <= timedelta(days=7):
            raise Invalid("mesh.max_connection_duration must be between 1s and 7d")
