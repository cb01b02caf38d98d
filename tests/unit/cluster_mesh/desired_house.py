"""A cluster's fold and nothing else, and documents that say what its mesh is to be."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from tests.fakes.clocks import ManualClock
from trustfed.cluster import events as e
from trustfed.cluster.fold import cluster_fold
from trustfed.cluster.mesh import own
from trustfed.cluster.mesh.desired.apply import By, apply
from trustfed.cluster.mesh.desired.files import File
from trustfed.cluster.mesh.desired.plan import Terms, differences
from trustfed.cluster.mesh.desired.wanted import Wanted, read_wanted
from trustfed.federation.mesh import Gateway
from trustfed.journal.memory import MemoryJournal, MemorySnapshots
from trustfed.runtime.reach import Reach

GATEWAY = Gateway("west-1", "203.0.113.20", 15443, "prod-us-west")
HOST = "stock.shop.svc.cluster.local"
HEAD = "apiVersion: trustfed/v1\nkind: "
REACH = Reach()


def gateway(name: str = "west-1", address: str = "203.0.113.20", weight: int = 1) -> str:
    spec = f"{{address: {address}, port: 15443, network: prod-us-west, weight: {weight}}}"
    return f"{HEAD}Gateway\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def local(sidecars: str = "absent", ports: str = "[8080:http]") -> str:
    return f"{HEAD}Local\nmetadata: {{name: {HOST}}}\nspec: {{sidecars: {sidecars}, ports: {ports}}}\n"


def wanted(*texts: str) -> dict[tuple[str, str], Wanted]:
    return read_wanted([File("mesh.yaml", "---\n".join(texts))])


class House:
    """A cluster's fold and nothing else."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal()
        self.fold = cluster_fold(self.journal, MemorySnapshots())

    async def start(self) -> None:
        await self.fold.start()
        await self.do(lambda s: [e.Keyed("i", "prod-us-west", "k", b"key", self.clock.now())])

    async def do(self, decision: Any) -> None:
        await self.fold.execute(decision, command_id=os.urandom(8).hex(), actor="uid:7", now=self.clock.now())

    async def apply(self, *texts: str, **terms: bool) -> int:
        by = By(os.urandom(8).hex(), "uid:7", "why")
        return await apply(self.fold, wanted(*texts), Terms(**terms), by, self.clock, REACH)

    async def say(self, name: str, source: str = "command", *, take: bool = False, **changed: Any) -> None:
        item = replace(GATEWAY, name=name, **changed)
        await self.do(lambda s: own.put(s, item, source, self.clock.now(), take=take))

    def differ(self, *texts: str) -> list[tuple[str, str]]:
        return [(one.action, one.name) for one in differences(self.fold.state.mesh, wanted(*texts))]

    @property
    def names(self) -> dict[str, str]:
        return {one.name: one.source for one in self.fold.state.mesh.own.values()}
