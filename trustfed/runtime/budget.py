"""How much one domain may have written down: a sum that it has at once, and that comes back slowly.

Counted per domain, for as long as the process lives, so no new stream begins anew. In memory: who has all of it again is
forgotten. Time is an argument: seconds of a monotonic clock.
"""

from __future__ import annotations

_SWEEP_AT = 1_000


class Budget:
    """`most` units at once for each name; `per_second` of them come back."""

    def __init__(self, most: float, per_second: float) -> None:
        self._most, self._per_second = most, per_second
        self._spent: dict[str, tuple[float, float]] = {}  # how much was spent, and when that was
        self._sweep_at = _SWEEP_AT

    def wait(self, name: str, units: float, now: float) -> float:
        """Seconds until so much may be spent; 0 if it may now. More than there ever is counts as all of it."""
        return max(self._left_spent(name, now) + min(units, self._most) - self._most, 0.0) / self._per_second

    def spend(self, name: str, units: float, now: float) -> bool:
        """Whether so much may be spent now, and spends it if so."""
        if self.wait(name, units, now) > 1e-6:
            return False
        self._spent[name] = (self._left_spent(name, now) + min(units, self._most), now)
        if len(self._spent) > self._sweep_at:
            self._spent = {known: held for known, held in self._spent.items() if self._left_spent(known, now) > 0}
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._spent))
        return True

    def _left_spent(self, name: str, now: float) -> float:
        spent, at = self._spent.get(name, (0.0, now))
        return max(spent - (now - at) * self._per_second, 0.0)
