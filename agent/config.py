"""The agent's configuration: one TOML file, read by trustfed.runtime.config; an example stands in trustfed/cli/templates.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trustfed.errors import Invalid
from trustfed.runtime.logs import LogConfig
from trustfed.runtime.sockets import MAX_PATH, parse_address


@dataclass(frozen=True)
class LimitsConfig:
    """What the agent may be made to hold."""

    connections: int = 4096
    connections_per_user: int = 1024
    entries: int = 10_000
    jwt_svids: int = 1000
    hashed_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("connections", "connections_per_user", "entries", "jwt_svids", "hashed_bytes"):
            if getattr(self, name) < 1:
                raise Invalid(f"limits.{name} must be at least 1")


@dataclass(frozen=True)
class AgentConfig:
    """One node's agent."""

    data_dir: Path
    socket: Path
    admin_socket: Path | None = None
    health: str = ""
    log: LogConfig = field(default_factory=LogConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self) -> None:
        for name, path in (("socket", self.socket), ("admin_socket", self.admin_path)):
            # Beside the socket stands its lock, and it is made under another name first.
            if len(str(path).encode()) + 5 > MAX_PATH:
                raise Invalid(f"{name} {path} is too long", hint=f"at most {MAX_PATH - 5} bytes")
        if self.socket == self.admin_path:
            raise Invalid("socket and admin_socket are the same path")
        if self.health:
            parse_address(self.health)

    @property
    def admin_path(self) -> Path:
        """Where the admin socket is."""
        return self.admin_socket or self.data_dir / "admin.sock"
