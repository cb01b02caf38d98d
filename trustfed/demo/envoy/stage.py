"""Four Envoys between two trust domains: the client's sidecar in one; two gateways and the server's sidecar in the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trustfed.demo.envoy.follow import Follower
from trustfed.demo.envoy.gateway import gateway
from trustfed.demo.envoy.inbound import Port, Workload, inbound
from trustfed.demo.envoy.outbound import outbound
from trustfed.demo.envoy.proxy import DRAIN_SECONDS, Proxy
from trustfed.demo.envoy.resources import Secrets
from trustfed.federation.mesh import ServicePort

HTTP, GRPC, TCP = PORTS = (
    ServicePort(8080, "http", "HTTP"),
    ServicePort(9090, "grpc", "GRPC"),
    ServicePort(5432, "tcp", "TCP"),
)
"""What the exported service of every proof offers."""
GATEWAY_LABELS = {"istio": "eastwestgateway"}


@dataclass(frozen=True)
class Side:
    """One trust domain's part: what its feed writes for its istiod, and its agent's workload socket."""

    directory: Path
    socket: Path
    locality: str


class Stage:
    """The four, without their processes: `proxies` says what to run. `host` is exported by `server` to `client`.

    `free` gives an address HOST:PORT of loopback that nobody listens at. `private` is a host that the server's domain has
    and does not export.
    """

    def __init__(
        self,
        folder: Path,
        host: str,
        labels: Mapping[str, str],
        client: Side,
        server: Side,
        apps: Mapping[ServicePort, str],
        free: Callable[[], str],
        drain_seconds: int = DRAIN_SECONDS,
        private: str = "",
    ) -> None:
        self.host = host
        self.outside = {port: free() for port in PORTS}  # where the client's sidecar takes calls to the service
        self.inside = {port: free() for port in PORTS}  # where the server's sidecar takes them
        self.gateways = (free(), free())
        names = ("envoy-client", "envoy-server", "envoy-gateway-a", "envoy-gateway-b")
        secrets = (Secrets(client.socket), Secrets(server.socket), None, None)
        made = [Proxy(name, folder / name, of, drain_seconds) for name, of in zip(names, secrets, strict=True)]
        self.client, self.server, *self.passing = self.proxies = tuple(made)
        self._client, self._server = client, server
        ports = [Port(port.number, port.protocol, self.inside[port], apps[port]) for port in PORTS]
        self._workload = Workload(host.split(".")[1], labels, ports)
        here = {port.number: [self.inside[port]] for port in PORTS}
        self._services = {host: here} | ({private: here} if private else {})

    def follow(self) -> list[Follower]:
        """Prepare the four, and keep each in step with its side's directory until the followers are closed."""
        for proxy in self.proxies:
            proxy.prepare()
        listens = {(self.host, port.number): self.outside[port] for port in PORTS}
        assert self.client.identity and self.server.identity
        out, in_ = self.client.identity, self.server.identity
        passing = [
            (proxy, lambda documents, at=at: gateway(documents, at, GATEWAY_LABELS, self._services))
            for proxy, at in zip(self.passing, self.gateways, strict=True)
        ]
        return [
            Follower(
                self._client.directory,
                [(self.client, lambda documents: outbound(documents, listens, out, self._client.locality))],
            ),
            Follower(
                self._server.directory,
                [(self.server, lambda documents: inbound(documents, self._workload, in_)), *passing],
            ),
        ]
