"""Rendered routes in the hands of a test: the port of trustfed.cluster.mesh.feed_door, and resources to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from bundle_publisher.istio.resource import Resource, seal
from trustfed.federation.mesh_digest import digest

CREATED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def service_entry(name: str, address: str = "203.0.113.20", weight: int = 1, pad: int = 0) -> Resource:
    """A ServiceEntry for NAME.ns; `pad` adds so many endpoints."""
    endpoints = [
        {
            "address": address,
            "ports": {"http": 15443},
            "network": f"net-{number}",
            "locality": "eu-west-1/eu-west-1a",
            "weight": weight,
            "labels": {"security.istio.io/tlsMode": "istio"},
        }
        for number in range(1 + pad)
    ]
    return seal(
        "ServiceEntry",
        "ns",
        f"trustfed-{name}",
        CREATED,
        {
            "hosts": [f"{name}.ns.svc.cluster.local"],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": 8080, "name": "http", "protocol": "HTTP"}],
            "subjectAltNames": [f"spiffe://prod-eu-west/ns/ns/sa/{name}"],
            "endpoints": endpoints,
        },
    )


def destination_rule(name: str) -> Resource:
    """The DestinationRule beside it."""
    return seal(
        "DestinationRule",
        "ns",
        f"trustfed-{name}",
        CREATED,
        {
            "host": f"{name}.ns.svc.cluster.local",
            "trafficPolicy": {
                "tls": {"mode": "ISTIO_MUTUAL", "subjectAltNames": [f"spiffe://prod-eu-west/ns/ns/sa/{name}"]},
                "outlierDetection": {"consecutive5xxErrors": 5, "interval": "5s", "baseEjectionTime": "30s"},
            },
        },
    )


def policy(name: str) -> Resource:
    """A DENY rule for its workload."""
    return seal(
        "AuthorizationPolicy",
        "ns",
        f"trustfed-{name}",
        CREATED,
        {
            "selector": {"matchLabels": {"app": name}},
            "action": "DENY",
            "rules": [{"from": [{"source": {"principals": ["*"], "notPrincipals": ["prod-us-west/*"]}}]}],
        },
    )


class FakeRoutes:
    """`trustfed.cluster.mesh.feed_door.RouteTable`, changed by hand."""

    def __init__(self, *resources: Resource) -> None:
        self._table: Mapping[str, Resource] = {resource.key: resource for resource in resources}
        self._listeners: list[Callable[[Iterable[str]], None]] = []

    def table(self) -> Mapping[str, Resource]:
        return self._table

    def digest(self) -> bytes:
        return digest({key: resource.version for key, resource in self._table.items()})

    def subscribe(self, listener: Callable[[Iterable[str]], None]) -> None:
        self._listeners.append(listener)

    def put(self, *resources: Resource) -> None:
        self._set({**self._table, **{resource.key: resource for resource in resources}})

    def drop(self, *keys: str) -> None:
        self._set({key: resource for key, resource in self._table.items() if key not in keys})

    def _set(self, table: Mapping[str, Resource]) -> None:
        changed = {key for key in table.keys() | self._table.keys() if table.get(key) != self._table.get(key)}
        self._table = table
        for listener in self._listeners:
            listener(changed)
