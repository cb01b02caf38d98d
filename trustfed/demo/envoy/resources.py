"""The pieces of Envoy configuration that client, server and gateway share. Pure: values in, JSON-able values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Resource: TypeAlias = dict[str, Any]

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
SDS_CLUSTER = "sds-grpc"
HTTP_PROTOCOLS = frozenset({"HTTP", "HTTP2", "GRPC"})
HTTP2_PROTOCOLS = frozenset({"HTTP2", "GRPC"})
# What istiod's proxies say to one another, and what an AUTO_PASSTHROUGH chain takes.
ISTIO_ALPNS = ("istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2")
UNBOUNDED = 4_294_967_295


@dataclass
class Resources:
    """What one proxy is given."""

    listeners: list[Resource] = field(default_factory=list)
    clusters: list[Resource] = field(default_factory=list)

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.listeners + other.listeners, self.clusters + other.clusters)


@dataclass(frozen=True)
class Secrets:
    """Where a proxy finds its identity and its anchors: the agent's workload socket, or files of SDS answers."""

    socket: Path | None = None
    files: Path | None = None  # a folder with default.json and ROOTCA.json

    def named(self, name: str) -> Resource:
        """An SdsSecretConfig."""
        source: Resource
        if self.socket is not None:
            service = {"envoy_grpc": {"cluster_name": SDS_CLUSTER}}
            source = {
                "api_config_source": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": True,
                    "grpc_services": [service],
                },
                # As istio-agent configures it: a listener waits for its secrets for as long as it takes.
                "initial_fetch_timeout": "0s",
            }
        else:
            assert self.files is not None
            path = str(self.files / f"{name}.json")
            source = {"path_config_source": {"path": path, "watched_directory": {"path": str(self.files)}}}
        return {"name": name, "sds_config": {"resource_api_version": "V3", **source}}


def typed(name: str, type_: str, **fields: object) -> Resource:
    """A typed extension."""
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{type_}", **fields}}


def address(text: str) -> Resource:
    """HOST:PORT as Envoy's Address."""
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def endpoint(where: str, weight: int = 1) -> Resource:
    """An LbEndpoint."""
    return {"endpoint": {"address": address(where)}, "load_balancing_weight": weight}


def cluster(name: str, localities: Sequence[Resource], **fields: object) -> Resource:
    """A cluster of known addresses, with Istio's defaults: 10 s to connect, least requests, no circuit breaker."""
    thresholds = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), UNBOUNDED)
    return {
        "@type": CLUSTER,
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {"cluster_name": name, "endpoints": list(localities)},
        **fields,
    }


def http_options(*, http2: bool, max_connection_duration: str | None = None) -> Resource:
    """How requests are sent upstream."""
    common = {"max_connection_duration": max_connection_duration} if max_connection_duration else {}
    options: Resource = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}},
    }
    if common:
        options["common_http_protocol_options"] = common
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}


def tls_inspector() -> Resource:
    """The filter that reads the SNI and ALPN of a connection before it is taken."""
    return typed(
        "envoy.filters.listener.tls_inspector", "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    )


def tcp_proxy(cluster_name: str, max_connection_duration: str | None = None) -> Resource:
    """Bytes to a cluster."""
    extra = {"max_downstream_connection_duration": max_connection_duration} if max_connection_duration else {}
    return typed(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=cluster_name,
        cluster=cluster_name,
        **extra,
    )


def http_manager(
    cluster_name: str, route: Mapping[str, object], filters: Sequence[Resource] = (), **fields: object
) -> Resource:
    """Requests to a cluster, HTTP/1.1 or HTTP/2 as the client speaks."""
    router = typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")
    host = {
        "name": cluster_name,
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster_name, "timeout": "0s", **route}}],
    }
    return typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=cluster_name,
        codec_type="AUTO",
        route_config={"name": cluster_name, "virtual_hosts": [host], "validate_clusters": False},
        http_filters=[*filters, router],
        **fields,
    )
