"""What the ledger says that this room must not say twice: a fold over its facts. Pure.

Everything here is a function of the facts alone, so it never disagrees with them: what was saved of it is the fold up to a
position, and what followed is folded again at the start, also after kill -9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact

MAX_EPOCHS = 64
"""Spools of one node that are told apart, newest last."""


class OfNode(msgspec.Struct):
    """One node: how far each of its spools was taken in, the serial it showed last, and since when it is silent."""

    marks: dict[str, int] = {}
    shown: str = ""
    silent: int = 0
    heard: bool = False


class Folded:
    """The fold; `dirty` are the names of what changed since it was saved."""

    def __init__(self) -> None:
        self.nodes: dict[str, OfNode] = {}
        self.down: dict[str, int] = {}
        """Probe → since when it is down; 0: it is up."""
        self.acknowledged: dict[str, tuple[int, int]] = {}
        """Consumer → the level of the own bundle that it has."""
        self.mirrored = 0
        """The journal's position up to which events were mirrored."""
        self.scanned = 0
        """The same, also over events that are mirrored as nothing: no more than where to begin looking."""
        self.last_at = 0
        self.policy = ""
        self.dirty: set[str] = set()

    def take(self, fact: Fact) -> None:
        """One fact, in the ledger's order."""
        self.last_at = max(self.last_at, fact.at)
        take = _TAKE.get(fact.kind)
        if take is not None:
            take(self, fact)

    def mark(self, node: str, epoch: str) -> int:
        """The last sequence of this spool that is on record; 0 before the first."""
        held = self.nodes.get(node)
        return held.marks.get(epoch, 0) if held is not None else 0

    def newest(self, node: str) -> str:
        """The spool that began last; "" before the first."""
        held = self.nodes.get(node)
        return next(reversed(held.marks), "") if held is not None and held.marks else ""

    def of(self, node: str) -> OfNode:
        """The node's record, to be changed."""
        self.dirty.add(f"node/{node}")
        held = self.nodes.get(node)
        if held is None:
            held = self.nodes[node] = OfNode()
        return held

    def saved(self, names: set[str]) -> dict[str, bytes | None]:
        """These names with their values."""
        return {name: self._value(name) for name in names}

    def load(self, values: dict[str, bytes]) -> None:
        """What `saved` gave."""
        for name, value in values.items():
            kind, _, key = name.partition("/")
            if kind == "node":
                self.nodes[key] = msgspec.json.decode(value, type=OfNode)
            elif name == "rest":
                rest = msgspec.json.decode(value, type=_Rest)
                self.down, self.acknowledged = rest.down, rest.acknowledged
                self.mirrored, self.last_at, self.policy = rest.mirrored, rest.last_at, rest.policy
                self.scanned = rest.scanned
        self.dirty.clear()

    def _value(self, name: str) -> bytes | None:
        if name == "rest":
            levels, positions = (self.down, self.acknowledged), (self.mirrored, self.scanned)
            rest = _Rest(*levels, *positions, self.last_at, self.policy)
            return msgspec.json.encode(rest)
        held = self.nodes.get(name.partition("/")[2])
        return msgspec.json.encode(held) if held is not None else None

    def _said(self, fact: Fact) -> None:
        body = fact.body
        node, epoch, sequence = body.get("node"), body.get("epoch"), body.get("sequence")
        if not isinstance(node, str) or not isinstance(sequence, int) or not isinstance(epoch, str):
            return
        if not epoch or sequence < 1:
            if fact.kind in (kinds.DELIVERED, kinds.CONFIRMED) and body.get("slot") == "node":
                self.of(node).shown = str(body.get("serial", ""))
            return
        marks = self.of(node).marks
        if marks.get(epoch, 0) < sequence:
            marks[epoch] = sequence
        while len(marks) > MAX_EPOCHS:
            del marks[next(iter(marks))]

    def _mirrored(self, fact: Fact) -> None:
        if isinstance(position := fact.body.get("journal"), int):
            self.mirrored = max(self.mirrored, position)
        if fact.kind == kinds.NODE_ENDED:
            self.of(fact.key).silent = 0

    def _silent(self, fact: Fact) -> None:
        self.of(fact.key).silent = int(fact.body.get("since", fact.at))

    def _heard(self, fact: Fact) -> None:
        held = self.of(fact.key)
        held.silent, held.heard = 0, True

    def _probe(self, fact: Fact) -> None:
        self.down[fact.key] = int(fact.body.get("at", fact.at)) if fact.kind == kinds.PROBE_DOWN else 0

    def _acknowledged(self, fact: Fact) -> None:
        consumer = consumer_of(fact.body)
        level = int(fact.body.get("epoch", 0)), int(fact.body.get("sequence", 0))
        self.acknowledged[consumer] = max(level, self.acknowledged.get(consumer, (0, 0)))

    def _policy(self, fact: Fact) -> None:
        self.policy = fact.key


class _Rest(msgspec.Struct):
    down: dict[str, int]
    acknowledged: dict[str, tuple[int, int]]
    mirrored: int
    scanned: int
    last_at: int
    policy: str


def consumer_of(body: dict[str, Any]) -> str:
    """Who acknowledged a bundle: "node NAME" or "importer DOMAIN"."""
    return f"node {body['node']}" if body.get("node") else f"importer {body.get('importer', '')}"


_TAKE: dict[str, Callable[[Folded, Fact], None]] = {
    **dict.fromkeys((*kinds.SAID_BY_AGENTS, kinds.FLAGGED), Folded._said),
    **dict.fromkeys(
        (kinds.AUTHORITY_STEP, kinds.BUNDLE_PUBLISHED, kinds.FORCED, kinds.ENTRY_ENDED, kinds.NODE_ENDED),
        Folded._mirrored,
    ),
    kinds.NODE_SILENT: Folded._silent,
    kinds.NODE_HEARD: Folded._heard,
    kinds.PROBE_DOWN: Folded._probe,
    kinds.PROBE_UP: Folded._probe,
    kinds.BUNDLE_ACKNOWLEDGED: Folded._acknowledged,
    kinds.POLICY: Folded._policy,
}
