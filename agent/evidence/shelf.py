"""The files of a spool on their disk: taken up once, then written, read and removed one by one.

Trust: as the cache's (agent.cache.keys). Who can write here can take evidence away, which shows, and cannot make any.
"""

from __future__ import annotations

import contextlib

from agent.cache import counter
from agent.cache.disk import Disk
from agent.cache.keys import SealingKey
from agent.cache.refusal import Refused
from agent.cache.sealing import Randomness, Sealer
from agent.evidence import parts
from agent.evidence.loss import UNKNOWN, Loss
from agent.evidence.parts import Part
from trustfed.errors import NotFound, TrustfedError
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime import logs
from trustfed.spiffe.ids import SpiffeId

log = logs.get("agent.evidence")

FOLDER, KEY = "evidence", "evidence.key"
"""In data_dir: the files, and what they are sealed with."""
LOST = "lost"
"""The file of what was given up and not said yet."""
MOST_LOST_BYTES = 64 * 1024


class Shelf:
    """`parts` are the files that hold facts, oldest first. Each method raises NotFound, Denied, Unavailable, Refused."""

    def __init__(self, disk: Disk, key: SealingKey, node: SpiffeId, randomness: Randomness) -> None:
        self._disk, self._key, self._node, self._randomness = disk, key, node, randomness
        self._sealer: Sealer | None = None
        self._unwanted: set[str] = set()
        self.parts: list[Part] = []
        self.run = 0
        """The first number that no file has for its epoch; 0 until `open` came through."""

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(part.size for part in self.parts)

    @property
    def count(self) -> int:
        """Facts in them."""
        return sum(part.count for part in self.parts)

    def open(self) -> Loss:
        """Take up what is there and opens; what does not, or is missing in between, is lost."""
        self._disk.make()
        names = self._disk.names()
        found = parts.listed(names)
        try:
            key = self._key.open()
        except (NotFound, Refused) as error:
            key = self._key.make()
            if found:
                log.error("the sealing key of the evidence is lost, and so is what it sealed", error=str(error))
        sealer = Sealer(key, self._node, self._randomness)
        held: list[Part] = []
        for part in found:
            # Within one that opened: a crash came before it was removed.
            if held and held[-1].run == part.run and part.first <= held[-1].last:
                self._disk.remove(part.name)
                continue
            try:
                _, size = parts.read(self._disk, sealer, part)
            except (Refused, TrustfedError) as error:
                log.error("evidence on the disk cannot be used", file=part.name, error=str(error))
                if isinstance(error, Refused):
                    self._disk.remove(part.name)
                continue
            held.append(Part(part.run, part.first, part.last, size))
        loss = self._lost(sealer) if LOST in names else Loss()
        missing = _missing(found, held)
        if missing:
            loss.add(UNKNOWN, missing)
        self._sealer, self.parts = sealer, held
        self.run = max((part.run for part in found), default=0) + 1
        return loss

    def read(self, part: Part) -> pb.NodeReport:
        """What a file holds."""
        return parts.read(self._disk, self._opened(), part)[0]

    def write(self, part: Part, report: pb.NodeReport, over: Part | None) -> None:
        """A new file, durable, as the newest; it takes the place of `over`."""
        data = self._opened().file(part.name, report.SerializeToString())
        self._disk.remove(part.name)  # a try that failed at its end
        try:
            self._disk.write_new(part.name, data)
            self._disk.sync()
        except (Refused, TrustfedError):
            with contextlib.suppress(Refused, TrustfedError):
                self._disk.remove(part.name)
            raise
        if over is not None:
            self.parts = [one for one in self.parts if one is not over]
        self.parts = [*self.parts, Part(part.run, part.first, part.last, len(data))]
        if over is not None:
            self._unwanted.add(over.name)  # it lies within the new one
        self._clear()

    def drop(self, part: Part) -> None:
        """A file is not wanted any more. Where it cannot be removed now, that is tried again."""
        self.parts = [one for one in self.parts if one is not part]
        self._unwanted.add(part.name)
        self._clear()

    def keep_loss(self, loss: Loss) -> None:
        """What was given up outlasts a restart; an empty one is forgotten."""
        if loss:
            counter.replace(self._disk, LOST, self._opened().file(LOST, loss.fact().SerializeToString()))
        else:
            self._disk.remove(LOST)

    def _lost(self, sealer: Sealer) -> Loss:
        loss = Loss()
        try:
            plain = sealer.open_file(LOST, self._disk.read(LOST, MOST_LOST_BYTES))
            loss.facts([pb.AgentFact.FromString(plain)], 0)
        except (Refused, ValueError) as error:  # protobuf's DecodeError is a ValueError
            log.error("what was lost before cannot be read", error=str(error))
            self._disk.remove(LOST)
            loss.add(UNKNOWN, 1)
        return loss

    def _clear(self) -> None:
        with contextlib.suppress(Refused, TrustfedError):
            for name in sorted(self._unwanted):
                self._disk.remove(name)
                self._unwanted.discard(name)

    def _opened(self) -> Sealer:
        if self._sealer is None:
            raise NotFound("the evidence spool is not open")
        return self._sealer


def _missing(found: list[Part], held: list[Part]) -> int:
    """How many facts of those that the files' names tell of, or lie between them, are in none that opened."""
    missing = 0
    for run in {part.run for part in found}:
        of = [part for part in found if part.run == run]
        missing += max(part.last for part in of) - min(part.first for part in of) + 1
    return missing - sum(part.count for part in held)
