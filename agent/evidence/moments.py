"""When a fact was, said so that a cluster can check it: a time of its own, and what passed since on a clock nobody sets."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from agent.trusted_time import TrustedTime
from trustfed.proto import evidence_pb2 as pb
from trustfed.runtime.timestamps import to_ms


class Moment(NamedTuple):
    """The last time that the cluster told, when that was, and when this is: Unix ms, and twice CLOCK_BOOTTIME in ms.

    The first two are 0 before the cluster has told any.
    """

    anchor_ms: int
    anchor_elapsed_ms: int
    elapsed_ms: int


class Moments:
    """Gives each fact its moment. What the cluster told is taken as it is: it judges by its own memory of it."""

    def __init__(self, clock: TrustedTime) -> None:
        self._clock = clock
        self._told: tuple[int, int] | None = None
        boot = clock.boot_id
        self.boot = hashlib.sha256(boot.encode()).digest()[:8] if boot else b""
        """Of this boot; b"" where the kernel names none, and no time of ours can be believed."""

    def told(self, milliseconds: int) -> None:
        """The cluster has said, authenticated, what time it is."""
        self._told = milliseconds, self.elapsed()

    def now(self) -> Moment:
        """This moment."""
        anchor, heard = self._anchor()
        return Moment(anchor, heard, self.elapsed())

    def stamp(self, fact: pb.AgentFact, moment: Moment) -> None:
        """Say in a fact when it was."""
        fact.anchor_ms, fact.anchor_elapsed_ms, fact.elapsed_ms = moment
        fact.boot = self.boot

    def elapsed(self) -> int:
        """CLOCK_BOOTTIME, milliseconds."""
        return int(self._clock.elapsed() * 1000)

    def offset(self) -> int | None:
        """The wall clock of this machine minus the cluster's time, ms; None while that is not known."""
        anchor, heard = self._anchor()
        return to_ms(self._clock.wall()) - (anchor + self.elapsed() - heard) if anchor else None

    def _anchor(self) -> tuple[int, int]:
        """Before the first word of the cluster: what was kept from before a restart, within the same boot."""
        if self._told is not None:
            return self._told
        kept = self._clock.heard
        return (to_ms(kept.at), int(kept.seconds * 1000)) if kept is not None else (0, 0)
