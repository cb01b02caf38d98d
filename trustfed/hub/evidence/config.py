"""`[evidence]` and `[alerts]` of the hub's configuration."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from trustfed.errors import Invalid
from trustfed.runtime.config import SecretFile
from trustfed.runtime.reach import Reach, Target


@dataclass(frozen=True)
class EvidenceConfig:
    """How often the hub signs how far its logs are, and where a witness finds that."""

    checkpoint_every: timedelta = timedelta(minutes=5)
    # Once a day the newest signed checkpoint is put here, for an auditor or another system to fetch and keep.
    witness_directory: Path | None = None

    def __post_init__(self) -> None:
        if not timedelta(seconds=1) <= self.checkpoint_every <= timedelta(days=1):
            raise Invalid("[evidence] checkpoint_every is out of range", hint="from 1s to 1d")


@dataclass(frozen=True)
class AlertsConfig:
    """Who is told of alarms when no Alertmanager is: one webhook, signed (Standard Webhooks)."""

    webhook: str = ""  # an https:// address
    key_file: SecretFile | None = None  # the secret that both sides hold: at least 24 bytes, or whsec_ and base64
    ca_file: Path | None = None  # whom to believe that it is the webhook's server; the system's CAs without it
    allow_networks: tuple[str, ...] = ()  # addresses that it may have although they lead nowhere from elsewhere
    silence: timedelta = timedelta(minutes=5)  # a cluster that is not heard of for so long is alarmed on

    def __post_init__(self) -> None:
        if self.webhook:
            Target.parse(self.webhook)
            if self.key_file is None:
                raise Invalid("[alerts] webhook is set without key_file", hint="messages are never sent unsigned")
        if not timedelta(minutes=1) <= self.silence <= timedelta(days=1):
            raise Invalid("[alerts] silence is out of range", hint="from 1m to 1d")
        for network in self.allow_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise Invalid(f"[alerts] allow_networks has {network!r}", hint="a network as 10.0.0.0/8") from None

    def reach(self) -> Reach:
        """Which addresses the webhook may have."""
        networks = tuple(ipaddress.ip_network(network) for network in self.allow_networks)
        return Reach(allow=networks, option="alerts.allow_networks")
