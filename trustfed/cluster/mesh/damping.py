"""In or out: several failures in a row take something out, and each time it leaves it must prove itself for longer. Pure.

Like the damping of flapping routes: each leaving adds to a penalty that halves with time, and the wait before a return
doubles with it, up to a bound. What has no alternative that answers never leaves: where everything fails at once it is more
likely that this side lost its network, and a dead way is no worse than none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class DampingRules:
    """When something leaves and returns; times in seconds."""

    failures: int = 3  # in a row, to leave
    successes: int = 3  # in a row, to return
    hold: float = 15.0  # least time out, at the first penalty; it doubles with each further one
    longest_hold: float = 600.0
    half_life: float = 1800.0  # of the penalty
    most_penalty: float = 8.0


@dataclass(frozen=True)
class Health:
    """How it has gone; times are of a monotonic clock."""

    up: bool = True
    failures: int = 0  # in a row
    successes: int = 0  # in a row
    penalty: float = 0.0  # as of `left_at`
    left_at: float = 0.0


def judge(health: Health, ok: bool, now: float, rules: DampingRules, *, alternative: bool) -> Health:
    """The health after one more result. `alternative`: something else that is up, and answered last, does the same."""
    health = replace(
        health,
        failures=0 if ok else min(health.failures + 1, 1_000_000),
        successes=min(health.successes + 1, 1_000_000) if ok else 0,
    )
    if health.up:
        if health.failures >= rules.failures and alternative:
            penalty = min(penalty_at(health, now, rules) + 1, rules.most_penalty)
            return replace(health, up=False, penalty=penalty, left_at=now)
        return health
    # Without an alternative the wait would only prolong an outage.
    if health.successes >= rules.successes and (not alternative or returns_in(health, now, rules) <= 0):
        return replace(health, up=True)
    return health


def penalty_at(health: Health, now: float, rules: DampingRules) -> float:
    """What is left of the penalty."""
    return health.penalty * math.exp2(-max(now - health.left_at, 0.0) / rules.half_life)


def returns_in(health: Health, now: float, rules: DampingRules) -> float:
    """Seconds before it may return; 0 when it is up, or may."""
    if health.up:
        return 0.0
    hold = min(rules.hold * math.exp2(max(health.penalty - 1, 0.0)), rules.longest_hold)
    return max(health.left_at + hold - now, 0.0)


def restored(up: bool, now: float) -> Health:
    """The health of something that the journal says is up or down, in a process that knows nothing else of it."""
    return Health() if up else Health(up=False, penalty=1.0, left_at=now)
