"""What agents report, through every check into the ledger: the door's decoding, the intake, the ledger, the Merkle log.

One node that empties a full spool, and fifty that report at once; everything but the connection is the product's.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Run
from tests.fakes.evidence_facts import START
from trustfed.cluster import events as e
from trustfed.cluster.evidence.alarms import Alarms
from trustfed.cluster.evidence.heard import Nodes
from trustfed.cluster.evidence.intake import MAX_FACTS, Intake
from trustfed.cluster.evidence.kept import Kept, open_kept
from trustfed.cluster.evidence.records import Records
from trustfed.cluster.evidence.serials import IssuedTo, Serials
from trustfed.cluster.fold import apply
from trustfed.cluster.state import ClusterState
from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact
from trustfed.journal.sqlite import Store, open_store
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import from_ms, to_ms

GROUP = "evidence"
DOMAIN = "prod-us-west"
ENTRIES = 100
OF_ONE, OF_EACH, NODES = 20_000, 4_000, 50
_SAID = ("delivered", "loaded", "confirmed", "released")
_BOOT, _AGE_MS = hashlib.sha256(b"boot").digest()[:8], 60_000


async def take(run: Run, folder: Path) -> None:
    """Add both figures."""
    for nodes, of_each, who in ((1, OF_ONE, "one node's full spool"), (NODES, OF_EACH, f"{NODES} nodes at once")):
        seconds = await measured(folder / str(nodes), nodes, of_each)
        run.own(
            GROUP,
            f"reports of agents taken in, checked, durable, in the Merkle log: {who}",
            "facts/s",
            nodes * of_each / seconds,
            more=True,
        )


async def measured(folder: Path, nodes: int, of_each: int) -> float:
    """Seconds from the first report of these nodes until all they said is in the Merkle log."""
    house = await _House.open(folder, nodes)
    try:
        reports = [house.reports(number, await house.issued(number, of_each // len(_SAID))) for number in range(nodes)]
        total = house.store.ledger.position + nodes * of_each
        await house.store.facts_log.integrated(house.store.ledger.position)
        begun = time.perf_counter()
        await asyncio.gather(*(house.say(number, said) for number, said in enumerate(reports)))
        await house.store.facts_log.integrated(total)
        seconds = time.perf_counter() - begun
        assert house.store.ledger.position == total and not house.alarms.standing(), "facts were not believed"
    finally:
        await house.store.close()
        await house.kept.close()
    return seconds


class _House:
    """A cluster's intake over files, with nodes of 100 entries."""

    def __init__(self, store: Store, kept: Kept, nodes: int) -> None:
        self.store, self.kept, clock, registry = store, kept, SystemClock(), Registry()
        self._state, self._now = _state(nodes), to_ms(clock.now())
        self.alarms, self._nodes = Alarms(clock, registry), Nodes()
        self.records = Records(store.ledger, kept, clock)
        self._serials = Serials(store.ledger.find)
        self._intake = Intake(
            self.records, self._serials, lambda: self._state, self._nodes, self.alarms, clock, registry
        )

    @classmethod
    async def open(cls, folder: Path, nodes: int) -> _House:
        house = cls(open_store(folder / "store"), await open_kept(folder / "kept.db"), nodes)
        await house.records.start()
        return house

    async def issued(self, node: int, count: int) -> list[tuple[str, str]]:
        """(entry, serial) of so many SVIDs of the node; issuance keeps to whom each went, and so does this."""
        made = [(f"entry-{number % ENTRIES}", f"{node:016x}{number:016x}") for number in range(count)]
        name, at = f"node-{node}", self._now - _AGE_MS
        for start in range(0, count, MAX_FACTS):
            some = made[start : start + MAX_FACTS]
            bodies = [
                {"serial": serial, "node": name, "entry": entry, "slot": "x509", "not_after": at // 1000 + 3600}
                for entry, serial in some
            ]
            await self.store.ledger.append([Fact(at, kinds.ISSUED, body["serial"], body) for body in bodies])
            for entry, serial in some:
                self._serials.remember(serial, IssuedTo(name, entry, "x509", at, at + 3_600_000))
        return made

    def reports(self, node: int, held: Sequence[tuple[str, str]]) -> list[bytes]:
        """What the node says of them, as it is on the wire."""
        self._nodes.of(f"node-{node}").tell(self._now)
        facts = [
            pb.AgentFact(
                kind=kind,
                entry_id=entry,
                slot="x509",
                serial=serial,
                door="sds" if kind == "delivered" else "",
                peer="router~10.2.3.4~gateway" if kind == "loaded" else "10.2.3.4:8443" if kind == "confirmed" else "",
                spiffe_id=f"spiffe://{DOMAIN}/ns/default/sa/{entry}" if kind == "confirmed" else "",
                anchor_ms=self._now,
                anchor_elapsed_ms=1_000_000,
                elapsed_ms=1_000_001 + number,
                boot=_BOOT,
            )
            for number, (entry, serial) in enumerate(held)
            for kind in _SAID
        ]
        epoch, ends = hashlib.sha256(f"epoch {node}".encode()).digest()[:16], 2_000_000
        return [
            pb.NodeReport(
                epoch=epoch,
                first=start + 1,
                facts=facts[start : start + MAX_FACTS],
                waiting=max(len(facts) - start - MAX_FACTS, 0),
                boot=_BOOT,
                elapsed_ms=ends,
            ).SerializeToString()
            for start in range(0, len(facts), MAX_FACTS)
        ]

    async def say(self, node: int, reports: Sequence[bytes]) -> None:
        """One report after the other, as the agent's sender does."""
        for data in reports:
            answer = await self._intake.report(self._state.nodes[f"node-{node}"], pb.NodeReport.FromString(data))
            answer.SerializeToString()


def _state(nodes: int) -> ClusterState:
    state, begun = ClusterState(), from_ms(START)
    for number in range(nodes):
        name = f"node-{number}"
        state = apply(state, e.NodeAttested(name, ("all",), "join_token", "t", "k", (b"c",), begun))
    for number in range(ENTRIES):
        path = f"spiffe://{DOMAIN}/ns/default/sa/entry-{number}"
        entry = e.EntryPut(
            id=f"entry-{number}",
            spiffe_id=path,
            parent="group/all",
            selectors=("unix:uid:1",),
            x509_ttl=3600,
            jwt_ttl=300,
            dns_names=(),
            federates_with=(),
            hint="",
            admin=False,
            chain="leaf",
            expires_at=None,
            owner="",
            created_at=begun,
        )
        state = apply(state, entry)
    return state
