"""A cluster's state in a test's hand, and the table that is rendered from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from tests.fakes.clocks import START, ManualClock
from trustfed.cluster import events as ce
from trustfed.cluster import fold
from trustfed.cluster.mesh import events as e
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.cluster.mesh.explain import Explain, Hub
from trustfed.cluster.mesh.routes import Routes
from trustfed.cluster.state import ClusterState, Domain
from trustfed.federation.mesh import Export, Gateway, Import, Item, ServicePort, kind_of, write_item
from trustfed.journal.events import TypedEvent
from trustfed.runtime.metrics import Registry

OWN, EAST, NORTH = "prod-us-west", "prod-eu-west", "prod-us-north"
HOST = "payments.shop.svc.cluster.local"
HTTP = ServicePort(8080, "http", "HTTP")
CHECKOUT = f"spiffe://{OWN}/ns/shop/sa/checkout"


def gateway(name: str = "east-1", address: str = "203.0.113.20", **more: Any) -> Gateway:
    """A gateway of EAST unless said otherwise."""
    fields: dict[str, Any] = {"port": 15443, "network": EAST, "locality": "eu-west-1/eu-west-1a", "weight": 3}
    return Gateway(name, address, **{**fields, **more})


def export(domain: str = EAST, host: str = HOST, callers: tuple[str, ...] = (CHECKOUT,), **more: Any) -> Export:
    """An export of a domain, to OWN's checkout unless said otherwise."""
    name, namespace = host.split(".")[:2]
    fields: dict[str, Any] = {
        "ports": (HTTP,),
        "answers": (f"spiffe://{domain}/ns/{namespace}/sa/{name}",),
        "workload": {"app": name},
    }
    return Export(host, callers=callers, **{**fields, **more})


class House:
    """The cluster OWN. Every event is folded and told, then the table is made; `told` are the keys that changed last."""

    def __init__(self, config: MeshConfig | None = None, own: str = OWN) -> None:
        self.clock = ManualClock()
        self.state = ClusterState(domain=Domain("i", own, "publication", b"key"))
        self.config = config or MeshConfig()
        self.own, self.sequence, self.grants = own, 0, 0
        self.hub = Hub(connected=True, heard_at=START, refused={})
        self.told: set[str] = set()
        self.open()

    def open(self) -> None:
        """Begin as a process does: from the state alone."""
        self.routes = Routes(self, self.config, self.clock, Registry())
        self.routes.subscribe(self.told.update)
        self.explain = Explain(self, self.routes, lambda: self.hub, self.clock)

    def do(self, *events: TypedEvent) -> None:
        """These happen, one after the other."""
        for event in events:
            self.state = fold.apply(self.state, event)
            self.routes.on_event(event)
        self.settle()

    def settle(self) -> None:
        """Let the table be made anew."""
        self.told.clear()
        for _ in self.routes.settle():
            pass

    def grant(
        self, importer: str, exporter: str, *, since: datetime = START, days: int = 30, local: bool = False
    ) -> str:
        """`importer` accepts identities of `exporter`."""
        self.grants += 1
        name = f"g{self.grants}"
        self.do(
            ce.GrantOffered(name, importer, exporter, since, since + timedelta(days=days), "", b"k", 0, local=local)
        )
        accepted = ce.GrantAccepted(name, b"k", START) if importer == self.own else ce.GrantConfirmed(name, 0)
        self.do(accepted)
        return name

    def agree(self, domain: str = EAST) -> tuple[str, str]:
        """Both grants between OWN and a domain."""
        return self.grant(self.own, domain), self.grant(domain, self.own)

    def put(self, *items: Item) -> None:
        """OWN says these."""
        for item in items:
            self.sequence += 1
            kind, now = kind_of(item), self.clock.now()
            self.do(e.MeshPut(kind, item.name, write_item(item), self.sequence, "command", now))

    def drop(self, kind: str, name: str) -> None:
        """OWN takes one back."""
        self.sequence += 1
        self.do(e.MeshDropped(kind, name, self.sequence, self.clock.now()))

    def hear(self, domain: str, *items: Item) -> None:
        """Another domain's word arrives."""
        for item in items:
            kind, now = kind_of(item), self.clock.now()
            self.do(e.RouteTold(domain, kind, item.name, write_item(item), 1, b"k", now))

    def local(
        self, sidecars: str = "absent", answers: tuple[str, ...] = (), rules: list[Any] | None = None, host: str = HOST
    ) -> None:
        """What is known of a host inside OWN."""
        data = json.dumps(rules or []).encode()
        self.do(e.LocalSeen(host, sidecars, answers, data, "command", self.clock.now()))

    def usual(self, host: str = HOST, domain: str = EAST) -> None:
        """All that a rendered import needs."""
        self.agree(domain)
        self.put(Import(f"from-{domain}", domain, host=host))
        self.hear(domain, gateway(network=domain), export(domain, host))
        self.local(host=host)

    def manifests(self) -> dict[str, Mapping[str, Any]]:
        """The specs that are rendered, by key."""
        return {key: json.loads(one.manifest)["spec"] for key, one in self.routes.table().items()}

    def spec(self, key: str) -> Any:
        """One of them."""
        return self.manifests()[key]

    def codes(self, host: str = HOST) -> list[str]:
        """Why a host is rendered here or not."""
        return [reason.code for reason in self.routes.reasons(host)]


def rule(namespace: str = "shop", host: str = HOST, name: str = "owners", **policy: Any) -> dict[str, Any]:
    """A DestinationRule that an owner wrote."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2025-01-01T00:00:00Z"},
        "spec": {"host": host, "trafficPolicy": policy},
    }
