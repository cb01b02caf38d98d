"""The obligations of leaves and agents: what each fact about an SVID, a node or a rotation changes.

The numbers in brackets are those of trustfed.evidence.rules.
"""

from __future__ import annotations

from heapq import heappush
from sys import intern

from trustfed.evidence import facts as f
from trustfed.evidence.changes import Last
from trustfed.evidence.definition import Definition
from trustfed.evidence.model import FAILED, Level
from trustfed.evidence.pending import LEVEL_NAMES, Pending, holds, obligation_id
from trustfed.evidence.rules import SLOT_CLASS
from trustfed.evidence.serials import Serial, Slot
from trustfed.journal.events import Fact

_EVIDENCE = {f.DELIVERED: Level.DELIVERED, f.LOADED: Level.LOADED, f.CONFIRMED: Level.CONFIRMED}
_REMEMBERED_ENDS = 100_000
_REMEMBERED_SILENCES = 100
_NAMED_MS = 24 * 3_600_000
_NO_COMMAND = ("", 0, 0)


class Leaves:
    """Slots, live serials and pending obligations; trustfed.evidence.engine drives it."""

    def __init__(self, trust_domain: str, definition: Definition) -> None:
        self.trust_domain, self.definition = trust_domain, definition
        self.clock = 0
        self.slots: dict[tuple[str, str], Slot] = {}
        self.live: dict[str, Serial] = {}
        self.by_node: dict[str, dict[str, Pending]] = {}
        self.by_entry: dict[str, dict[str, Pending]] = {}
        self.silent: dict[str, int] = {}  # node: since when
        self.silences: dict[str, list[tuple[int, int]]] = {}  # node, or "" for all: from when until when
        self.gone: dict[str, int] = {}  # "entry/ID" or "node/NAME": when it ended
        self.excused: dict[tuple[str, str, str], dict[str, Pending]] = {}  # by SPIFFE ID, node and slot
        self.commands: dict[str, tuple[str, int, int]] = {}  # authority or "entry/ID": force, deadline, position
        self.dirty: dict[str, Pending] = {}
        self.named: dict[tuple[str, str], Serial] = {}  # since the last `changes`: see there
        self.left: list[Last] = []
        self.limits: list[tuple[int, int, Pending]] = []  # by the facts' clock: may it be settled?
        self.looks: list[tuple[int, int, Pending]] = []  # by as_of: does it stand otherwise?
        self.ends: list[tuple[int, int, Serial]] = []  # by the facts' clock: certificates
        self._ticks = 0

    def tick(self) -> int:
        """Numbers that only grow, so that heaps never compare what they hold."""
        self._ticks += 1
        return self._ticks

    def settle(self, it: Pending) -> bool:
        """The engine's (9)."""
        raise NotImplementedError

    def issued(self, position: int, fact: Fact) -> Serial:
        """A serial is on record: a try (11), and evidence of level issued (2)."""
        body = fact.body
        key = (body["instance"], intern(body["slot"]))
        slot = self.slots.get(key)
        spiffe_id, entry, node = body["spiffe_id"], body["entry"], intern(body["node"])
        told_ms = 0
        if slot is not None:  # each text once: there are many serials
            key = (slot.instance, key[1])
            before = next(reversed(slot.serials.values()), None)
            if before is not None and (before.spiffe_id, before.entry, before.node) == (spiffe_id, entry, node):
                spiffe_id, entry, told_ms = before.spiffe_id, before.entry, slot.told_ms
        serial = Serial(
            fact.key,
            position,
            fact.at,
            body["not_before"] * 1000,
            body["not_after"] * 1000,
            intern(body["authority"]),
            spiffe_id,
            entry,
            node,
            *key,
            intern(str(body.get("profile", ""))),
            intern(str(body.get("key_algorithm", ""))),
        )
        self.live[fact.key] = serial
        heappush(self.ends, (serial.not_after_ms + 2 * self.definition.unknown_grace_ms, self.tick(), serial))
        if serial.slot in SLOT_CLASS:
            if self.gone or self.excused:
                self.there_again(fact)
            if slot is None:
                slot = self.slots[key] = Slot(*key)
            slot.remember(serial)
            slot.last, slot.last_ms = serial.serial, fact.at
            if fact.at - told_ms >= _NAMED_MS:
                slot.told_ms, self.named[key] = fact.at, serial
            if slot.obligations:
                newest = slot.obligations[-1]
                if holds(newest, self.clock):  # 11
                    newest.tries += 1
                    self.dirty[newest.id] = newest
                self._evidence(slot, serial, Level.ISSUED, fact.at)
        else:
            self.named[key] = serial
        return serial

    def there_again(self, fact: Fact) -> None:
        """A serial is issued: its entry and node are no longer gone (6), and who was excused is there again (13)."""
        body = fact.body
        self.gone.pop(f"entry/{body['entry']}", None)
        self.gone.pop(f"node/{body['node']}", None)
        for it in self.excused.get((body["spiffe_id"], body["node"], body["slot"]), {}).values():
            if fact.at <= it.hard_ms and not it.again_ms:
                it.again_ms = fact.at
                self.dirty[it.id] = it

    def refused(self, position: int, at: int, fact: Fact) -> None:
        """Tries that were refused (11)."""
        count, slot = fact.body["count"], self.slots.get((fact.body["instance"], fact.body["slot"]))
        if slot is not None and slot.obligations and holds(slot.obligations[-1], self.clock):
            it = slot.obligations[-1]
            it.tries += count
            it.refused += count
            self.dirty[it.id] = it

    def said(self, slot: Slot, serial: Serial, at: int, fact: Fact) -> bool:
        """Apply what an agent says of a serial that is its own (1); False if it comes after the close (9)."""
        at = max(at, serial.issued_ms)
        kind = fact.kind
        if kind == f.EXPIRED:
            for it in slot.obligations:
                if it.predecessor == serial.serial:
                    it.said_expired = True
                    self.dirty[it.id] = it
            return True
        if kind == f.RELEASED:  # 4
            if serial.position >= slot.newest:
                for it in slot.obligations:
                    if at <= it.on_time_ms:
                        it.released_ms = at
                        heappush(self.looks, (it.on_time_ms, self.tick(), it))
                        self.dirty[it.id] = it
            return True
        serial.delivered = True
        level = _EVIDENCE[kind]
        slot.newest = max(slot.newest, serial.position)
        for it in slot.obligations:  # 4
            if it.released_ms and at <= it.on_time_ms and serial.position >= it.position:
                it.released_ms = 0
                self.dirty[it.id] = it
        if slot.obligations:
            self._evidence(slot, serial, level, at)
        in_time = True
        if serial.position > slot.floor and not (slot.obligations and holds(slot.obligations[-1], self.clock)):  # 3
            in_time = self.clock <= serial.not_after_ms + self.definition.close_ms
            if in_time:
                self._open(slot, serial, at, self._required(slot, level, at, fact))
        probed = level is Level.CONFIRMED and not str(fact.body.get("peer", "")).startswith("spiffe://")
        if probed and serial.position >= slot.floor:
            slot.probed_ms = max(slot.probed_ms, at)
        return in_time and at > slot.closed_ms

    def _evidence(self, slot: Slot, serial: Serial, level: Level, at: int) -> None:
        name = LEVEL_NAMES[level]
        reached = []
        for it in slot.obligations:
            if it.superseded or it.position >= serial.position or it.after > serial.position:  # 2a
                continue
            if it.reached_ms and it.successor != serial.serial:  # 2b
                continue
            self.dirty[it.id] = it
            if at < it.by_level_ms.get(name, at + 1):  # 2c
                it.by_level_ms[name] = at
            it.reached = max(it.reached, level)
            if not it.reached_ms:
                it.successor = serial.serial
            if level >= it.level and (not it.reached_ms or at < it.reached_ms):
                it.reached_ms, it.successor = at, serial.serial
                reached.append(it)
        for it in reached:
            if self.clock > it.on_time_ms:
                self.settle(it)

    def _required(self, slot: Slot, level: Level, at: int, fact: Fact) -> Level:
        if slot.slot == "node" or (slot.probed_ms and slot.probed_ms > at - self.definition.probe_memory_ms):
            return Level.CONFIRMED
        if level >= Level.LOADED or fact.body.get("door") == "sds":
            return Level.LOADED
        return Level.DELIVERED

    def _open(self, slot: Slot, serial: Serial, at: int, level: Level) -> None:
        slot.floor = serial.position
        life, begin = serial.not_after_ms - serial.not_before_ms, serial.not_before_ms
        force, deadline, after = self._command(serial)
        on_time = begin + life * self.definition.on_time_permille // 1000
        due = begin + life * self.definition.due_permille // 1000
        if force:
            on_time = min(on_time, deadline)
        it = Pending(
            id=obligation_id(self.trust_domain, serial.spiffe_id, slot.instance, slot.slot, serial.serial, force),
            class_=SLOT_CLASS[slot.slot],
            spiffe_id=serial.spiffe_id,
            instance=slot.instance,
            slot=slot.slot,
            node=serial.node,
            entry=serial.entry,
            predecessor=serial.serial,
            opened_ms=at,
            due_ms=min(due, on_time),
            on_time_ms=on_time,
            hard_ms=serial.not_after_ms,
            level=level,
            force=force,
            position=serial.position,
            authority=serial.authority,
            after=after,
        )
        if self.gone:  # 6
            self.excuse(it, self.gone.get(f"entry/{it.entry}", 0) or self.gone.get(f"node/{it.node}", 0))
        if self.silences:  # 8
            silences = (*self.silences.get("", ()), *self.silences.get(it.node, ()))
            it.silence = any(begin <= it.hard_ms <= end for begin, end in silences)
        self._add(slot, it)
        for later in slot.serials.values():  # what was issued meanwhile
            if later.position > serial.position:
                self._evidence(slot, later, Level.ISSUED, later.issued_ms)
        slot.prune()

    def _command(self, serial: Serial) -> tuple[str, int, int]:
        """The newest command that names this serial: it was issued before (7)."""
        if not self.commands:
            return _NO_COMMAND
        by_authority = self.commands.get(serial.authority, _NO_COMMAND)
        by_entry = self.commands.get(f"entry/{serial.entry}", _NO_COMMAND)
        newest = max(by_authority, by_entry, key=lambda command: command[2])
        return newest if newest[2] > serial.position else _NO_COMMAND

    def _add(self, slot: Slot, it: Pending) -> None:
        slot.obligations.append(it)
        self.by_node.setdefault(it.node, {})[it.id] = it
        if it.entry:
            self.by_entry.setdefault(it.entry, {})[it.id] = it
        self.dirty[it.id] = it
        heappush(self.limits, (it.on_time_ms, self.tick(), it))
        heappush(self.looks, (it.hard_ms + self.definition.unknown_grace_ms, self.tick(), it))

    def drop(self, it: Pending) -> None:
        """Let go of a settled obligation, and of its slot if that was all."""
        for index, key in ((self.by_node, it.node), (self.by_entry, it.entry)):
            held = index.get(key)
            if held is not None and held.pop(it.id, None) is not None and not held:
                del index[key]
        if it.excused_ms:
            excused = self.excused[it.spiffe_id, it.node, it.slot]
            del excused[it.id]
            if not excused:
                del self.excused[it.spiffe_id, it.node, it.slot]
        slot = self.slots.get((it.instance, it.slot))
        if slot is not None:
            slot.obligations.remove(it)
            if it.outcome in FAILED:
                slot.closed_ms = max(slot.closed_ms, it.hard_ms)
            slot.prune()
            self._leave_if_empty(slot)

    def forget(self, serial: Serial) -> None:
        """Let go of a certificate that has ended, and of its slot if that was all."""
        slot = self.slots.get((serial.instance, serial.slot))
        if slot is not None and slot.serials.pop(serial.serial, None) is not None:
            self._leave_if_empty(slot)

    def _leave_if_empty(self, slot: Slot) -> None:
        if slot.empty:
            del self.slots[slot.instance, slot.slot]
            if slot.last_ms > slot.told_ms:
                self.left.append(Last(slot.instance, slot.slot, slot.last, slot.last_ms))

    # Nodes, entries and commands.

    def node_silent(self, position: int, at: int, fact: Fact) -> None:
        """8"""
        self.silent[fact.body["node"]] = fact.body["since"]
        self.dirty.update(self.by_node.get(fact.body["node"], {}))

    def node_heard(self, position: int, at: int, fact: Fact) -> None:
        """8"""
        node, begin, end = fact.body["node"], fact.body["from"], fact.body["to"]
        self.silent.pop(node, None)
        self._remember_silence(node, begin, end)
        for it in self.by_node.get(node, {}).values():
            if begin > 0 and begin <= it.hard_ms <= end:
                it.silence = True
            self.dirty[it.id] = it

    def silence_over_all(self, begin: int, end: int) -> None:
        """8: this cluster heard nobody."""
        self._remember_silence("", begin, end)
        for pending in self.by_node.values():
            for it in pending.values():
                if begin <= it.hard_ms <= end:
                    it.silence = True
                    self.dirty[it.id] = it

    def _remember_silence(self, node: str, begin: int, end: int) -> None:
        """For what opens later: a spool tells after the silence of what was delivered before it."""
        since = self.clock - self.definition.close_ms
        kept = [one for one in self.silences.get(node, ()) if one[1] >= since][-_REMEMBERED_SILENCES:]
        if begin > 0:
            kept.append((begin, end))
        if kept:
            self.silences[node] = kept
        else:
            self.silences.pop(node, None)

    def lost(self, position: int, at: int, fact: Fact) -> None:
        """8: what would have told may have been among what was lost."""
        for it in self.by_node.get(fact.body["node"], {}).values():
            if not it.reached_ms:
                it.silence = True
                self.dirty[it.id] = it

    def node_ended(self, position: int, at: int, fact: Fact) -> None:
        """6"""
        self._gone(f"node/{fact.body['node']}", at, self.by_node.get(fact.body["node"], {}))

    def entry_ended(self, position: int, at: int, fact: Fact) -> None:
        """6"""
        self._gone(f"entry/{fact.body['entry']}", at, self.by_entry.get(fact.body["entry"], {}))

    def _gone(self, name: str, at: int, pending: dict[str, Pending]) -> None:
        if len(self.gone) >= _REMEMBERED_ENDS:
            self.gone.pop(next(iter(self.gone)))
        self.gone[name] = at
        for it in pending.values():
            if not it.excused_ms:
                self.excuse(it, at)
                self.dirty[it.id] = it

    def excuse(self, it: Pending, at: int) -> None:
        """It is not owed any more (6); 0: it is."""
        it.excused_ms = at
        if at:
            self.excused.setdefault((it.spiffe_id, it.node, it.slot), {})[it.id] = it

    def forced_rotation(self, position: int, at: int, fact: Fact) -> None:
        """7"""
        body = fact.body
        authorities, entries = set(body["authorities"]), set(body.get("entries") or ())
        force, deadline = str(body["journal"]), int(body["deadline"])
        for name in sorted(authorities | {f"entry/{entry}" for entry in entries}):
            self.commands.pop(name, None)
            self.commands[name] = (force, deadline, position)
        while len(self.commands) > _REMEMBERED_ENDS:
            self.commands.pop(next(iter(self.commands)))
        for key in [key for key, slot in self.slots.items() if slot.obligations]:
            slot = self.slots[key]
            it = slot.obligations[-1]
            named = it.authority in authorities or it.entry in entries
            if not named or it.force == force or not holds(it, self.clock):
                continue
            it.superseded, it.ended_ms = True, fact.at
            self.dirty[it.id] = it
            on_time = min(it.on_time_ms, deadline)
            self._add(
                slot,
                Pending(
                    id=obligation_id(self.trust_domain, it.spiffe_id, it.instance, it.slot, it.predecessor, force),
                    class_=it.class_,
                    spiffe_id=it.spiffe_id,
                    instance=it.instance,
                    slot=it.slot,
                    node=it.node,
                    entry=it.entry,
                    predecessor=it.predecessor,
                    opened_ms=fact.at,
                    due_ms=min(it.due_ms, on_time),
                    on_time_ms=on_time,
                    hard_ms=it.hard_ms,
                    level=it.level,
                    force=force,
                    position=it.position,
                    authority=it.authority,
                    after=position,
                    released_ms=it.released_ms if it.released_ms <= on_time else 0,
                    silence=it.silence,
                ),
            )
