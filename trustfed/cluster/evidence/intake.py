"""Takes what agents report into the ledger, exactly once, and believes none of it before it is checked.

For one report, of which a node has one under way at a time:

1. Bounds, and the node's pace.
2. What was taken before is left out; with other bytes than before, or of a spool that another one followed, two machines
   speak as one node: that is flagged and alarmed, and nothing of it counts.
3. Each fact is checked (trustfed.cluster.evidence.checks), and given its time (…evidence_time).
4. All of them, and what is flagged, are one append. The sequence up to which a spool was taken is read from the facts
   themselves (…folded), so it is exactly what the ledger holds, whenever this process is killed.
5. The answer says which sequence is wanted next.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trustfed.cluster.evidence import checks
from trustfed.cluster.evidence.alarms import Alarms
from trustfed.cluster.evidence.evidence_time import Known, time_of
from trustfed.cluster.evidence.folded import MAX_EPOCHS
from trustfed.cluster.evidence.heard import Heard, Nodes, digest_of
from trustfed.cluster.evidence.records import Records
from trustfed.cluster.evidence.serials import Serials
from trustfed.cluster.state import ClusterState, Node
from trustfed.errors import Invalid, Unavailable
from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.budget import Budget
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.pace import Paces
from trustfed.runtime.timestamps import from_ms, to_ms

MAX_FACTS = 500
MAX_BYTES = 256 << 10
MAX_SEQUENCE = 1 << 48
MAX_AT_ONCE, MAX_WAITING = 8, 500
BURST, PER_SECOND = 20_000, 200
"""Facts of one node: a spool that was full comes in at once, then a pace that no node of 1,000 entries reaches."""
SPOOLS, SPOOL_SECONDS = 40, 60.0
FLAGS, FLAG_SECONDS = 4, 60.0
CLONE, OLD_SPOOL, GAP = "clone", "old spool", "gap"
_ALARMED = {CLONE, OLD_SPOOL, checks.UNKNOWN, checks.ANOTHERS}


@dataclass
class _Flags:
    """What was not believed in one report, gathered by reason and kind."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    last: dict[tuple[str, str], tuple[int, pb.AgentFact]] = field(default_factory=dict)

    def add(self, why: str, sequence: int, said: pb.AgentFact) -> None:
        key = (why, said.kind if checks.kind_of(said) else "")
        self.counts[key] += 1
        self.last[key] = (sequence, said)

    def facts(self, node: str, epoch: str, now: int) -> list[Fact]:
        made = []
        for (why, kind), count in self.counts.items():
            sequence, said = self.last[why, kind]
            sane = checks.read(said) is not None
            body = {
                "node": node,
                "why": why,
                "kind": kind,
                "epoch": epoch,
                "sequence": sequence,
                "count": count,
                "entry": said.entry_id if sane else "",
                "serial": said.serial if sane else "",
                "at": now,
            }
            made.append(Fact(now, kinds.FLAGGED, node, body))
        return made


class Intake:
    """`report` is one call of one node."""

    def __init__(
        self,
        records: Records,
        serials: Serials,
        state: Callable[[], ClusterState],
        nodes: Nodes,
        alarms: Alarms,
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._records, self._serials, self._state = records, serials, state
        self._nodes, self._alarms, self._clock = nodes, alarms, clock
        self._budget = Budget(BURST, PER_SECOND)
        self._spools, self._flag_paces = Paces(SPOOLS, SPOOL_SECONDS), Paces(FLAGS, FLAG_SECONDS)
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)
        self._waiting = 0
        self._taken = registry.counter("cluster_evidence_facts_total", "facts taken from agents", labels=("kind",))
        self._late = registry.counter("cluster_evidence_late_total", "facts whose claimed time was not believed")
        self._flagged = registry.counter(
            "cluster_evidence_flagged_total", "what agents said and was not believed", labels=("why",)
        )
        self._repeated = registry.counter("cluster_evidence_repeated_total", "facts that were on record already")
        self._refused = registry.counter("cluster_evidence_refused_total", "reports refused", labels=("why",))

    async def report(self, node: Node, report: pb.NodeReport) -> pb.NodeReportAnswer:
        """Take one report. Raises Invalid for what is over its bounds, Unavailable when the node must wait."""
        self._check(report)  # 1
        held = self._nodes.of(node.name)
        if held.busy:
            self._refuse("busy", f"a report of node {node.name} is being taken already", "one at a time")
        if self._waiting >= MAX_WAITING:
            self._refuse("full", f"{MAX_WAITING} reports are waiting", "try again later")
        monotonic = self._clock.monotonic()
        if not self._budget.spend(node.name, max(len(report.facts), 1), monotonic):
            wait = self._budget.wait(node.name, max(len(report.facts), 1), monotonic)
            self._refuse("pace", f"node {node.name} reports too much", f"try again in {wait:.0f} s")
        held.busy = True
        self._waiting += 1
        try:
            async with self._at_once:
                await self._records.sure()
                following = await self._take(node, held, report)
        finally:
            held.busy = False
            self._waiting -= 1
        return pb.NodeReportAnswer(next=following)

    async def _take(self, node: Node, held: Heard, report: pb.NodeReport) -> int:
        epoch, received = report.epoch.hex(), to_ms(self._clock.now())
        folded = self._records.folded
        mark, newest = folded.mark(node.name, epoch), folded.newest(node.name)
        if not report.facts:
            return mark + 1
        if mark and newest != epoch:
            return await self._of_old_spool(node.name, epoch, mark, report, received)
        if not mark and newest and not self._spools.take(node.name, self._clock.monotonic()):
            self._refuse("spools", f"node {node.name} has begun {MAX_EPOCHS} spools", "try again in a minute")
        digests = [digest_of(said) for said in report.facts]
        known = max(min(mark + 1 - report.first, len(digests)), 0)
        if known:  # 2
            self._repeated.add(known)
            if held.contradicts(epoch, report.first, digests[:known]):
                await self._cloned(node.name, CLONE, epoch, report.first, report.facts[0], received)
                return mark + 1
        new, first = list(report.facts[known:]), report.first + known
        if not new:
            return mark + 1
        facts = await self._judged(node, held, report, epoch, first, new, received)
        if first > mark + 1:
            facts.insert(0, self._gap(node.name, epoch, mark + 1, first - 1, received))
        await self._records.append(facts)  # 4
        last = first + len(new) - 1
        held.took(epoch, first, digests[known:], report.waiting, received)
        return last + 1  # 5

    async def _judged(
        self,
        node: Node,
        held: Heard,
        report: pb.NodeReport,
        epoch: str,
        first: int,
        new: Sequence[pb.AgentFact],
        received: int,
    ) -> list[Fact]:
        """The facts that are made of what is new (3); at most twice MAX_FACTS and few more."""
        read = [checks.read(said) for said in new]
        issued = await self._serials.all_of(one.serial for one in read if one is not None and one.of_serial)
        flags, made, late = _Flags(), list[Fact](), 0
        known = Known(frozenset(held.told), self._records.began_ms, report.boot, report.elapsed_ms, received)
        state, now = self._state(), from_ms(received)
        served = {one: checks.served(state, node, one, now) for one in {one.entry for one in read if one is not None}}
        for sequence, (said, one) in enumerate(zip(new, read, strict=True), start=first):
            if one is None:
                flags.add(checks.MALFORMED, sequence, said)
                continue
            own = issued.get(one.serial)
            why = checks.fault(one, node.name, own)
            if not why:
                earlier = held.earlier_ms(epoch, sequence)
                judged = time_of(said, known, earlier_ms=earlier, issued_ms=own.at if own is not None else 0)
                if not served[one.entry]:
                    ended = await self._records.find(kinds.ENTRY_ENDED, one.entry)
                    why = checks.ENDED if checks.ended_before(ended, judged.at) else ""
            if why:
                flags.add(why, sequence, said)
                continue
            if judged.flag:
                flags.add(judged.flag, sequence, said)
            late += judged.late
            made.append(checks.made_of(one, node.name, epoch, sequence, judged.at, received, late=judged.late))
        self._late.add(late)
        for kind, count in Counter(fact.kind for fact in made).items():
            self._taken.add(count, kind=kind.removeprefix("agent."))
        for (why, _), count in flags.counts.items():
            self._flagged.add(count, why=why)
            if why in _ALARMED:
                self._alarm(node.name, why)
        return made + flags.facts(node.name, epoch, received)

    async def _of_old_spool(self, node: str, epoch: str, mark: int, report: pb.NodeReport, received: int) -> int:
        """A spool that another one followed speaks again: two machines with one disk's past. It is let go on in vain."""
        last = report.first + len(report.facts) - 1
        if last <= mark:
            return mark + 1
        await self._cloned(node, OLD_SPOOL, epoch, last, report.facts[-1], received, always=True)
        return last + 1

    async def _cloned(
        self, node: str, why: str, epoch: str, sequence: int, said: pb.AgentFact, received: int, *, always: bool = False
    ) -> None:
        self._flagged.add(why=why)
        self._alarm(node, why)
        if self._flag_paces.take(node, self._clock.monotonic()) or always:
            flags = _Flags()
            flags.add(why, sequence, said)
            await self._records.append(flags.facts(node, epoch, received))

    def _alarm(self, node: str, why: str) -> None:
        says, hint = {
            CLONE: ("two machines report as this node", "trustfed node ban, and attest the real one anew"),
            OLD_SPOOL: ("an older disk of this node reports", "was it restored from a backup, or copied?"),
            checks.UNKNOWN: ("it delivers a serial that this CA never issued", "see agent.flagged in the ledger"),
            checks.ANOTHERS: ("it reports another node's serials", "see agent.flagged in the ledger"),
        }[why]
        self._alarms.happened("node_flagged", f"{node}: {why}", f"node {node}: {says}", hint)

    def _gap(self, node: str, epoch: str, first: int, last: int, received: int) -> Fact:
        """What a spool left out is a loss, whether it says so or not."""
        lost = {"kind": GAP, "count": last - first + 1, "first": first, "last": last}
        body = {
            "node": node,
            "epoch": epoch,
            "sequence": last,
            "entry": "",
            "instance": f"node/{node}",
            "slot": "node",
            "serial": "",
            "at": received,
            "lost": [lost],
        }
        return Fact(received, kinds.LOST, node, body)

    def _check(self, report: pb.NodeReport) -> None:
        why = ""
        if len(report.epoch) != 16:
            why = "a spool's epoch has 16 bytes"
        elif len(report.facts) > MAX_FACTS or report.ByteSize() > MAX_BYTES + 1024:
            why = f"at most {MAX_FACTS} facts and {MAX_BYTES} bytes in one report"
        elif not 1 <= report.first < MAX_SEQUENCE or report.elapsed_ms < 0 or len(report.boot) > 32:
            why = "sequences begin at 1"
        if why:
            self._refused.add(why="invalid")
            raise Invalid("the report is not one", hint=why)

    def _refuse(self, why: str, message: str, hint: str) -> None:
        self._refused.add(why=why)
        raise Unavailable(message, hint=hint)
