"""How a cluster's mesh is configured: the table [mesh] of its file."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from trustfed.cluster.mesh.kubernetes.config import KubernetesConfig
from trustfed.errors import Invalid
from trustfed.runtime.reach import Reach
from trustfed.spiffe.ids import TrustDomain

MAX_OWN_DOMAINS = 64

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SELECTOR = re.compile(r"[A-Za-z0-9]([A-Za-z0-9./_-]{0,314}[A-Za-z0-9])?=[A-Za-z0-9._-]{0,63}", re.ASCII)


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
    # Further trust domains whose identities are as good as this mesh's own: of a mesh that has another name, or partners' whose
    # certificates an ingress gateway takes. Identities of all others are refused from the first export or import on.
    own_domains: tuple[str, ...] = ()
    # How long a TCP connection to another cluster may last: what a grant's end leaves open ends with it.
    max_connection_duration: timedelta = timedelta(hours=1)
    # How often each imported gateway is asked for a TCP connection; more than a thousand of them make it less often.
    probe_interval: timedelta = timedelta(seconds=5)
    # A connection or handshake that takes longer has failed.
    probe_timeout: timedelta = timedelta(seconds=2)
    # How often each imported service is asked for its certificate at each gateway; at most 4 are in one second. 0s: never.
    tls_probe_interval: timedelta = timedelta(minutes=10)
    # The API server of the Kubernetes that this cluster is; without it exports and local hosts are said in other ways.
    kubernetes: KubernetesConfig | None = None
    # A directory of YAML documents that says what gateways, exports and imports there are: applied whenever it changes.
    directory: Path | None = None
    # How often that directory is looked at.
    directory_poll: timedelta = timedelta(seconds=5)

    def __post_init__(self) -> None:
        for network in self.allow_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise Invalid(f"mesh.allow_networks has {network!r}", hint="a network as 10.0.0.0/8") from None
        if not timedelta(seconds=1) <= self.max_connection_duration <= timedelta(days=7):
            raise Invalid("mesh.max_connection_duration must be between 1s and 7d")
        if not timedelta(milliseconds=100) <= self.directory_poll <= timedelta(hours=1):
            raise Invalid("mesh.directory_poll must be between 100ms and 1h")
        if not timedelta(seconds=1) <= self.probe_interval <= timedelta(hours=1):
            raise Invalid("mesh.probe_interval must be between 1s and 1h")
        if not timedelta(milliseconds=50) <= self.probe_timeout <= timedelta(minutes=1):
            raise Invalid("mesh.probe_timeout must be between 50ms and 1m")
        if self.tls_probe_interval and not timedelta(seconds=10) <= self.tls_probe_interval <= timedelta(days=1):
            raise Invalid("mesh.tls_probe_interval must be between 10s and 1d, or 0s")
        if not _LABEL.fullmatch(self.root_namespace):
            raise Invalid(f"mesh.root_namespace is {self.root_namespace[:80]!r}", hint="a DNS label as istio-system")
        if not self.gateway_selector or not all(_SELECTOR.fullmatch(label) for label in self.gateway_selector):
            raise Invalid("mesh.gateway_selector is no list of labels", hint='such as ["istio=eastwestgateway"]')
        if not 1 <= self.gateway_port <= 65_535:
            raise Invalid(f"mesh.gateway_port is {self.gateway_port}", hint="1 to 65535")

        if len(self.own_domains) > MAX_OWN_DOMAINS:
            raise Invalid(f"mesh.own_domains names {len(self.own_domains)}", hint=f"at most {MAX_OWN_DOMAINS}")
        for domain in self.own_domains:
            try:
                TrustDomain(domain)
            except Invalid as error:
                hint = "names of trust domains, without spiffe://"
                raise Invalid(f"mesh.own_domains: {error.message}", hint=hint) from None

    def reach(self) -> Reach:
        """Which addresses a gateway may have, and which may be probed."""
        networks = tuple(ipaddress.ip_network(network) for network in self.allow_networks)
        return Reach(allow=networks, option="mesh.allow_networks")
