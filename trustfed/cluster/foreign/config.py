"""How foreign bundle endpoints are asked: the [foreign] table of a cluster's configuration."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta

from trustfed.errors import Invalid
from trustfed.runtime.reach import Network, Reach


@dataclass(frozen=True)
class ForeignConfig:
    """Bounds on where this cluster may be sent, and on how long and how often it asks."""

    # Networks that are refused otherwise: loopback, link-local. A cloud's metadata service is refused in any case.
    allow_addresses: tuple[str, ...] = ()
    refuse_private: bool = False
    timeout: timedelta = timedelta(seconds=15)
    # However short a foreign bundle's refresh hint is.
    least_refresh: timedelta = timedelta(seconds=15)

    def __post_init__(self) -> None:
        self.reach()
        if not timedelta(seconds=1) <= self.timeout <= timedelta(minutes=1):
            raise Invalid("foreign.timeout must be from 1s to 1m")
        if not timedelta(milliseconds=100) <= self.least_refresh <= timedelta(hours=1):
            raise Invalid("foreign.least_refresh must be from 100ms to 1h")

    def reach(self) -> Reach:
        """Which addresses may be connected to. Raises Invalid."""
        networks: list[Network] = []
        for text in self.allow_addresses:
            try:
                networks.append(ipaddress.ip_network(text))
            except ValueError:
                raise Invalid(
                    f"foreign.allow_addresses: {text[:80]!r} is no network", hint='such as "127.0.0.0/8"'
                ) from None
        return Reach(tuple(networks), private=not self.refuse_private, option="foreign.allow_addresses")
