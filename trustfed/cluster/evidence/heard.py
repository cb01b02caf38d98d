"""What this process knows of each node that reports: the times it was told, its last report, and its last facts' digests.

In memory and bounded: about 3 KiB for a node. After a restart the ledger says what was taken; what only this knew counts
as not known.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from trustfed.proto import evidence_pb2 as pb

MAX_NODES = 20_000
MAX_TOLD = 128
"""Times that a node was told, newest last: half an hour of heartbeats."""
MAX_PROMISED = 500_000
"""Facts that a spool can hold, generously: no node has more waiting."""
_KEPT = 128
_DIGEST = 8


class Heard:
    """One node."""

    def __init__(self) -> None:
        self.told: array[int] = array("q")
        self.done_ms = 0  # the receipt of its last report that left nothing waiting
        self.promised = 0  # up to here its facts may have waited, when it said so
        self.last_ms = 0  # the receipt of its last report
        self.begun_ms = 0  # the last receipt from the spool before this one: nothing in this one is older
        self.busy = False
        self.epoch, self._began, self._first, self._digests = "", 0, 0, b""

    def tell(self, at: int) -> None:
        """The node is told this time."""
        self.told.append(at)
        if len(self.told) > MAX_TOLD:
            del self.told[: MAX_TOLD // 4]

    def earlier_ms(self, epoch: str, sequence: int) -> int:
        """The receipt of a report that would have had this fact if it had been there (evidence_time, 6); 0 where it may wait.

        No new spool lets a node speak of before what it reported last from the one before.
        """
        if epoch != self.epoch:
            return self.last_ms
        return max(self.begun_ms, self.done_ms if sequence > self.promised else 0)

    def took(self, epoch: str, first: int, digests: Sequence[bytes], waiting: int, received_ms: int) -> None:
        """A report is on record."""
        if epoch != self.epoch or first != self._first + len(self._digests) // _DIGEST:
            if epoch != self.epoch:
                self.done_ms = self.promised = 0
                self.begun_ms = self.last_ms
            self.epoch, self._began, self._first, self._digests = epoch, first, first, b""
        self._digests += b"".join(digests)
        self.last_ms = received_ms
        last = first + len(digests) - 1
        if waiting and last >= self.promised:
            # A new promise only after the last one was kept: who always promises cannot date back for ever.
            self.promised = last + min(waiting, MAX_PROMISED)
        elif not waiting:
            self.promised = min(self.promised, last)
        if not waiting or last >= self.promised:
            self.done_ms = received_ms
        if (surplus := len(self._digests) // _DIGEST - max(len(digests), _KEPT)) > 0:
            self._first += surplus
            self._digests = self._digests[surplus * _DIGEST :]

    def contradicts(self, epoch: str, first: int, digests: Sequence[bytes]) -> bool:
        """Whether any of these sequences, which were taken before, is known with other bytes, or lies too far back."""
        if epoch != self.epoch:
            return False
        for sequence, digest in enumerate(digests, start=first):
            at = (sequence - self._first) * _DIGEST
            if at < 0 and sequence >= self._began:
                return True
            if 0 <= at < len(self._digests) and self._digests[at : at + _DIGEST] != digest:
                return True
        return False


def digest_of(said: pb.AgentFact) -> bytes:
    """The digest by which the same key with other bytes is found."""
    return hashlib.sha256(said.SerializeToString(deterministic=True)).digest()[:_DIGEST]


class Nodes:
    """`Heard` by name; who spoke longest ago is forgotten first."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Heard] = OrderedDict()

    def of(self, name: str) -> Heard:
        """The node's, made if it is new."""
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = Heard()
            if len(self._held) > MAX_NODES:
                self._held.popitem(last=False)
        self._held.move_to_end(name)
        return held
