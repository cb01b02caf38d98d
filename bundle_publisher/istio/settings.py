"""What of a cluster's own setting goes into every rendered resource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True)
class Settings:
    """Of one cluster. `aliases` are trust domains whose identities are this mesh's own as well: as configured, legacy ones for
    as long as it moves, and Istio's default.
    """

    trust_domain: str
    root_namespace: str = "istio-system"
    gateway_selector: Mapping[str, str] = field(default_factory=lambda: {"istio": "eastwestgateway"})
    gateway_port: int = 15443
    max_connection_duration: timedelta = timedelta(hours=1)
    aliases: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    """Other domains whose identities are or were accepted here, in order: whose anchors a proxy may have."""
