"""What an importing cluster's istiod is told of one remote host: a ServiceEntry and a DestinationRule.

The ServiceEntry has the exporters' gateways as endpoints. Istio joins them to those of a Service of the same host where
namespace and port names agree. The DestinationRule names exactly who may answer, asks for mTLS, ejects what fails, bounds how
long a connection may last, and keeps near endpoints first:

- no such Service here: `failover` from each of this cluster's regions to the nearest remote one (Istio takes one);
- a Service here: `failoverPriority` alone. Its labels are only on remote endpoints, so that all local ones stay equal, as they
  were (`failover` would have made callers prefer their own zone), and the remote ones follow, nearest first.

A ServiceEntry gives its host an address in 240.0.0.0/4, which counts only where no Service has the name: without one Istio
would open the host's TCP ports for every destination, and catch what was meant for others. It is what Istio's DNS proxy answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import gcd
from typing import Any

from bundle_publisher.istio.names import in_its_namespace
from bundle_publisher.istio.resource import Resource, seal
from bundle_publisher.istio.settings import Settings
from trustfed.federation.mesh import Export, Gateway

FULL = 100
"""What a gateway weighs by measurement, at most: trustfed.cluster.mesh.weights."""
MAX_WEIGHT = 1_000
MAX_ENDPOINTS = 1_000
SUBSET_LABEL = "subset.trustfed/"
RANK_LABEL = "rank.trustfed/"
MAX_RANKS = 8


@dataclass(frozen=True)
class Entrance:
    """A gateway through which a host is reached, and what it weighs by this cluster's own measurement (1 to FULL)."""

    gateway: Gateway
    measured: int = FULL


@dataclass(frozen=True)
class Remote:
    """One exporter's word on the host, and its gateways; `since` when this cluster first heard of the export."""

    exporter: str
    export: Export
    since: datetime
    entrances: tuple[Entrance, ...]


@dataclass(frozen=True)
class Imported:
    """A host with all exporters whose endpoints are merged, first come first, and what answers it in this cluster."""

    host: str
    remotes: tuple[Remote, ...]
    present: bool  # a Service of this name exists in this cluster, all of its endpoints with a sidecar
    answers: tuple[str, ...] = ()  # identities of this domain that answer it here
    regions: tuple[str, ...] = ()  # where this cluster is

    @property
    def namespace(self) -> str:
        return self.host.split(".")[1]

    @property
    def since(self) -> datetime:
        return min(remote.since for remote in self.remotes)


def service_entry(imported: Imported, settings: Settings) -> Resource:
    """The remote endpoints. Raises Invalid when what comes out may not be sent."""
    ports = imported.remotes[0].export.ports
    ranks = _ranks(imported.remotes) if imported.present else {}
    endpoints = [
        _endpoint(remote, entrance, weight, ranks.get(_region(entrance, remote)))
        for (remote, entrance), weight in zip(_pairs(imported.remotes), _weights(imported.remotes), strict=True)
    ]
    spec: dict[str, Any] = {
        "addresses": [address(imported.host)],
        "hosts": [imported.host],
        "location": "MESH_INTERNAL",
        "resolution": "STATIC",
        "ports": [{"number": port.number, "name": port.name, "protocol": port.protocol} for port in ports],
        "subjectAltNames": answering(imported),  # for callers whose rule names nobody: those here may answer, too
        "endpoints": endpoints[:MAX_ENDPOINTS],
    }
    return seal("ServiceEntry", imported.namespace, in_its_namespace(imported.host), imported.since, spec)


def destination_rule(imported: Imported, settings: Settings) -> Resource:
    """Who may answer, and how. Raises Invalid when what comes out may not be sent."""
    spec: dict[str, Any] = {"host": imported.host, "trafficPolicy": traffic_policy(imported, settings)}
    if subsets := sorted({name for remote in imported.remotes for name in remote.export.subsets}):
        # Only remote endpoints carry the label: a subset that a caller asks for never reaches local pods of another version.
        spec["subsets"] = [{"name": name, "labels": {SUBSET_LABEL + name: "true"}} for name in subsets]
    return seal("DestinationRule", imported.namespace, in_its_namespace(imported.host), imported.since, spec)


def traffic_policy(imported: Imported, settings: Settings) -> dict[str, Any]:
    """The part that an owner's own rule needs where there is one."""
    return {
        "tls": {"mode": "ISTIO_MUTUAL", "subjectAltNames": answering(imported)},
        "outlierDetection": {
            "consecutive5xxErrors": 5,
            "interval": "5s",
            "baseEjectionTime": "30s",
            "maxEjectionPercent": 100,
            # With all endpoints ejected, here and there, they are asked all the same: without a rule of ours they would be.
            "minHealthPercent": 1,
        },
        "loadBalancer": {"localityLbSetting": _locality(imported)},
        "connectionPool": {
            "tcp": {"maxConnectionDuration": f"{int(settings.max_connection_duration.total_seconds())}s"}
        },
    }


def answering(imported: Imported) -> list[str]:
    """Every identity that may answer, here and there, and no other."""
    return sorted({*imported.answers, *(id_ for remote in imported.remotes for id_ in remote.export.answers)})


def address(host: str) -> str:
    """The address of a host for which there may be no Service: the same always, in 240.0.0.0/4 but outside 240.240.0.0/16.

    Istio gives addresses from that block itself (PILOT_IP_AUTOALLOCATE_IPV4_PREFIX), to what is stored in Kubernetes only.
    """
    octets = list(hashlib.sha256(host.encode()).digest()[:4])
    octets[0] = 241 + octets[0] % 14  # 241 to 254
    return ".".join(map(str, octets))


def listeners(imported: Imported) -> list[str]:
    """ADDRESS:PORT of its TCP ports, which no other host may have; other protocols tell hosts apart by name."""
    ports = imported.remotes[0].export.ports
    return [f"{address(imported.host)}:{port.number}" for port in ports if port.protocol == "TCP"]


def _endpoint(remote: Remote, entrance: Entrance, weight: int, rank: int | None) -> dict[str, Any]:
    gateway = entrance.gateway
    labels = {"security.istio.io/tlsMode": "istio"}
    labels |= {SUBSET_LABEL + name: "true" for name in remote.export.subsets}
    if rank is not None:
        labels[f"{RANK_LABEL}{rank}"] = "remote"
    found: dict[str, Any] = {
        "address": gateway.address,
        "ports": {port.name: gateway.port for port in remote.export.ports},
        "network": _network(remote.exporter, gateway.network),
        "weight": weight,
        "labels": labels,
    }
    if locality := gateway.locality or remote.export.locality:
        found["locality"] = locality
    return found


def _network(exporter: str, network: str) -> str:
    """A network's name that no other domain can mean: "network1" may be ours as well, and then our own east-west gateway
    would send what comes in from abroad out again.
    """
    return network if network == exporter else f"{exporter}.{network}"


def _pairs(remotes: Iterable[Remote]) -> list[tuple[Remote, Entrance]]:
    return [(remote, entrance) for remote in remotes for entrance in remote.entrances]


def _weights(remotes: Sequence[Remote]) -> list[int]:
    """Owner's weight times measured weight, in lowest terms, and scaled down where the largest exceeds the bound.

    With nothing measured, or all equal, they are what the owners said.
    """
    products = [entrance.gateway.weight * entrance.measured for _, entrance in _pairs(remotes)]
    if not products:
        return []
    shared = gcd(FULL, *products)
    lowest = [product // shared for product in products]
    largest = max(lowest)
    return lowest if largest <= MAX_WEIGHT else [max(one * MAX_WEIGHT // largest, 1) for one in lowest]


def _region(entrance: Entrance, remote: Remote) -> str:
    return (entrance.gateway.locality or remote.export.locality).split("/")[0]


def _nearest(remotes: Iterable[Remote]) -> list[str]:
    """The remote regions, by the best measured weight of their gateways, then by name."""
    best: dict[str, int] = {}
    for remote, entrance in _pairs(remotes):
        region = _region(entrance, remote)
        best[region] = max(best.get(region, 0), entrance.measured)
    return sorted(best, key=lambda region: (-best[region], region))


def _ranks(remotes: Iterable[Remote]) -> Mapping[str, int]:
    """1 for the nearest region; the last rank is shared by all further ones."""
    return {region: min(place, MAX_RANKS) for place, region in enumerate(_nearest(remotes), start=1)}


def _locality(imported: Imported) -> dict[str, Any]:
    if imported.present:
        # The first label that an endpoint has differs from "" and ends its match: rank 1 gets furthest, local ones all the way.
        # All ranks there can be: what an owner's rule has to hold does not change with the regions that come.
        return {"enabled": True, "failoverPriority": [f"{RANK_LABEL}{rank}=" for rank in range(MAX_RANKS, 0, -1)]}
    nearest = [region for region in _nearest(imported.remotes) if region]
    failover = []
    for own in sorted(set(imported.regions)):
        others = [region for region in nearest if region != own]
        if others:
            failover.append({"from": own, "to": others[0]})
    return {"enabled": True, "failover": failover} if failover else {"enabled": True}
