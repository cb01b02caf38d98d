"""The hub's configuration: one TOML file, read by trustfed.runtime.config; an example stands in trustfed/cli/templates.py."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from bundle_publisher.targets.open import TargetConfig
from ca.keys.open import KeysConfig
from ca.profiles import INTERMEDIATE, ROOT, SYSTEM_SVID
from trustfed.errors import Invalid
from trustfed.hub.dashboard.oidc_config import DashboardConfig, OidcConfig
from trustfed.hub.domains import check_suffixes
from trustfed.hub.evidence.config import AlertsConfig, EvidenceConfig
from trustfed.journal.approvals import ApprovalsConfig
from trustfed.runtime.config import SecretFile
from trustfed.runtime.logs import LogConfig
from trustfed.runtime.reach import Reach
from trustfed.runtime.sockets import check_addresses, check_admin_group, check_path
from trustfed.spiffe.ids import TrustDomain


@dataclass(frozen=True)
class GrpcConfig:
    """The clusters' door, HOST:PORT; port 0 lets the system choose."""

    listen: str = "127.0.0.1:8443"
    advertise: str = ""

    def __post_init__(self) -> None:
        check_addresses(self.listen, self.advertise)


@dataclass(frozen=True)
class HttpsConfig:
    """The door for enrolment, the API and plain readers, HOST:PORT; its certificate is the hub's SVID."""

    listen: str = "127.0.0.1:9443"
    advertise: str = ""

    def __post_init__(self) -> None:
        check_addresses(self.listen, self.advertise)


@dataclass(frozen=True)
class WebConfig:
    """The same door once more, with a Web PKI certificate; it is read when the hub starts."""

    listen: str
    certificate_file: Path
    key_file: SecretFile

    def __post_init__(self) -> None:
        check_addresses(self.listen)


@dataclass(frozen=True)
class PublicationConfig(TargetConfig):
    """Where bundles are published for plain readers, beside the HTTPS endpoint, and where readers find the CRL."""

    crl_url: str = ""
    # How long a reader of the protected publication can be shown old news; it is signed anew at half of it.
    timestamp_ttl: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not timedelta(minutes=1) <= self.timestamp_ttl <= timedelta(days=7):
            raise Invalid("[publication] timestamp_ttl is out of range", hint="from 1m to 7d")


@dataclass(frozen=True)
class PolicyConfig:
    """How long what the hub signs lives."""

    root_ttl: timedelta = ROOT.default_lifetime
    # Longer than any authority that clusters are meant to have (72 hours by default): the shorter of both counts.
    intermediate_ttl: timedelta = timedelta(days=7)
    hub_authority_ttl: timedelta = timedelta(days=30)
    hub_svid_ttl: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        for name, most in (
            ("root_ttl", ROOT.max_lifetime),
            ("intermediate_ttl", INTERMEDIATE.max_lifetime),
            ("hub_authority_ttl", INTERMEDIATE.max_lifetime),
            ("hub_svid_ttl", SYSTEM_SVID.max_lifetime),
        ):
            value = getattr(self, name)
            if not timedelta(seconds=2) <= value <= most:
                raise Invalid(f"[policy] {name} is out of range", hint=f"from 2s to {most.days}d")
        if self.hub_svid_ttl * 2 > self.hub_authority_ttl:
            raise Invalid("[policy] hub_authority_ttl is shorter than two hub_svid_ttl")


@dataclass(frozen=True)
class MeshConfig:
    """What clusters may say of their meshes."""

    # Networks whose addresses a gateway may have although they lead nowhere from elsewhere: loopback, link-local and such.
    allow_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for network in self.allow_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise Invalid(f"[mesh] allow_networks has {network!r}", hint="a network as 10.0.0.0/8") from None

    def reach(self) -> Reach:
        """Which addresses a gateway may have."""
        networks = tuple(ipaddress.ip_network(network) for network in self.allow_networks)
        return Reach(allow=networks, option="mesh.allow_networks")


@dataclass(frozen=True)
class HubConfig:
    """Everything the hub process is told."""

    trust_domain: TrustDomain
    data_dir: Path
    dns_names: tuple[str, ...] = ("localhost",)
    admin_socket: Path | None = None
    health: str = ""
    grpc: GrpcConfig = field(default_factory=GrpcConfig)
    https: HttpsConfig = field(default_factory=HttpsConfig)
    web: WebConfig | None = None
    keys: KeysConfig = field(default_factory=KeysConfig)
    publication: PublicationConfig = field(default_factory=PublicationConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    admin_group: str = ""
    approvals: ApprovalsConfig = field(default_factory=ApprovalsConfig)
    dashboard: DashboardConfig = field(default_factory=DashboardConfig)
    oidc: OidcConfig | None = None
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if not self.dns_names:
            raise Invalid("dns_names is empty: clients that check host names could not reach the hub")
        check_suffixes(self.dns_names)
        check_addresses(self.health)
        check_path(self.admin_path)
        check_admin_group(self.admin_group, self.admin_path, self.data_dir)
        if len(self.trust_domain.name) > 40:
            raise Invalid(f"trust_domain {self.trust_domain} is too long for the roots' names", hint="40 at most")

    @property
    def store_directory(self) -> Path:
        """Journal and ledger."""
        return self.data_dir / "store"

    @property
    def admin_path(self) -> Path:
        """The admin socket."""
        return self.admin_socket or self.data_dir / "admin.sock"
