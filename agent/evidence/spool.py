"""The facts that wait for the cluster: sealed to this node, durable, bounded, numbered without a gap.

1. Each start of the agent begins an epoch of its own: whatever a disk may have lost or brought back, no number is ever used
   for another fact. What earlier epochs left is sent first, under the numbers that it had.
2. Facts get their numbers, and are durable, in batches (agent.evidence.shelf). A file that does not open, and what is missing
   between two, is counted as lost.
3. What the cluster has is removed. Where it wants a number that is gone, or one that was never given, all that waits is
   numbered anew in a new epoch.
4. A full spool gives up its oldest file; a disk that cannot be written leaves the newest facts in memory. What is given up is
   summed up, and said in one fact once nothing else waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator

from agent.cache.refusal import Refused
from agent.cache.sealing import Randomness
from agent.evidence.loss import UNKNOWN, Loss
from agent.evidence.moments import Moments
from agent.evidence.parts import MOST_BYTES as PART_BYTES
from agent.evidence.parts import MOST_FACTS as PART_FACTS
from agent.evidence.parts import Part
from agent.evidence.shelf import Shelf
from trustfed.errors import NotFound, TrustfedError
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import logs

log = logs.get("agent.evidence")

MOST_BYTES, MOST_FACTS = 16 * 1024 * 1024, 100_000
IN_MEMORY_FACTS, IN_MEMORY_BYTES = 1_000, 256 * 1024
"""While the disk cannot be written."""
_MOST_RUNS = 32
"""Epochs on the disk; those of an agent that starts again and again without its cluster are gathered into one."""
_MOST_TRIES = 5
_EPOCH = 16


class Spool:
    """Blocks on the disk: call it in threads; one at a time is let in."""

    def __init__(
        self, shelf: Shelf, moments: Moments, randomness: Randomness, most: tuple[int, int] = (MOST_BYTES, MOST_FACTS)
    ) -> None:
        self._shelf, self._moments, self._randomness = shelf, moments, randomness
        self._most_bytes, self._most_facts = most
        self._lock = threading.Lock()
        self._run = 0
        self._next = 1
        self._memory: deque[bytes] = deque()
        """The newest facts, which are on no disk; the last one has the number before `_next`."""
        self._memory_bytes = 0
        self._wanted: dict[int, int] = {}
        """By run, the number from which on the cluster wants facts."""
        self._head = (b"", 0)
        self._tries = 0
        self._spoken = False
        """Facts of this start were sent: an older epoch, if the disk comes back with one, would be a surprise to the cluster."""
        self._loss, self._loss_kept = Loss(), True
        self.epoch = randomness(_EPOCH)
        """Of the facts that happen now."""
        self.lost_total = 0
        """Facts that were given up since the start."""
        self.problem = ""
        """Why facts are not durable; "" while they are."""
        self.oldest_ms: int | None = None
        """When the oldest fact that waits was (CLOCK_BOOTTIME), where that is known."""

    # For everybody, without the lock.

    @property
    def waiting(self) -> int:
        """How many facts the cluster has not confirmed."""
        held, wanted = self._shelf.parts, dict(self._wanted)
        confirmed = sum(max(wanted.get(part.run, 0) - part.first, 0) for part in held)
        return sum(part.count for part in held) - confirmed + len(self._memory) + bool(self._loss)

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return self._shelf.size

    # In threads.

    def open(self) -> None:
        """Take up what lies on the disk, as far as it can be read."""
        with self._lock, self._noticed():
            self._open()

    def append(self, facts: Iterable[pb.AgentFact] = ()) -> None:
        """These happened; they are durable on return, or `problem` says why not. With none: try again what failed."""
        with self._lock:
            for fact in facts:
                self._remember(fact.SerializeToString())
            with self._noticed():
                self._open()
                self._write()
                self.problem = ""
            while len(self._memory) > IN_MEMORY_FACTS or self._memory_bytes > IN_MEMORY_BYTES:
                first = self._next - len(self._memory)
                self._give_up([pb.AgentFact.FromString(self._forget())], first)

    def lose(self, kind: str, count: int) -> None:
        """So many never got a number."""
        with self._lock:
            self._loss.add(kind, count)
            self._loss_kept = False
            self.lost_total += count

    def head(self) -> pb.NodeReport | None:
        """The oldest facts that wait, in a row, of one epoch; None if there are none."""
        with self._lock:
            found = None
            with self._noticed():
                self._open()
            with self._noticed():
                found = self._oldest()
                if found is None and self._loss:
                    self._tell_loss()
                    found = self._oldest()
            self._spoken = self._spoken or (found is not None and found.epoch == self.epoch)
            known = found is not None and found.facts[0].boot == self._moments.boot
            self.oldest_ms = found.facts[0].elapsed_ms if found is not None and known else None
            return found

    def acknowledge(self, report: pb.NodeReport, wanted: int) -> int:
        """The cluster has of this report's epoch what is below `wanted`; gives how many facts of the report that are."""
        with self._lock:
            present = report.epoch == self.epoch
            if wanted < report.first or (present and wanted > self._next):
                log.warning("the cluster counts this node's facts otherwise: they are numbered anew", wanted=wanted)
                with self._noticed():
                    self._renew()
                return 0
            if present:
                while self._memory and self._next - len(self._memory) < wanted:
                    self._forget()
            run = self._run if present else self._head[1]
            for part in self._shelf.parts:
                if part.run == run and part.last < wanted:
                    self._shelf.drop(part)
            self._wanted[run] = wanted
            self._tidy()
            return min(wanted - report.first, len(report.facts))

    # With the lock; they raise TrustfedError, Refused.

    def _open(self) -> None:
        if self._shelf.run:
            return
        loss = self._shelf.open()
        self._run = self._shelf.run
        if loss:
            self._give_up([loss.fact()], 0)
            self._shelf.keep_loss(self._loss)
        if self._shelf.parts:
            log.info("evidence taken up from the disk", facts=self._shelf.count)
        if self._spoken or len({part.run for part in self._shelf.parts}) > _MOST_RUNS:
            self._renew()

    def _remember(self, data: bytes) -> None:
        self._memory.append(data)
        self._memory_bytes += len(data)
        self._next += 1

    def _forget(self) -> bytes:
        data = self._memory.popleft()
        self._memory_bytes -= len(data)
        return data

    def _write(self, *, bounded: bool = True) -> None:
        """All that is in memory goes to the disk."""
        while self._memory:
            if bounded:
                self._make_room(min(self._memory_bytes, PART_BYTES), min(len(self._memory), PART_FACTS))
            report, over = self._begun()
            size = report.ByteSize()
            taken = 0
            for data in self._memory:
                if len(report.facts) >= PART_FACTS or (report.facts and size + len(data) > PART_BYTES):
                    break
                report.facts.add().MergeFromString(data)
                size, taken = size + len(data), taken + 1
            part = Part(self._run, report.first, report.first + len(report.facts) - 1)
            self._shelf.write(part, report, over)
            for _ in range(taken):
                self._forget()
        if not self._loss_kept:
            self._shelf.keep_loss(self._loss)
            self._loss_kept = True

    def _begun(self) -> tuple[pb.NodeReport, Part | None]:
        """What the facts in memory are put behind: the last file, while there is room in it, or nothing."""
        last = self._shelf.parts[-1] if self._shelf.parts else None
        room = PART_BYTES - len(self._memory[0])
        if last is not None and last.run == self._run and last.count < PART_FACTS and last.size < room:
            try:
                return self._shelf.read(last), last
            except (Refused, NotFound):
                self._give_up_part(last)
        return pb.NodeReport(epoch=self.epoch, first=self._next - len(self._memory)), None

    def _make_room(self, size: int, count: int) -> None:
        shelf = self._shelf
        while shelf.parts and (shelf.size + size > self._most_bytes or shelf.count + count > self._most_facts):
            self._give_up_part(shelf.parts[0])

    def _give_up_part(self, part: Part) -> None:
        skipped = max(self._wanted.get(part.run, 0) - part.first, 0)
        try:
            facts = self._shelf.read(part).facts[skipped:]
        except (TrustfedError, Refused) as error:
            log.error("evidence on the disk cannot be used", file=part.name, error=str(error))
            facts = [pb.AgentFact(kind=UNKNOWN)] * (part.count - skipped)
        self._give_up(facts, part.first + skipped if part.run == self._run else 0)
        # First that it was lost, then the loss; where there is no room for that, the loss makes it.
        with contextlib.suppress(TrustfedError, Refused):
            self._shelf.keep_loss(self._loss)
            self._loss_kept = True
        self._shelf.drop(part)

    def _give_up(self, facts: Iterable[pb.AgentFact], first: int) -> None:
        before = self._loss.count
        self._loss.facts(facts, first)
        self.lost_total += self._loss.count - before
        self._loss_kept = False

    def _tell_loss(self) -> None:
        fact = self._loss.fact()
        self._moments.stamp(fact, self._moments.now())
        self._remember(fact.SerializeToString())
        self._loss, self._loss_kept = Loss(), False
        with self._noticed():
            self._write()

    def _oldest(self) -> pb.NodeReport | None:
        while self._shelf.parts:
            part = self._shelf.parts[0]
            try:
                report = self._shelf.read(part)
            except (TrustfedError, Refused) as error:
                self._tries += 1
                if not isinstance(error, Refused | NotFound) and self._tries < _MOST_TRIES:
                    raise
                self._give_up_part(part)
                continue
            self._tries, self._head = 0, (report.epoch, part.run)
            skipped = max(self._wanted.get(part.run, 0) - part.first, 0)
            del report.facts[:skipped]
            report.first += skipped
            return report
        return self._in_memory()

    def _in_memory(self) -> pb.NodeReport | None:
        report, size = pb.NodeReport(epoch=self.epoch, first=self._next - len(self._memory)), 0
        for data in self._memory:
            size += len(data)
            if len(report.facts) >= PART_FACTS or (report.facts and size > PART_BYTES):
                break
            report.facts.add().MergeFromString(data)
        return report if report.facts else None

    def _renew(self) -> None:
        """Everything gets new numbers in a new epoch."""
        held, held_bytes = self._memory, self._memory_bytes
        self._memory, self._memory_bytes, self._next = deque(), 0, 1
        self.epoch, self._run = self._randomness(_EPOCH), self._run + 1
        self._loss.forget_sequences()
        try:
            for part in self._shelf.parts:
                skipped = max(self._wanted.get(part.run, 0) - part.first, 0)
                try:
                    facts = self._shelf.read(part).facts[skipped:]
                except (Refused, NotFound):
                    self._give_up_part(part)
                    continue
                for fact in facts:
                    self._remember(fact.SerializeToString())
                self._write(bounded=False)
                self._shelf.drop(part)
        finally:
            # Of a file that could not be moved nothing was moved: it stays.
            self._next += len(held) - len(self._memory)
            self._memory, self._memory_bytes = held, held_bytes
            self._tidy()

    def _tidy(self) -> None:
        runs = {part.run for part in self._shelf.parts}
        self._wanted = {run: wanted for run, wanted in self._wanted.items() if run in runs or run == self._run}

    @contextlib.contextmanager
    def _noticed(self) -> Iterator[None]:
        """A disk that fails stops nothing: it is said."""
        try:
            yield
        except (TrustfedError, Refused) as error:
            if not self.problem:
                log.error(
                    "evidence is not durable; what is in memory is lost if this process ends",
                    error=error.message,
                    hint=error.hint,
                )
            self.problem = f"{error.message} ({error.hint})" if error.hint else error.message
