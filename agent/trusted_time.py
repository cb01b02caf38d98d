"""What time it is, on a machine whose clock anybody may set: never earlier than what was known before.

    now() = max(wall clock, the sealed floor + elapsed, the last authenticated time + elapsed)

Elapsed time is CLOCK_BOOTTIME, which counts while the machine sleeps and which nobody sets; across a restart it counts
only within the same boot. So a clock set back revives nothing: what has ended stays ended. NotBefore is a matter of
the wall clock (TLS looks at it, and `wall()` is for who else must).

A server that this node has verified authenticates time, by its hello and its heartbeats, within limits:
 1. not beyond the validity of the authority that certified the server, nor ten years ahead
 2. not more than an hour ahead of what is known here (wall clock and `anchor`), however small the steps
 3. unless a second source agrees, within a minute, that it is so late: a server at another address
 4. or an operator says so: `trustfed agent time reset` (the wall clock is right), with --to-cluster (the claim is)
 5. where it and the wall clock agree, within a minute, that it is earlier than what is known, they are right: one of
    them was ahead for a while. Neither of them alone brings time back

The wall clock is believed for as long as it says so. Only what does not jump is remembered: a clock that is wrong by
years for a moment must not leave a floor that nobody gets below. `floor()` is what may be sealed: the wall clock raises
it by an hour at most beyond the time that this process has lived. A wall clock that was far ahead of the sealed floor at
the start (a machine that was off, or one whose clock is not set yet) is remembered once it has run on for an hour.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from trustfed.errors import NotFound
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock

log = logs.get("agent.trusted_time")

JUMP = timedelta(hours=1)
"""How far ahead of what is known one source may bring us."""
AGREEMENT = timedelta(minutes=1)
FARTHEST = timedelta(days=3653)
"""Nobody's claim is heard that is farther ahead, whoever agrees."""
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
"""Time stands still here: whoever adds something to it stays within what a datetime can say."""
_REMARKABLE = timedelta(minutes=1)
_SAME = timedelta(milliseconds=1)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Authenticated(NamedTuple):
    """A time that a verified server said, and the boot-time clock's seconds and boot id when it did."""

    at: datetime
    seconds: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class _Claim:
    """A time too far ahead, that waits for somebody else to say the same."""

    at: datetime
    seconds: float
    source: str


class TrustedTime:
    """`trustfed.runtime.clock.Clock`, for everything in the agent that asks whether something has ended."""

    def __init__(self, clock: Clock, elapsed: Callable[[], float] | None = None, boot_id: str | None = None) -> None:
        self._clock = clock
        self._elapsed = elapsed or boot_seconds
        self._boot_id = boot_id if boot_id is not None else read_boot_id()
        # What is known without any server. At the start the wall clock is all there is.
        self._anchor = clock.now()
        self._anchored = self._elapsed()
        self._floor: datetime | None = None  # as it was sealed when this process started
        self._floored = self._anchored
        self._unproven = False  # the anchor is far beyond the floor, and has not run on for long yet
        self._proven_at = self._anchored
        self._sealed: datetime | None = None  # as it was sealed last; servers have had their say in it
        self._sealed_at = self._anchored
        self._heard: Authenticated | None = None
        self._claim: _Claim | None = None
        self._said_ahead = False

    # The clock.

    def now(self) -> datetime:
        """The time, UTC: the latest of what is known."""
        wall, seconds = self._clock.now(), self._elapsed()
        self._prove(wall, seconds)
        known = self._known(seconds)
        if known > wall:
            if known - wall > _REMARKABLE and not self._said_ahead:
                self._said_ahead = True
                log.warning(
                    "the wall clock is behind what this node knows",
                    seconds=round((known - wall).total_seconds()),
                    hint="set this machine's clock; if it is right: trustfed agent time reset",
                )
            return known
        self._said_ahead = False
        return wall

    def wall(self) -> datetime:
        """What the machine's own clock says."""
        return self._clock.now()

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait; 0 or less only lets others run."""
        await self._clock.sleep(seconds)

    def elapsed(self) -> float:
        """CLOCK_BOOTTIME: seconds since the machine was started."""
        return self._elapsed()

    @property
    def boot_id(self) -> str:
        """The id of this boot; "" where the kernel does not say."""
        return self._boot_id

    # Where its knowledge comes from.

    def restore(self, floor: datetime | None, heard: Authenticated | None) -> None:
        """Take up what was sealed: the floor, and the last authenticated time if the machine was not restarted since."""
        seconds = self._elapsed()
        if floor is not None:
            self._floor = self._sealed = min(floor, LATEST)
            self._floored = self._sealed_at = seconds
            self._unproven = self._anchor > self._floor + JUMP
            self._proven_at = self._anchored + JUMP.total_seconds()
        # Where the kernel names no boot, its clock may be another's.
        if heard is not None and heard.boot_id == self._boot_id != "" and heard.seconds <= seconds:
            self._heard = heard._replace(at=min(heard.at, LATEST))

    def authenticate(self, said: datetime, bound: datetime, source: str) -> bool:
        """A verified server says what time it is. `bound` is the end of the authority behind it, `source` its address:
        of one address only one claim counts, however often it connects. False when it is not believed (yet)."""
        wall, seconds = self._clock.now(), self._elapsed()
        self._prove(wall, seconds)
        known = self._known(seconds)
        if said > bound or said > min(max(known, wall), LATEST - FARTHEST) + FARTHEST:  # 1
            log.warning(
                "a time beyond the end of the authority that certified the server, or far ahead, is not believed",
                source=source,
            )
            return False
        right = max(said, wall)
        if abs(said - wall) <= AGREEMENT < known - right:  # 5
            log.warning(
                "time moved back: the cluster and this machine's clock agree",
                was=known.isoformat(),
                now=right.isoformat(),
            )
            self._set(right, seconds)
        elif said > max(wall, self._unheard(seconds)) + JUMP and not self._agreed(said, seconds, source):  # 2
            return False
        if self._claim is not None and self._claim.source == source:
            self._claim = None  # it says otherwise now
        heard = self._heard_now(seconds)
        if heard is None or said >= heard:
            self._heard = Authenticated(said, seconds, self._boot_id)
        return True

    def reset(self, *, to_claim: bool = False) -> datetime:
        """An operator says what is right: the wall clock, or the time that a server claims. Everything else that was
        known is forgotten. Gives the time now. Raises NotFound without a claim."""
        wall, seconds = self._clock.now(), self._elapsed()
        right = wall
        if to_claim:
            if self._claim is None:
                raise NotFound("no server claims another time", hint="trustfed agent status shows time.claimed")
            right = _later(self._claim.at, seconds - self._claim.seconds)
        log.warning("time reset by an operator", was=self.now().isoformat(), now=right.isoformat())
        self._set(right, seconds)
        return right

    # What is kept, and shown.

    def floor(self) -> datetime:
        """What may be sealed as the floor. The wall clock counts while it agrees, within an hour, with what was known at
        the start: however often this is asked for, the hour is given once."""
        wall, seconds = self._clock.now(), self._elapsed()
        self._prove(wall, seconds)
        base = self._base(seconds)
        known = max(m for m in (base, self._sealed_now(seconds), self._heard_now(seconds)) if m is not None)
        if known < wall <= base + JUMP:
            known = wall
        self._sealed, self._sealed_at = known, seconds
        return known

    @property
    def heard(self) -> Authenticated | None:
        """The last authenticated time."""
        return self._heard

    def status(self) -> dict[str, object]:
        """For `agent status`: where the time comes from, seconds ahead of the wall clock, and a claim that waits."""
        seconds, wall = self._elapsed(), self._clock.now()
        heard, now = self._heard_now(seconds), self.now()
        source = "wall clock" if now - wall < _SAME else "floor"
        if source == "floor" and heard is not None and now - heard < _SAME:
            source = "authenticated"
        claim = self._claim
        return {
            "now": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "source": source,
            "ahead_seconds": round((now - wall).total_seconds(), 3),
            "authenticated_at": None if heard is None else heard.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "claimed": None if claim is None else claim.at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    # The arithmetic.

    def _known(self, seconds: float) -> datetime:
        moments = (self._unheard(seconds), self._heard_now(seconds), self._sealed_now(seconds))
        return max(moment for moment in moments if moment is not None)

    def _unheard(self, seconds: float) -> datetime:
        """What is known without what servers said: the wall clock as it ran on from the start, and the sealed floor."""
        return max(_later(self._anchor, seconds - self._anchored), self._base(seconds))

    def _base(self, seconds: float) -> datetime:
        """The same, without a wall clock at the start that may yet turn out to be wrong."""
        anchor = _later(self._anchor, seconds - self._anchored)
        if self._floor is None:
            return anchor
        floor = _later(self._floor, seconds - self._floored)
        return floor if self._unproven else max(anchor, floor)

    def _prove(self, wall: datetime, seconds: float) -> None:
        """A wall clock that was far ahead of the floor at the start is remembered once it has run on for an hour, unless
        it is set back before: then it counts in this process only."""
        if self._unproven and wall < _later(self._anchor, seconds - self._anchored) - AGREEMENT:
            self._proven_at = float("inf")
        if seconds >= self._proven_at:
            self._unproven = False

    def _set(self, right: datetime, seconds: float) -> None:
        """From now on this is what is known, and nothing else."""
        self._anchor, self._anchored, self._heard, self._claim = right, seconds, None, None
        self._floor = self._sealed = right
        self._floored = self._sealed_at = seconds
        self._unproven = False

    def _sealed_now(self, seconds: float) -> datetime | None:
        return None if self._sealed is None else _later(self._sealed, seconds - self._sealed_at)

    def _heard_now(self, seconds: float) -> datetime | None:
        return None if self._heard is None else _later(self._heard.at, seconds - self._heard.seconds)

    def _agreed(self, said: datetime, seconds: float, source: str) -> bool:
        """3. Whether a server elsewhere said the same; if not, this one is remembered."""
        claim = self._claim
        other = claim is None or claim.source != source
        if claim is not None and other and abs(said - _later(claim.at, seconds - claim.seconds)) <= AGREEMENT:
            log.warning("time moved ahead: servers at two addresses agree", now=said.isoformat())
            self._anchor, self._anchored, self._claim, self._unproven = said, seconds, None, False
            return True
        if other:
            log.error(
                "the cluster's time is far ahead of what is known here; it waits for a second source",
                said=said.isoformat(),
                known=self.now().isoformat(),
                hint="set this machine's clock, or, if the cluster is right: trustfed agent time reset --to-cluster",
            )
        self._claim = _Claim(said, seconds, source)
        return False


def _later(moment: datetime, seconds: float) -> datetime:
    """`seconds` after `moment`, LATEST at the latest."""
    if moment >= LATEST:
        return LATEST
    return min(moment + timedelta(seconds=seconds), LATEST) if seconds < 1e11 else LATEST


def boot_seconds() -> float:
    """CLOCK_BOOTTIME: seconds since the machine was started, sleep included (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_boot_id() -> str:
    """The id of this boot (random(4)); "" where the kernel does not say."""
    try:
        return _BOOT_ID.read_text("ascii").strip()[:64]
    except (OSError, ValueError):
        return ""
