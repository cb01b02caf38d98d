"""What an agent may say: form, whose entry and serial it is, and the fact that is made of it. Pure.

1. The form is one that the agent's software makes: bounded, printable texts, known words.
2. The serial was issued by this CA, to this node, for this entry and this slot.
3. The entry is served by this node, or ended at most a day before the time of the fact.
What fails is not a fact but a reason to look at that node: its word is counted as nothing.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from trustfed.cluster.entries import serves
from trustfed.cluster.evidence.serials import IssuedTo
from trustfed.cluster.state import ClusterState, Node
from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact
from trustfed.proto import evidence_pb2 as pb

MAX_SERIALS = 1_000
MAX_LOST = 64
MAX_PARTS = 10_000
_MAX_INT = 2**53 - 1
_ENDED_MS = int(timedelta(days=1).total_seconds()) * 1_000
_SERIAL = re.compile(r"[0-9a-f]{32}", re.ASCII)
_WORD = re.compile(r"[a-z_]{0,32}", re.ASCII)
_DOORS = ("workload_api", "sds")
_NODE_SLOT = "node"
_SLOTS = ("x509", "reserve", _NODE_SLOT)
_ANY_SLOTS = ("", *_SLOTS)
_KINDS = {kind.removeprefix("agent."): kind for kind in kinds.SAID_BY_AGENTS}
_OF_SERIALS = frozenset({kinds.DELIVERED, kinds.RELEASED, kinds.LOADED, kinds.CONFIRMED, kinds.EXPIRED})
_OF_NODES = frozenset({kinds.HELD, kinds.LOST, kinds.OFFSET})

MALFORMED, UNKNOWN, ANOTHERS, ENTRY, SLOT, ENDED = (
    "malformed",
    "unknown serial",
    "another's serial",
    "another node's entry",
    "wrong slot",
    "entry ended",
)


class Said(Struct, frozen=True):
    """What an agent says, its form being good: each part of the message is looked at once."""

    kind: str
    entry: str
    slot: str
    serial: str
    more: dict[str, Any]
    """What facts of this kind have beside."""

    @property
    def of_serial(self) -> bool:
        """Whether the serial's record has to allow it (2)."""
        return self.kind in _OF_SERIALS


def kind_of(said: pb.AgentFact) -> str:
    """The fact's kind; "" for one that agents do not say."""
    return _KINDS.get(said.kind, "")


def read(said: pb.AgentFact) -> Said | None:
    """What it says; None if no agent of ours says such a thing (1)."""
    kind, entry, serial, slot = _KINDS.get(said.kind), said.entry_id, said.serial, said.slot
    peer, spiffe_id = said.peer, said.spiffe_id
    if not kind or len(entry) > 64 or not entry.isprintable():
        return None
    if len(peer) > 2048 or len(spiffe_id) > 2048 or not (peer.isprintable() and spiffe_id.isprintable()):
        return None
    if kind in _OF_NODES:
        more = None if entry or serial or slot not in ("", _NODE_SLOT) else _list_of(said, kind)
        return Said(kind, "", _NODE_SLOT, "", more) if more is not None else None
    if not _SERIAL.fullmatch(serial) or slot not in (_ANY_SLOTS if kind == kinds.SEEN else _SLOTS):
        return None
    if kind == kinds.DELIVERED:
        door = said.door
        return Said(kind, entry, slot, serial, {"door": door}) if door in _DOORS else None
    if kind == kinds.LOADED:
        return Said(kind, entry, slot, serial, {"peer": peer})
    if kind in (kinds.CONFIRMED, kinds.SEEN):
        return Said(kind, entry, slot, serial, {"peer": peer, "spiffe_id": spiffe_id})
    return Said(kind, entry, slot, serial, {})


def _list_of(said: pb.AgentFact, kind: str) -> dict[str, Any] | None:
    serials, lost = list(said.serials), said.lost
    if len(serials) > MAX_SERIALS or not all(map(_SERIAL.fullmatch, serials)):
        return None
    if not said.part <= said.parts <= MAX_PARTS or abs(said.offset_ms) > _MAX_INT or len(lost) > MAX_LOST:
        return None
    if any(not _WORD.fullmatch(one.kind) or max(one.count, one.first, one.last) > _MAX_INT for one in lost):
        return None
    if kind == kinds.HELD:
        return {"serials": serials, "part": said.part, "parts": said.parts}
    if kind == kinds.LOST:
        return {"lost": [{"kind": o.kind, "count": o.count, "first": o.first, "last": o.last} for o in lost]}
    return {"offset_ms": said.offset_ms}


def fault(said: Said, node: str, issued: IssuedTo | None) -> str:
    """Why this node may not say it (2); "" if it may."""
    if said.kind not in _OF_SERIALS:
        return ""
    if issued is None:
        return UNKNOWN
    if issued.node != node:
        return ANOTHERS
    if issued.entry != said.entry:
        return ENTRY
    if issued.slot != said.slot or (said.slot == _NODE_SLOT and said.kind != kinds.EXPIRED):
        return SLOT  # what a node's own SVID does, this cluster sees itself
    return ""


def served(state: ClusterState, node: Node, entry_id: str, now: datetime) -> bool:
    """Whether this node serves the entry now (3); True for what is about none."""
    entry = state.entries.get(entry_id)
    return not entry_id or (entry is not None and serves(entry, node, now))


def ended_before(ended: list[Fact], at: int) -> bool:
    """Whether an entry with these `entry.ended` facts had ended more than a day before `at` (3)."""
    return bool(ended) and max(int(fact.body.get("at", fact.at)) for fact in ended) + _ENDED_MS < at


def made_of(said: Said, node: str, epoch: str, sequence: int, at: int, now: int, *, late: bool) -> Fact:
    """The fact."""
    kind, entry, serial = said.kind, said.entry, said.serial
    body: dict[str, Any] = {
        "node": node,
        "epoch": epoch,
        "sequence": sequence,
        "entry": entry,
        "instance": f"{node}/{entry}" if entry else f"node/{node}",
        "slot": said.slot,
        "serial": serial,
        "at": at,
        **said.more,
    }
    if late:
        body["late"] = True
    return Fact(now, kind, serial or node, body)
