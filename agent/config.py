"""The agent's configuration: one TOML file, read by trustfed.runtime.config; an example stands in trustfed/cli/templates.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agent.cache.config import CacheConfig
from agent.evidence.config import ProbeConfig, check_probes
from agent.sds.config import SdsConfig
from trustfed.errors import Invalid
from trustfed.reading.config import StoreConfig
from trustfed.runtime.logs import LogConfig
from trustfed.runtime.sockets import MAX_PATH, parse_address


@dataclass(frozen=True)
class LimitsConfig:
    """What the agent may be made to hold. `prefetch` is for how many entries SVIDs are fetched before anybody asks."""

    connections: int = 4096
    connections_per_user: int = 1024
    entries: int = 10_000
    prefetch: int = 1000
    jwt_svids: int = 1000
    hashed_bytes: int = 256 * 1024 * 1024
    evidence_bytes: int = 16 * 1024 * 1024
    evidence_facts: int = 100_000

    def __post_init__(self) -> None:
        for name in ("connections", "connections_per_user", "entries", "prefetch", "jwt_svids", "hashed_bytes"):
            if getattr(self, name) < 1:
                raise Invalid(f"limits.{name} must be at least 1")
        for name, least, most in (
            ("evidence_bytes", 1024 * 1024, 64 * 1024 * 1024),
            ("evidence_facts", 1_000, 200_000),
        ):
            if not least <= getattr(self, name) <= most:
                raise Invalid(f"limits.{name} is out of range", hint=f"{least} to {most}")


@dataclass(frozen=True)
class AttestConfig:
    """How this node proves to a cluster who it is: by a token, or by its AWS identity (then [store] says where to begin)."""

    kind: Literal["join_token", "aws_iam"] = "join_token"


@dataclass(frozen=True)
class AgentConfig:
    """One node's agent."""

    data_dir: Path
    socket: Path
    admin_socket: Path | None = None
    health: str = ""
    log: LogConfig = field(default_factory=LogConfig)
    store: StoreConfig | None = None
    attest: AttestConfig = field(default_factory=AttestConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    sds: SdsConfig = field(default_factory=SdsConfig)
    probe: tuple[ProbeConfig, ...] = ()

    def __post_init__(self) -> None:
        for name, path in (("socket", self.socket), ("admin_socket", self.admin_path)):
            # Beside the socket stands its lock, and it is made under another name first.
            if len(str(path).encode()) + 5 > MAX_PATH:
                raise Invalid(f"{name} {path} is too long", hint=f"at most {MAX_PATH - 5} bytes")
        if self.attest.kind != "join_token" and (self.store is None or not self.store.trust_domain):
            raise Invalid(
                f'attest.kind = "{self.attest.kind}" needs [store] with trust_domain',
                hint="the store says where that domain's cluster is, and by which key it is known",
            )
        if self.socket == self.admin_path:
            raise Invalid("socket and admin_socket are the same path")
        if self.health:
            parse_address(self.health)
        check_probes(self.probe)

    @property
    def admin_path(self) -> Path:
        """Where the admin socket is."""
        return self.admin_socket or self.data_dir / "admin.sock"
