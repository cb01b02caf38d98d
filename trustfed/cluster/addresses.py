"""Where others find this cluster: every address of a door, in order of preference, as agents and peers are told them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Addresses:
    """HOST:PORT each; the first is the one to try first."""

    grpc: tuple[str, ...] = ()
    https: tuple[str, ...] = ()

    @property
    def bundle_endpoints(self) -> tuple[str, ...]:
        """The https_spiffe doors as URLs."""
        return tuple(f"https://{address}" for address in self.https)
