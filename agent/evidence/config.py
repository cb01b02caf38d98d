"""The tables [[probe]] of the agent's configuration."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta

from trustfed.errors import Invalid
from trustfed.runtime.sockets import parse_address
from trustfed.spiffe.ids import SpiffeId

MOST_PROBES = 64
_EVERY = timedelta(seconds=1), timedelta(days=1)
_MOST_PROTOCOLS, _LONGEST_PROTOCOL = 8, 255


@dataclass(frozen=True)
class ProbeConfig:
    """A workload's TLS door, and whose SVID it must show. Without `remote` the address must be one of this node.

    `alpn` is offered in the handshake, for doors that choose by it who is answered (Istio's: "istio").
    """

    address: str
    spiffe_id: SpiffeId
    every: timedelta = timedelta(seconds=30)
    remote: bool = False
    alpn: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        host, port = parse_address(self.address)
        if not port:
            raise Invalid(f"{self.address} names no port", hint='address = "127.0.0.1:8443"')
        if not self.remote and host != "localhost":
            try:
                ipaddress.ip_address(host)
            except ValueError:
                raise Invalid(
                    f"{self.address} is no address of this node",
                    hint="name an IP address of it, or set remote = true to have another machine looked at",
                ) from None
        if not _EVERY[0] <= self.every <= _EVERY[1]:
            raise Invalid(f"every of {self.every} is out of range", hint="1s to 1d")
        if self.spiffe_id.is_reserved or not self.spiffe_id.path:
            raise Invalid(f"{self.spiffe_id} is not the ID of a workload")
        if len(self.alpn) > _MOST_PROTOCOLS or not all(
            one.isascii() and 1 <= len(one) <= _LONGEST_PROTOCOL for one in self.alpn
        ):
            raise Invalid("alpn has a name that is none, or too many", hint=f"at most {_MOST_PROTOCOLS} ASCII names")


def check_probes(probes: tuple[ProbeConfig, ...]) -> None:
    """Raise Invalid for too many, and for one that is there twice."""
    if len(probes) > MOST_PROBES:
        raise Invalid(f"{len(probes)} probes", hint=f"at most {MOST_PROBES}")
    if len({(one.address, one.spiffe_id) for one in probes}) < len(probes):
        raise Invalid("two probes have the same address and spiffe_id")
