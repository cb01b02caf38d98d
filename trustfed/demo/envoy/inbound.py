"""The server's sidecar: what reaches a workload, and who is refused. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trustfed.demo.envoy import rbac
from trustfed.demo.envoy.manifests import Document
from trustfed.demo.envoy.resources import (
    HTTP_PROTOCOLS,
    LISTENER,
    Resource,
    Resources,
    Secrets,
    address,
    cluster,
    endpoint,
    http_manager,
    http_options,
    tcp_proxy,
    tls_inspector,
    typed,
)


@dataclass(frozen=True)
class Port:
    """A port of the workload: where the sidecar takes it, and where the application listens (in plain text, HTTP/1.1)."""

    number: int
    protocol: str
    listen: str
    app: str


@dataclass(frozen=True)
class Workload:
    """A pod with a sidecar."""

    namespace: str
    labels: Mapping[str, str]
    ports: Sequence[Port] = field(default=())


def inbound(
    documents: Iterable[Document], workload: Workload, secrets: Secrets, root_namespace: str = "istio-system"
) -> Resources:
    """Listeners that take mTLS and, as Istio's PERMISSIVE mode does, plain text beside it: local callers without a sidecar
    are served as they were before there was a federation.
    """
    policies = rbac.applying(documents, workload.namespace, workload.labels, root_namespace)
    made = Resources()
    for port in workload.ports:
        name = f"inbound|{port.number}||"
        made.clusters.append(
            cluster(
                name,
                [{"lb_endpoints": [endpoint(port.app)]}],
                typed_extension_protocol_options=http_options(http2=False),
            )
        )
        http = port.protocol in HTTP_PROTOCOLS
        last = [*_filters(name, policies, http=http)]
        made.listeners.append(
            {
                "@type": LISTENER,
                "name": name,
                "address": address(port.listen),
                "listener_filters": [tls_inspector()],
                "filter_chains": [
                    {
                        "name": "mtls",
                        "filter_chain_match": {"transport_protocol": "tls"},
                        "transport_socket": _server_tls(secrets, http=http),
                        "filters": last,
                    },
                    {
                        "name": "plain",
                        "filter_chain_match": {"transport_protocol": "raw_buffer"},
                        "filters": last,
                    },
                ],
            }
        )
    return made


def _filters(name: str, policies: Sequence[Document], *, http: bool) -> list[Resource]:
    guards = rbac.filters(policies, http=http)
    if http:
        # The application is told whose certificate it was, and nothing that the caller says of itself.
        told = {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"uri": True}}
        return [http_manager(name, {}, guards, **told)]
    return [*guards, tcp_proxy(name)]


def _server_tls(secrets: Secrets, *, http: bool) -> Resource:
    """Peers must show a certificate that ROOTCA holds with; whose it may be is the RBAC filters' affair.

    istiod would also admit its own trust domain's SANs only, unless PILOT_SKIP_VALIDATE_TRUST_DOMAIN is set: a mesh that
    takes foreign callers sets it.
    """
    common = {
        "alpn_protocols": ["h2", "http/1.1"] if http else ["istio-peer-exchange", "istio"],
        "tls_certificate_sds_secret_configs": [secrets.named("default")],
        "validation_context_sds_secret_config": secrets.named("ROOTCA"),
    }
    return typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context=common,
    )
