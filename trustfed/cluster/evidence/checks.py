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


def kind_of(said: pb.AgentFact) -> str:
    """The fact's kind; "" for one that agents do not say."""
    return _KINDS.get(said.kind, "")


def asks_for(said: pb.AgentFact) -> str:
    """The serial whose record `fault` wants; "" if none."""
    return said.serial if kind_of(said) in _OF_SERIALS and _SERIAL.fullmatch(said.serial) else ""


def malformed(said: pb.AgentFact) -> bool:
    """Whether no agent of ours says such a thing (1)."""
    kind, peer, spiffe_id = kind_of(said), said.peer, said.spiffe_id
    if not kind or len(said.entry_id) > 64 or not said.entry_id.isprintable():
        return True
    if len(peer) > 2048 or len(spiffe_id) > 2048 or not (peer.isprintable() and spiffe_id.isprintable()):
        return True
    if kind in _OF_NODES:
        return bool(said.entry_id or said.serial) or _malformed_list(said)
    if not _SERIAL.fullmatch(said.serial):
        return True
    if kind == kinds.DELIVERED and said.door not in _DOORS:
        return True
    if kind == kinds.SEEN:
        return said.slot not in ("", "x509", "reserve", _NODE_SLOT)
    return said.slot not in ("x509", "reserve", _NODE_SLOT)


def _malformed_list(said: pb.AgentFact) -> bool:
    if len(said.serials) > MAX_SERIALS or any(not _SERIAL.fullmatch(one) for one in said.serials):
        return True
    if not said.part <= said.parts <= MAX_PARTS or abs(said.offset_ms) > _MAX_INT or len(said.lost) > MAX_LOST:
        return True
    return any(not _WORD.fullmatch(one.kind) or max(one.count, one.first, one.last) > _MAX_INT for one in said.lost)


def fault(said: pb.AgentFact, node: str, issued: IssuedTo | None) -> str:
    """Why this node may not say it (1, 2); "" if it may."""
    if malformed(said):
        return MALFORMED
    if kind_of(said) not in _OF_SERIALS:
        return ""
    if issued is None:
        return UNKNOWN
    if issued.node != node:
        return ANOTHERS
    if issued.entry != said.entry_id:
        return ENTRY
    if issued.slot != said.slot or (said.slot == _NODE_SLOT and kind_of(said) != kinds.EXPIRED):
        return SLOT  # what a node's own SVID does, this cluster sees itself
    return ""


def served(state: ClusterState, node: Node, entry_id: str, now: datetime) -> bool:
    """Whether this node serves the entry now (3); True for what is about none."""
    entry = state.entries.get(entry_id)
    return not entry_id or (entry is not None and serves(entry, node, now))


def ended_before(ended: list[Fact], at: int) -> bool:
    """Whether an entry with these `entry.ended` facts had ended more than a day before `at` (3)."""
    return bool(ended) and max(int(fact.body.get("at", fact.at)) for fact in ended) + _ENDED_MS < at


def made_of(said: pb.AgentFact, node: str, epoch: str, sequence: int, at: int, now: int, *, late: bool) -> Fact:
    """The fact."""
    kind, entry = kind_of(said), said.entry_id
    body: dict[str, Any] = {
        "node": node,
        "epoch": epoch,
        "sequence": sequence,
        "entry": entry,
        "instance": f"{node}/{entry}" if entry else f"node/{node}",
        "slot": said.slot or (_NODE_SLOT if kind in _OF_NODES else ""),
        "serial": said.serial,
        "at": at,
    }
    if late:
        body["late"] = True
    if kind == kinds.DELIVERED:
        body["door"] = said.door
    elif kind in (kinds.LOADED, kinds.CONFIRMED, kinds.SEEN):
        body["peer"] = said.peer
        if kind != kinds.LOADED:
            body["spiffe_id"] = said.spiffe_id
    elif kind == kinds.HELD:
        body.update(serials=list(said.serials), part=said.part, parts=said.parts)
    elif kind == kinds.LOST:
        body["lost"] = [{"kind": o.kind, "count": o.count, "first": o.first, "last": o.last} for o in said.lost]
    elif kind == kinds.OFFSET:
        body["offset_ms"] = said.offset_ms
    return Fact(now, kind, said.serial if kind not in _OF_NODES else node, body)
