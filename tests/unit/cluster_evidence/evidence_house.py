"""A cluster's evidence over a real ledger file, with agents that may lie."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from tests.fakes.clocks import ManualClock
from tests.unit.cluster.test_cluster_sessions import World as States
from tests.unit.cluster.test_cluster_sessions import entry
from trustfed.cluster.evidence.alarms import Alarms
from trustfed.cluster.evidence.heard import Nodes
from trustfed.cluster.evidence.intake import Intake
from trustfed.cluster.evidence.kept import Kept, open_kept
from trustfed.cluster.evidence.records import Records
from trustfed.cluster.evidence.serials import Serials
from trustfed.cluster.state import ClusterState, Node
from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact
from trustfed.journal.sqlite import Store, open_store
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms

BOOT = hashlib.sha256(b"boot").digest()[:8]


def serial(number: int) -> str:
    return f"{number:032x}"


class House:
    """`await House.open(path)`; `await close()`, and open it again for another process."""

    def __init__(self, store: Store, kept: Kept, clock: ManualClock) -> None:
        self.store, self.kept, self.clock, self.registry = store, kept, clock, Registry()
        self.state: ClusterState = States(entry("e1"), entry("e2", "node/n2")).state
        self.nodes = Nodes()
        self.alarms = Alarms(clock, self.registry)
        self.records = Records(store.ledger, kept, clock)
        self.serials = Serials(store.ledger.find)
        self.intake = Intake(
            self.records, self.serials, lambda: self.state, self.nodes, self.alarms, clock, self.registry
        )

    @classmethod
    async def open(cls, path: Path, clock: ManualClock | None = None) -> House:
        house = cls(open_store(path / "store"), await open_kept(path / "kept.db"), clock or ManualClock())
        await house.records.start()
        return house

    async def close(self) -> None:
        await self.records.save()
        await self.die()

    async def die(self) -> None:
        """Without saving."""
        await self.kept.close()
        await self.store.close()

    @property
    def now(self) -> int:
        return to_ms(self.clock.now())

    def node(self, name: str = "n1") -> Node:
        return self.state.nodes[name]

    async def issue(self, number: int, node: str = "n1", entry: str = "e1", slot: str = "x509") -> str:
        body = {
            "serial": serial(number),
            "node": node,
            "entry": entry,
            "slot": slot,
            "instance": f"{node}/{entry}" if entry else f"node/{node}",
            "not_before": self.now // 1000,
            "not_after": self.now // 1000 + 3600,
        }
        await self.store.ledger.append([Fact(self.now, kinds.ISSUED, serial(number), body)])
        return serial(number)

    async def facts(self, kind: str = "agent.") -> list[Fact]:
        """The facts whose kind begins so."""
        found, after = [], 0
        while records := await self.store.ledger.read(after, 1000):
            found += [one.fact for one in records if one.fact.kind.startswith(kind)]
            after = records[-1].position
        return found

    def counted(self, text: str) -> bool:
        return text in self.registry.exposition().decode()


class Agent:
    """One node's agent, its monotonic clock in step with the house's; `told` before it says anything."""

    def __init__(self, house: House, name: str = "n1", epoch: bytes | None = None) -> None:
        self.house, self.name, self.epoch = house, name, epoch or os.urandom(16)
        self.sequence, self.boot, self.anchor = 0, BOOT, (0, 0)
        self.skew = 0

    def elapsed(self) -> int:
        return int(self.house.clock.monotonic() * 1000) + 1_000_000 + self.skew

    def told(self) -> None:
        self.house.nodes.of(self.name).tell(self.house.now)
        self.anchor = (self.house.now, self.elapsed())

    def fact(self, kind: str, number: int = 1, **changed: Any) -> pb.AgentFact:
        given: dict[str, Any] = {
            "kind": kind,
            "entry_id": "e1",
            "slot": "x509",
            "serial": serial(number),
            "door": "sds" if kind == "delivered" else "",
            "peer": "envoy~1" if kind in ("loaded", "confirmed", "seen") else "",
            "anchor_ms": self.anchor[0],
            "anchor_elapsed_ms": self.anchor[1],
            "elapsed_ms": self.elapsed(),
            "boot": self.boot,
        }
        if kind in ("held", "lost", "offset"):
            given.update(entry_id="", slot="", serial="", door="", peer="")
        return pb.AgentFact(**{**given, **changed})

    def report(self, *facts: pb.AgentFact, first: int = 0, waiting: int = 0) -> pb.NodeReport:
        return pb.NodeReport(
            epoch=self.epoch,
            first=first or self.sequence + 1,
            facts=facts,
            waiting=waiting,
            boot=self.boot,
            elapsed_ms=self.elapsed(),
        )

    async def say(self, *facts: pb.AgentFact, **how: Any) -> int:
        """Report these; gives what is wanted next."""
        report = self.report(*facts, **how)
        answer = await self.house.intake.report(self.house.node(self.name), report)
        self.sequence = max(self.sequence, answer.next - 1)
        return answer.next
