"""Mesh items and statements for tests: `gateway()`, `export()`, `import_()`, and who signs them."""

from __future__ import annotations

from trustfed.federation.envelope import PublicationKey
from trustfed.federation.mesh import Export, Gateway, Import, Item, ServicePort, kind_of
from trustfed.federation.mesh_statement import Statement, assemble, payload_to_sign
from trustfed.proto import federation_pb2 as pb
from trustfed.spiffe.ids import TrustDomain


def gateway(name: str = "gw-1", address: str = "198.51.100.7", **more: object) -> Gateway:
    return Gateway(**{"name": name, "address": address, "port": 15443, "network": "n1", **more})  # type: ignore[arg-type]


def export(domain: str, service: str = "payments", namespace: str = "shop", **more: object) -> Export:
    values = {
        "host": f"{service}.{namespace}.svc.cluster.local",
        "ports": (ServicePort(8080, "http", "HTTP"),),
        "answers": (f"spiffe://{domain}/ns/{namespace}/sa/{service}",),
        "callers": (),
        "workload": {"app": service},
        **more,
    }
    return Export(**values)  # type: ignore[arg-type]


def import_(exporter: str, name: str = "", **what: str) -> Import:
    wanted = what or {"namespace": "shop"}
    return Import(name=name or f"from-{exporter}", exporter=exporter, **wanted)


async def signed(keys: object, key_name: str, domain: str, key: PublicationKey, item: Item, sequence: int) -> Statement:
    """What the domain would tell of an item."""
    name = TrustDomain(domain)
    (signature,) = await keys.sign(key_name, [payload_to_sign(name, item, sequence)])  # type: ignore[attr-defined]
    return assemble(name, item, sequence, signature, key)


def told(statement: Statement) -> pb.MeshItem:
    """It as a cluster reports it."""
    return pb.MeshItem(kind=statement.kind, name=statement.name, sequence=statement.sequence, statement=statement.data)


def route(statement: Statement) -> pb.Route:
    """It as the hub passes it on."""
    return pb.Route(
        exporter=statement.trust_domain.name, kind=statement.kind, name=statement.name, statement=statement.data
    )


def gone(item: Item, sequence: int) -> pb.MeshName:
    return pb.MeshName(kind=kind_of(item), name=item.name, sequence=sequence)


class Reader:
    """An importer that believes everything: what it holds after the messages that it was sent."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.refused: dict[str, str] = {}
        self.messages: list[pb.Routes] = []
        self._whole: dict[str, set[str]] = {}

    def read(self, messages: object) -> Reader:
        for message in messages:  # type: ignore[attr-defined]
            if message.WhichOneof("message") == "routes":
                self._routes(message.routes)
            elif message.WhichOneof("message") == "mesh_refused":
                for one in message.mesh_refused.items:
                    self.refused[f"{one.kind}/{one.name}"] = one.why
        return self

    def names(self) -> list[str]:
        return sorted(self.held)

    def _routes(self, said: pb.Routes) -> None:
        self.messages.append(said)
        for one in said.upsert:
            self.held[f"{one.exporter}/{one.kind}/{one.name}"] = one.statement
        for name in said.remove:
            self.held.pop(f"{name.exporter}/{name.kind}/{name.name}", None)
        if said.whole_of:
            named = self._whole.setdefault(said.whole_of, set())
            named |= {f"{one.exporter}/{one.kind}/{one.name}" for one in said.upsert}
            if said.last:
                del self._whole[said.whole_of]
                for at in [at for at in self.held if at.split("/")[0] == said.whole_of and at not in named]:
                    del self.held[at]
