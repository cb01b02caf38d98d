"""Follows the facts of one trust domain and keeps its obligations: a pure fold, work per fact, the same from any cut.

    engine = Engine("prod.example")
    engine.take(1, fact)                # each fact once, in order of position
    engine.advance(now_ms)              # limits that pass while nothing happens
    changes = engine.changes()          # what is new since the last call

The rules are numbered in trustfed.evidence.rules. Which obligations there are depends on the facts alone (their own clock);
`advance` moves only how they stand. What is forgotten is what no rule can ask for any more, so memory grows with what is
alive, not with the ledger. A fact that cannot be read changes nothing and is counted in `malformed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

from trustfed.evidence import facts as f
from trustfed.evidence.availability import DOWN, UP, Probes
from trustfed.evidence.changes import Changes, Collected, Correction, UnknownSerial
from trustfed.evidence.definition import DEFINITION, Definition
from trustfed.evidence.few import Few
from trustfed.evidence.leaves import Leaves
from trustfed.evidence.model import COUNTS, FEW, Class, Outcome
from trustfed.evidence.pending import Pending, bucket_of, counted, difference, outcome
from trustfed.evidence.rules import SLOT_CLASS
from trustfed.evidence.saved import restore, saved
from trustfed.evidence.serials import Serial
from trustfed.journal.events import Fact

_PLACE = {name: place for place, name in enumerate(COUNTS)}
_FINAL = (Outcome.ON_TIME, Outcome.SUPERSEDED)
MAX_UNKNOWN = 10_000

Body = dict[str, Any]


class Engine(Leaves):
    """The obligations of `trust_domain` after the facts taken so far, as of `as_of`."""

    def __init__(self, trust_domain: str, definition: Definition = DEFINITION) -> None:
        super().__init__(trust_domain, definition)
        self.position = 0
        self.as_of = 0
        self.malformed = 0
        self.first_position = self.first_at = 0
        self.probes = Probes()
        self.offsets: dict[str, tuple[int, int]] = {}  # node: its clock minus the cluster's (ms), and when that was
        self.unknown: dict[str, int] = {}  # serial: when it was first shown
        self.few = Few(self)
        self._changes = Changes()
        self._rules: dict[str, Callable[[int, int, Fact], None]] = {
            f.ISSUED: self._issued,
            f.SIGNED: self._signed,
            f.OFFSET: self._offset,
            f.REFUSED: self.refused,
            f.DELIVERED: self._said,
            f.LOADED: self._said,
            f.CONFIRMED: self._said,
            f.RELEASED: self._said,
            f.EXPIRED: self._said,
            f.SEEN: self._seen,
            f.HELD: self._held,
            f.LOST: self.lost,
            f.NODE_SILENT: self.node_silent,
            f.NODE_HEARD: self.node_heard,
            f.NODE_ENDED: self._node_ended,
            f.ENTRY_ENDED: self.entry_ended,
            f.CLUSTER_GAP: self._gap,
            f.FORCED: self.forced_rotation,
            f.AUTHORITY_STEP: self.few.step,
            f.PROBE_UP: self._probe,
            f.PROBE_DOWN: self._probe,
        }

    def take(self, position: int, fact: Fact) -> None:
        """Take the fact at `position`, which is above that of the one before."""
        if not self.first_position:
            self.first_position, self.first_at = position, fact.at
        self.position = position
        self.past(fact.at)
        rule = self._rules.get(fact.kind)
        if rule is None:
            return
        try:
            rule(position, self._time(fact), fact)
        except (KeyError, TypeError, ValueError, AttributeError):
            self.malformed += 1

    def past(self, at: int) -> None:
        """The clock of the facts has come so far: all that a fact about others changes here."""
        if at > self.clock:
            self.clock = at
            self._pass()

    def advance(self, as_of_ms: int) -> None:
        """Look at everything as of this time; never back."""
        self.as_of = max(self.as_of, as_of_ms, self.clock)

    def changes(self) -> Changes:
        """What changed since the last call, and forget that it did."""
        self.as_of = max(self.as_of, self.clock)
        while self.looks and self.looks[0][0] < self.as_of:
            it = heappop(self.looks)[2]
            if not it.settled:
                self.dirty[it.id] = it
        changes, self._changes = self._changes, Changes()
        for it in self.dirty.values():
            if not it.settled:
                self._stand(it)
            now = counted(it)
            if now != it.counted:
                row = changes.counters.get((it.class_, bucket := bucket_of(it.on_time_ms)))
                if row is None:
                    row = changes.counters[it.class_, bucket] = [0] * len(COUNTS)
                for place, by in difference(it.counted, now):
                    row[place] += by
                it.counted = now
        changes.obligations = list(self.dirty.values())
        changes.named, changes.left = list(self.named.values()), self.left
        self.dirty, self.named, self.left = {}, {}, []
        return changes

    def save(self) -> Iterator[bytes]:
        """The state in chunks of well under 1 MiB. Call `changes` before; take no fact until it is exhausted."""
        return saved(self)

    @classmethod
    def load(cls, trust_domain: str, definition: Definition, chunks: Iterable[bytes]) -> Engine:
        """The engine whose `save` gave these chunks. Raises Invalid for others."""
        engine = cls(trust_domain, definition)
        restore(engine, chunks)
        return engine

    def pending(self) -> list[Pending]:
        """The obligations that are not settled, those of CAs too."""
        return [it for slot in self.slots.values() for it in slot.obligations] + list(self.few.open.values())

    def count_anew(self) -> None:
        """Count everything that is pending, and name every slot, as if neither had been: for tables that begin here."""
        for it in self.pending():
            it.counted = (0,) * len(COUNTS)
            self.dirty[it.id] = it
        self.named = {key: newest for key, slot in self.slots.items() if (newest := slot.named_last())}

    def _time(self, fact: Fact) -> int:
        body = fact.body
        at = body.get("at", fact.at)
        if type(at) is not int or body.get("late"):
            return fact.at
        return min(at, fact.at)

    def _stand(self, it: Pending) -> None:
        silent = self.silent.get(it.node, 0)
        if it.class_ in FEW:
            silent = 0
        it.outcome, it.ended_ms, it.why = outcome(it, self.as_of, silent, self.definition)

    # What time does.

    def _pass(self) -> None:
        clock = self.clock
        while self.limits and self.limits[0][0] < clock:
            it = heappop(self.limits)[2]
            if not it.settled and not self.settle(it):
                heappush(self.limits, (it.hard_ms + self.definition.close_ms, self.tick(), it))
        while self.ends and self.ends[0][0] < clock:
            self._ended(heappop(self.ends)[2])

    def settle(self, it: Pending) -> bool:
        """Settle what nothing can change any more (9); False: it is to be looked at again at its close."""
        self.as_of = max(self.as_of, self.clock)
        self._stand(it)
        final = it.outcome in _FINAL and it.class_ not in FEW and self.clock > it.on_time_ms
        if not final and self.clock <= it.hard_ms + self.definition.close_ms:
            return False
        it.settled = True
        self.dirty[it.id] = it
        if it.class_ in FEW:
            self.few.drop(it)
        else:
            self.drop(it)
        return True

    def _ended(self, serial: Serial) -> None:
        """A certificate has ended, and the facts that could still tell of it are in (43)."""
        if not serial.ended:
            serial.ended = True
            self.live.pop(serial.serial, None)
            if not serial.delivered and serial.slot in SLOT_CLASS:
                what = "prefetched" if serial.held else "abandoned"
                self._count(SLOT_CLASS[serial.slot], serial.not_after_ms, what)
            slot = self.slots.get((serial.instance, serial.slot))
            if slot is not None and serial.kept:
                slot.prune()
                if serial.kept:
                    heappush(self.ends, (serial.not_after_ms + self.definition.close_ms, self.tick(), serial))
            return
        slot = self.slots.get((serial.instance, serial.slot))
        hard = [it.hard_ms for it in slot.obligations] if slot is not None else []
        if hard and max(hard) + self.definition.close_ms >= self.clock:
            heappush(self.ends, (max(hard) + self.definition.close_ms, self.tick(), serial))
        else:
            self.forget(serial)

    def _count(self, class_: Class, at_ms: int, what: str) -> None:
        self._changes.add(class_, bucket_of(at_ms), _PLACE[what])

    # What facts do.

    def _issued(self, position: int, at: int, fact: Fact) -> None:
        issued = self.issued(position, fact)
        if issued.slot in SLOT_CLASS and not fact.body["predecessor"]:
            self._count(SLOT_CLASS[issued.slot], fact.at, "first")

    def _said(self, position: int, at: int, fact: Fact) -> None:
        body = fact.body
        serial: str = body["serial"]
        slot = self.slots.get((body["instance"], body["slot"]))
        known = slot.serials.get(serial) if slot is not None else None
        if slot is None or known is None or known.node != body["node"]:
            if serial not in self.live:
                self._unknown(serial, "reported", position, at, body)
                self._too_late(position, at, fact, serial)
            return
        if not self.said(slot, known, at, fact):
            self._correct(position, at, fact, known.slot, serial)

    def _too_late(self, position: int, at: int, fact: Fact, serial: str) -> None:
        """Of a serial that is forgotten: nothing that it says can count any more."""
        if self.clock > at + self.definition.close_ms and fact.body["slot"] in SLOT_CLASS:
            self._correct(position, at, fact, fact.body["slot"], serial)

    def _correct(self, position: int, at: int, fact: Fact, slot: str, serial: str) -> None:
        self._count(SLOT_CLASS[slot], fact.at, "corrected")
        instance = str(fact.body["instance"])
        self._changes.corrections.append(Correction(position, fact.kind, serial, instance, at, fact.at))

    def _signed(self, position: int, at: int, fact: Fact) -> None:
        for serial, digest in fact.body["certificates"].items():
            known = self.live.get(serial)
            if known is not None:
                known.digest = bytes.fromhex(digest)

    def _offset(self, position: int, at: int, fact: Fact) -> None:
        self.offsets[fact.body["node"]] = (int(fact.body["offset_ms"]), at)

    def _seen(self, position: int, at: int, fact: Fact) -> None:
        if fact.body["serial"] not in self.live:
            self._unknown(fact.body["serial"], "handshake", position, at, fact.body)

    def _held(self, position: int, at: int, fact: Fact) -> None:
        for serial in fact.body["serials"]:
            known = self.live.get(serial)
            if known is None:
                self._unknown(serial, "held", position, at, fact.body)
            elif known.node == fact.body["node"]:
                known.held = True

    def _unknown(self, serial: str, kind: str, position: int, at: int, body: Body) -> None:
        """List it once, if this ledger would have to know it."""
        whole = self.first_position == 1 or self.clock >= self.first_at + self.definition.lead_ms
        if not whole or self.clock > at + self.definition.unknown_grace_ms or serial in self.unknown:
            return
        if len(self.unknown) >= MAX_UNKNOWN:
            self.unknown.pop(next(iter(self.unknown)))
        self.unknown[serial] = at
        self._count(SLOT_CLASS.get(str(body.get("slot")), Class.LEAF), self.clock, "unknown_serials")
        shown = {name: str(body.get(name, ""))[:2048] for name in ("node", "spiffe_id", "peer")}
        self._changes.unknown.append(
            UnknownSerial(str(serial)[:64], kind, shown["node"], shown["spiffe_id"], shown["peer"], at, position)
        )

    def _node_ended(self, position: int, at: int, fact: Fact) -> None:
        self.node_ended(position, at, fact)
        self.offsets.pop(fact.body["node"], None)

    def _gap(self, position: int, at: int, fact: Fact) -> None:
        begin, end = int(fact.body["from"]), int(fact.body["to"])
        self.silence_over_all(begin, end)
        self._changes.probes.extend(self.probes.gap(begin, end))

    def _probe(self, position: int, at: int, fact: Fact) -> None:
        state = UP if fact.kind == f.PROBE_UP else DOWN
        self._changes.probes.extend(self.probes.said(fact.key, state, at))


def recount(
    trust_domain: str, numbered: Iterable[tuple[int, Fact]], as_of_ms: int, definition: Definition = DEFINITION
) -> Collected:
    """Everything that these facts say as of then, from scratch: what a pack's figures are checked against."""
    engine, collected = Engine(trust_domain, definition), Collected()
    for count, (position, fact) in enumerate(numbered, start=1):
        engine.take(position, fact)
        if count % 1_000 == 0:
            collected.apply(engine.changes())
    engine.advance(as_of_ms)
    collected.apply(engine.changes())
    return collected
