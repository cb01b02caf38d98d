"""The east-west gateway: connections of other networks, passed on by their SNI, never opened. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from trustfed.demo.envoy.manifests import Document, named, of_kind, only
from trustfed.demo.envoy.resources import (
    ISTIO_ALPNS,
    LISTENER,
    Resources,
    address,
    cluster,
    endpoint,
    tcp_proxy,
    tls_inspector,
)
from trustfed.errors import Invalid


def gateway(
    documents: Iterable[Document],
    listen: str,
    labels: Mapping[str, str],
    services: Mapping[str, Mapping[int, Sequence[str]]],
) -> Resources:
    """AUTO_PASSTHROUGH as istiod does it: one chain per exported host and port that this mesh's registry has.

    `services`: host → port number → the sidecars (HOST:PORT) that take it. A host that no Gateway lists has no chain, and a
    connection without a chain is closed. Raises Invalid for another mode.
    """
    hosts: dict[str, None] = {}
    for document in of_kind(documents, "Gateway"):
        only(document["spec"], ("selector", "servers"), named(document))
        if any(labels.get(key) != value for key, value in document["spec"].get("selector", {}).items()):
            continue
        for server in document["spec"]["servers"]:
            only(server, ("port", "tls", "hosts", "name"), named(document))
            if server["tls"] != {"mode": "AUTO_PASSTHROUGH"} or server["port"]["protocol"] != "TLS":
                raise Invalid(f"{named(document)} is no AUTO_PASSTHROUGH gateway")
            if wild := [host for host in server["hosts"] if "*" in host]:
                raise Invalid(f"{named(document)} exposes {wild[0]}", hint="exports are listed one by one")
            # NAMESPACE/HOST names the namespace whose services are meant.
            hosts |= dict.fromkeys(host.rpartition("/")[2] for host in server["hosts"])
    made, chains = Resources(), []
    for host in hosts:
        for number, sidecars in services.get(host, {}).items():
            name = sni(host, number)
            made.clusters.append(cluster(name, [{"lb_endpoints": [endpoint(one) for one in sidecars]}]))
            match = {"transport_protocol": "tls", "server_names": [name], "application_protocols": list(ISTIO_ALPNS)}
            chains.append({"name": name, "filter_chain_match": match, "filters": [tcp_proxy(name)]})
    if chains:
        made.listeners.append(
            {
                "@type": LISTENER,
                "name": "east-west",
                "address": address(listen),
                "listener_filters": [tls_inspector()],
                "filter_chains": chains,
            }
        )
    return made


def sni(host: str, number: int, subset: str = "") -> str:
    """The name by which a service's port is asked for at a gateway."""
    return f"outbound_.{number}_.{subset or ''}_.{host}"
