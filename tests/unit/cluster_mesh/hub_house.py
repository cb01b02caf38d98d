"""A cluster over memory drivers beside a domain that it has agreed with, and the parts that speak with the hub."""

from __future__ import annotations

from datetime import timedelta

from tests.fakes.mesh_world import route, signed
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from tests.unit.hub.newcomer import Newcomer
from trustfed.cluster import events as e
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.mesh.events import MeshDropped, MeshPut
from trustfed.cluster.mesh.hearing import Hearing
from trustfed.federation.mesh import Item, kind_of, write_item
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach

EAST = "td-east"


class HubHouse:
    """`await HubHouse.make()`, `await close()`."""

    def __init__(self, parts: ClusterParts, east: Newcomer) -> None:
        self.parts, self.east = parts, east
        self.hearing = Hearing(parts.fold, Reach(), parts.clock, Registry())
        self.news = HubNews(parts.fold, lambda: None, lambda who, level: None, parts.clock, Registry())
        self.news.also_take("routes", self.hearing.routes)
        self.news.also_take("mesh_refused", self.hearing.own_refused)

    @classmethod
    async def make(cls) -> HubHouse:
        made = cls(await ClusterParts.make(), await Newcomer.make(EAST))
        await made.agree()
        return made

    async def close(self) -> None:
        await self.parts.close()

    async def agree(self, importer: bool = True, exporter: bool = True, tag: str = "") -> None:
        """Grants: this domain accepts east's identities, and east ours."""
        now = self.parts.now
        until, reason = now + timedelta(days=30), "agreed"
        if importer:
            into = e.GrantOffered(f"in{tag}", TD, EAST, now, until, reason, self.east.key.spki, 0)
            await self.parts.record(into, e.GrantAccepted(f"in{tag}", self.east.key.spki, now))
        if exporter:
            out = e.GrantOffered(f"out{tag}", EAST, TD, now, until, reason, self.east.key.spki, 0)
            await self.parts.record(out, e.GrantConfirmed(f"out{tag}", 0))

    async def put(self, *items: Item) -> None:
        for item in items:
            at = self.parts.state.mesh.sequence + 1
            await self.parts.record(MeshPut(kind_of(item), item.name, write_item(item), at, "command", self.parts.now))

    async def drop(self, item: Item) -> None:
        at = self.parts.state.mesh.sequence + 1
        await self.parts.record(MeshDropped(kind_of(item), item.name, at, self.parts.now))

    async def route(self, item: Item, sequence: int, newcomer: Newcomer | None = None) -> pb.Route:
        by = newcomer or self.east
        return route(await signed(by.keys, "publication", by.trust_domain.name, by.key, item, sequence))

    async def hear(self, *routes: pb.Route, **more: object) -> None:
        """The hub sends routes."""
        await self.news.take(pb.FromHub(routes=pb.Routes(upsert=routes, **more)))  # type: ignore[arg-type]

    def held(self) -> dict[str, int]:
        return {at.partition("/")[2]: row.sequence for at, row in self.parts.state.mesh.routes.items()}
