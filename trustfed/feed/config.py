"""The feed's configuration: one TOML file, read by trustfed.runtime.config; an example stands in trustfed/cli/templates.py."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from trustfed.errors import Invalid
from trustfed.runtime.logs import LogConfig
from trustfed.runtime.sockets import check_addresses, check_path, parse_address
from trustfed.spiffe.ids import SpiffeId, TrustDomain

MAX_ADDRESSES = 16


@dataclass(frozen=True)
class OutputConfig:
    """How routes reach istiod: a folder for its fs:// source, an address of loopback for its xds:// source, or both."""

    directory: Path | None = None
    mcp: str = ""
    istiod: str = "127.0.0.1:15012"
    """Who reads the folder, and is told of it after each start: trustfed.feed.announcing. Empty: nobody."""

    def __post_init__(self) -> None:
        if self.directory is None and not self.mcp:
            raise Invalid("output needs directory or mcp")
        check_addresses(self.istiod)
        if self.mcp:
            host, _ = parse_address(self.mcp)
            try:
                loopback = ipaddress.ip_address(host).is_loopback
            except ValueError:
                loopback = False
            if not loopback:
                raise Invalid(
                    f"output.mcp is {self.mcp}: only loopback is allowed, for istiod shows no certificate there",
                    hint='run the feed in istiod\'s pod, and listen at "127.0.0.1:9901" or "[::1]:9901"',
                )


@dataclass(frozen=True)
class FeedConfig:
    """One feed, beside one istiod."""

    trust_domain: TrustDomain
    cluster: tuple[str, ...]
    workload_socket: Path
    data_dir: Path
    output: OutputConfig
    admin_socket: Path | None = None
    spiffe_id: SpiffeId | None = None
    health: str = ""
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if not 1 <= len(self.cluster) <= MAX_ADDRESSES:
            raise Invalid(f"cluster must be 1 to {MAX_ADDRESSES} addresses", hint='cluster = ["cluster.example:8443"]')
        check_addresses(*self.cluster, self.health)
        check_path(self.admin_path)
        if self.spiffe_id is not None and self.spiffe_id.trust_domain != self.trust_domain:
            raise Invalid(f"spiffe_id is of {self.spiffe_id.trust_domain}, not of {self.trust_domain}")
        if self.output.directory is not None and self.output.directory == self.data_dir:
            raise Invalid("output.directory and data_dir are the same folder", hint="istiod reads all of the former")

    @property
    def admin_path(self) -> Path:
        """Where the admin socket is."""
        return self.admin_socket or self.data_dir / "admin.sock"
