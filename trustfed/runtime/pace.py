"""So many at once, then one in a while, for each name: what others may make this process do or write down.

In memory: whoever is not paced any more is forgotten, so the table holds those only who spoke lately. Time is an argument
(seconds of a monotonic clock), but for `turn`, which waits.
"""

from __future__ import annotations

from trustfed.runtime.clock import Clock

_SWEEP_AT = 1_000


class Paces:
    """`burst` at once for each name, then one in `seconds`."""

    def __init__(self, burst: int, seconds: float) -> None:
        self._burst, self._seconds = burst, seconds
        self._used: dict[str, float] = {}  # until when all that was taken is paid for
        self._sweep_at = _SWEEP_AT

    def wait(self, name: str, now: float) -> float:
        """Seconds until one more is allowed; 0 if it is now."""
        return max(self._used.get(name, now) - now - (self._burst - 1) * self._seconds, 0.0)

    def take(self, name: str, now: float) -> bool:
        """Whether one more is allowed now, and counts it if so."""
        if self.wait(name, now) > 1e-6:
            return False
        self._used[name] = max(self._used.get(name, now), now) + self._seconds
        if len(self._used) > self._sweep_at:
            self._used = {known: until for known, until in self._used.items() if until > now}
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._used))
        return True

    def give_back(self, name: str) -> None:
        """What was taken last has come to nothing."""
        if name in self._used:
            self._used[name] -= self._seconds

    async def turn(self, name: str, clock: Clock) -> None:
        """Wait until one more is allowed, and take it. Who gives up waiting has taken nothing."""
        while not self.take(name, clock.monotonic()):
            await clock.sleep(max(self.wait(name, clock.monotonic()), 0.001))
