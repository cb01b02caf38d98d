"""The nodes and workloads of a simulated cluster, and the facts that they give rise to. Pure: seed and time in, facts out.

    simulation = Simulation(scene, seed, now_ms)
    for fact in simulation.until(now_ms): ...       # the last 30 days, in the order of their recording
    for fact in simulation.until(later_ms): ...     # and what happened since

What is simulated is who asks, when, and what arrives. What it amounts to is for the evidence engine to say. Facts have the
bodies of the cluster's own (trustfed.evidence.facts); no certificate stands behind their serials.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from trustfed.demo.fleet.scenes import SERVICES, Fault, Scene
from trustfed.evidence import facts as f
from trustfed.journal.events import Fact

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
HISTORY_MS = 30 * DAY
LIVES = ((24 * HOUR, HISTORY_MS), (HOUR, 2 * DAY), (4 * MINUTE, HOUR))
"""How long SVIDs live, and how far back they have a history: services, interfaces, jobs."""

NODE_LIFE = 24 * HOUR
AUTHORITY_LIFE = 72 * HOUR
DARK_MS = (30 * HOUR, 40 * MINUTE)
"""From when until when, before the beginning, two nodes of a DARK cluster were silent."""

SILENT_MS = 70 * MINUTE
"""How long before the beginning one node of a SILENT cluster was heard last."""

SLIPS = 0.0005
"""The share of long-lived SVIDs whose rotation slips: no fleet is perfect."""


@dataclass
class Slot:
    """One instance that holds an SVID: a workload on a node (x509), or the node itself (node)."""

    instance: str
    entry: str
    node: str
    spiffe_id: str
    kind: str
    life: int
    door: str
    probed: bool = False
    serial: str = ""
    not_before: int = 0


class Simulation:
    """One cluster's facts, in order of time; the same for the same seed and beginning."""

    def __init__(self, scene: Scene, seed: str, now_ms: int) -> None:
        self.scene, self.began_ms = scene, now_ms
        self._random = random.Random(f"{scene.name} {seed}")  # noqa: S311 - scenery
        self._events: list[tuple[int, int, Fact | Slot]] = []  # a Slot: its rotation is due
        self._count = 0
        self._authority = self._jwt = ""
        self._sequence: dict[str, int] = {}
        self._epoch = {node: f"{self._random.getrandbits(128):032x}" for node in self.nodes}
        self.slots = {slot.instance: slot for slot in self._made()}
        self.after_ms = 0
        """What is recorded up to here is on record already."""

    @property
    def nodes(self) -> list[str]:
        """Their names."""
        return [f"node-{number}" for number in range(1, self.scene.nodes + 1)]

    @property
    def entries(self) -> dict[str, str]:
        """Entry id → SPIFFE ID."""
        return {slot.entry: slot.spiffe_id for slot in self.slots.values() if slot.entry}

    def signs(self, x509: str, jwt: str) -> None:
        """From now on these authorities sign."""
        self._authority, self._jwt = x509, jwt

    def begin(self) -> None:
        """Begin with the history."""
        for slot in self.slots.values():
            back = dict(LIVES)[slot.life]
            self._push(self.began_ms - back + self._random.randrange(slot.life // 2), slot)
        for at, fact in (*self._faults(), *self._successions()):
            self._push(at, fact)

    def resume(self, record: Fact) -> None:
        """Take a fact that is on record, of an earlier process, in order; `resumed` ends it."""
        self.after_ms = max(self.after_ms, record.at)
        if record.kind == f.ISSUED and (slot := self.slots.get(str(record.body["instance"]))) is not None:
            slot.serial, slot.not_before = record.key, int(record.body["not_before"]) * SECOND

    def resumed(self) -> None:
        """All that was on record is taken: whoever has an SVID rotates it when that is due."""
        for slot in self.slots.values():
            self._push(max(self._turn(slot), self.after_ms + 1), slot)
        for node in self._epoch:
            self._epoch[node] = f"{self._random.getrandbits(128):032x}"

    def until(self, to_ms: int) -> Iterator[Fact]:
        """What is recorded up to then, and was not given yet."""
        while self._events and self._events[0][0] <= to_ms:
            at, _, event = heappop(self._events)
            if isinstance(event, Fact):
                yield event
            else:
                yield from self._rotate(at, event)

    def _made(self) -> Iterator[Slot]:
        scene = self.scene
        for node in self.nodes:
            spiffe_id = f"spiffe://{scene.name}/trustfed/node/{node}"
            yield Slot(f"node/{node}", "", node, spiffe_id, "node", NODE_LIFE, "node")
        for number, service in enumerate(SERVICES[: scene.services]):
            entry = f"{service.replace('/', '-')}"
            # The second and later of every four live long; of a DARK cluster all do, lest short ones outvote the silent.
            life = LIVES[0][0] if number % 4 or scene.fault is Fault.DARK else LIVES[1 if number else 2][0]
            for replica in range(scene.replicas):
                node = self.nodes[(number + replica) % scene.nodes]
                door = "workload_api" if number % 3 == 2 else "sds"
                instance, spiffe_id = f"{node}/{entry}", f"spiffe://{scene.name}/{service}"
                yield Slot(instance, entry, node, spiffe_id, "x509", life, door, probed=number % 5 == 1)

    def _rotate(self, at: int, slot: Slot) -> Iterator[Fact]:
        """A new SVID, on record now; what is said of it follows."""
        unheard = self._unheard(slot.node, at)
        if unheard:
            if unheard > at:
                self._push(unheard, slot)
            return
        before, begins = slot.serial, at // SECOND * SECOND
        ends = begins + slot.life
        slot.serial, slot.not_before = f"{self._random.getrandbits(127):032x}", begins
        body: dict[str, object] = {
            "serial": slot.serial,
            "spiffe_id": slot.spiffe_id,
            "authority": self._authority,
            "profile": "node-svid" if slot.kind == "node" else "x509-svid",
            "chain": "leaf",
            "dns_names": [],
            "not_before": begins // SECOND,
            "not_after": ends // SECOND,
            "ttl": slot.life // SECOND,
            "key_id": f"{self._random.getrandbits(160):040x}",
            "key_algorithm": "ec-p256",
            "tbs_sha256": f"{self._random.getrandbits(256):064x}",
            "entry": slot.entry,
            "node": slot.node,
            "instance": slot.instance,
            "slot": slot.kind,
            "predecessor": before,
            "command_id": f"{self._random.getrandbits(128):032x}",
        }
        yield Fact(at, f.ISSUED, slot.serial, body)
        if slot.kind == "node":
            self._by_cluster(at + self._random.randrange(20, 900), slot)
        else:
            self._by_agent(at, slot)
        self._push(self._turn(slot), slot)

    def _turn(self, slot: Slot) -> int:
        """When it rotates next: at half life and a little, as agents do."""
        share = 0.5 + self._random.random() / 20
        if self.scene.fault is Fault.LATE and slot.life == HOUR and slot.node == self.nodes[0]:
            # Since some hours its requests wait too long.
            share = 0.82 if slot.not_before > self.began_ms - 3 * HOUR else share
        elif slot.kind == "x509" and slot.life > HOUR and self._random.random() < SLIPS:
            share = 0.8
        return slot.not_before + int(slot.life * share)

    def _by_cluster(self, at: int, slot: Slot) -> None:
        """The node shows its SVID in a handshake: the cluster itself saw it."""
        said = {"node": slot.node, "epoch": "", "sequence": 0, "entry": "", "instance": slot.instance, "slot": "node"}
        said |= {"serial": slot.serial, "at": at}
        self._push(at, Fact(at, f.DELIVERED, slot.serial, {**said, "door": "node"}))
        shown = {**said, "peer": "cluster", "spiffe_id": slot.spiffe_id}
        self._push(at, Fact(at, f.CONFIRMED, slot.serial, shown))

    def _by_agent(self, at: int, slot: Slot) -> None:
        """Delivery, then use; each is recorded a moment after it happened."""
        delivered = at + self._random.randrange(8, 80)
        self._say(delivered, slot, f.DELIVERED, door=slot.door)
        if slot.door == "sds":
            self._say(delivered + self._random.randrange(10, 200), slot, f.LOADED, peer=f"sidecar~{slot.entry}")
        if slot.probed:
            told = {"peer": f"10.{len(slot.entry)}.0.7:8443", "spiffe_id": slot.spiffe_id}
            self._say(delivered + self._random.randrange(300, 2_000), slot, f.CONFIRMED, **told)

    def _say(self, at: int, slot: Slot, kind: str, **more: object) -> None:
        received = at + self._random.randrange(100, 900)
        self._push(received, Fact(received, kind, slot.serial, self._said(slot.node, at, slot, slot.serial) | more))

    def _said(self, node: str, at: int, slot: Slot | None = None, serial: str = "") -> dict[str, object]:
        """What each fact of an agent carries."""
        self._sequence[node] = self._sequence.get(node, 0) + 1
        return {
            "node": node,
            "epoch": self._epoch[node],
            "sequence": self._sequence[node],
            "entry": slot.entry if slot else "",
            "instance": slot.instance if slot else f"node/{node}",
            "slot": slot.kind if slot else "node",
            "serial": serial,
            "at": at,
        }

    def _unheard(self, node: str, at: int) -> int:
        """Until when nothing is heard of this node: 0 if it is heard, 1 if for good."""
        if self.scene.fault is Fault.SILENT and node == self.nodes[-1] and at > self.began_ms - SILENT_MS:
            return 1
        begin, end = (self.began_ms - back for back in DARK_MS)
        if self.scene.fault is Fault.DARK and node in self.nodes[:2] and begin <= at < end:
            return end + self._random.randrange(20 * SECOND)
        return 0

    def _faults(self) -> Iterator[tuple[int, Fact]]:
        now, last = self.began_ms, self.nodes[-1]
        begun = now - HISTORY_MS
        for probe in ("bundle", "sign"):
            yield begun, Fact(begun, f.PROBE_UP, probe, {"probe": probe, "at": begun, "from": 0})
        match self.scene.fault:
            case Fault.UNKNOWN:
                at, serial = now - 11 * MINUTE, f"{self._random.getrandbits(127):032x}"
                seen = {"peer": "10.4.0.19:8443", "spiffe_id": f"spiffe://{self.scene.name}/{SERVICES[0]}"}
                yield at + 400, Fact(at + 400, f.SEEN, serial, self._said(last, at, None, serial) | seen)
            case Fault.SILENT:
                since = now - SILENT_MS
                yield since + MINUTE, Fact(since + MINUTE, f.NODE_SILENT, last, {"node": last, "since": since})
            case Fault.CLOCK:
                at = now - 9 * MINUTE
                yield at, Fact(at, f.OFFSET, last, self._said(last, at) | {"offset_ms": -47_300})
            case Fault.DARK:
                begin, end = (now - back for back in DARK_MS)
                for node in self.nodes[:2]:
                    yield begin + MINUTE, Fact(begin + MINUTE, f.NODE_SILENT, node, {"node": node, "since": begin})
                    heard = {"node": node, "from": begin, "to": end}
                    yield end, Fact(end, f.NODE_HEARD, node, heard)
            case _:
                pass

    def _successions(self) -> Iterator[tuple[int, Fact]]:
        """Authorities that followed each other, up to the ones that sign now. No journal has these steps."""
        for kind, now in (("x509", self._authority), ("jwt", self._jwt)):
            # Each takes over a quarter of a life old, and hands over at half of it (ca.lifecycle).
            before, turn = "", AUTHORITY_LIFE // 4
            first = self.began_ms - HISTORY_MS + self._random.randrange(turn)
            for at in (*range(first, self.began_ms, turn), self.began_ms):
                id_ = now if at == self.began_ms else f"{self._random.getrandbits(64):016x}"
                body: dict[str, object] = {
                    "authority": id_,
                    "kind": kind,
                    "step": "activated",
                    "not_before": (at - AUTHORITY_LIFE // 4) // SECOND,
                    "not_after": (at + AUTHORITY_LIFE * 3 // 4) // SECOND,
                    "forced": False,
                    "missing": [],
                    "retires": before,
                    "algorithm": "ec-p256",
                    "custodian": "file",
                    "safe_ms": at + AUTHORITY_LIFE * 3 // 4 - DAY - 10 * MINUTE,
                    "at": at,
                    "journal": 0,
                }
                yield at, Fact(at, f.AUTHORITY_STEP, id_, body)
                before = id_

    def _push(self, at: int, event: Fact | Slot) -> None:
        self._count += 1
        heappush(self._events, (at, self._count, event))
