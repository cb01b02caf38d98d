"""Round trips become weights: the median of the last ones, relative to the fastest, and slow to change. Pure.

A weight that follows every measurement would send requests to and fro, and every change is an event, a rendered resource
and a push to each proxy. So a new weight is decided only when what is wanted has differed by more than a share of the
weight held, in the same direction, for several rounds in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

FULL = 100
"""The weight of the fastest, and of a gateway that was never measured."""
LEAST_DIFFERENCE = 5


@dataclass(frozen=True)
class WeightRules:
    """How round trips weigh."""

    window: int = 9  # samples whose median counts
    samples: int = 3  # fewer than these say nothing
    floor: int = 10  # no gateway that is up weighs less: failover must find it warm
    grain: float = 0.005  # seconds added to each round trip: differences far below it are noise
    share: float = 0.25  # of the weight held: what is wanted must differ by more
    rounds: int = 6  # for so many rounds in a row


@dataclass(frozen=True)
class Held:
    """The weight that was decided last, and how long something else has been wanted."""

    weight: int = FULL
    direction: int = 0  # -1, 0 or 1: where what is wanted lies
    rounds: int = 0


def typical(samples: Sequence[float], rules: WeightRules) -> float | None:
    """The median of the last samples (seconds); None when there are too few to say anything."""
    newest = samples[-rules.window :]
    return median(newest) if len(newest) >= rules.samples else None


def wanted(medians: Mapping[str, float], rules: WeightRules) -> dict[str, int]:
    """The weight of each of some gateways that stand for one another: FULL for the fastest, never below the floor."""
    if not medians:
        return {}
    fastest = min(medians.values()) + rules.grain
    return {
        name: max(min(round(FULL * fastest / (median_ + rules.grain)), FULL), rules.floor)
        for name, median_ in medians.items()
    }


def settle(held: Held, want: int, rules: WeightRules) -> Held:
    """What is held after one more round in which `want` was wanted; its weight differs only when that is decided."""
    distance = want - held.weight
    if abs(distance) <= max(rules.share * held.weight, LEAST_DIFFERENCE):
        return replace(held, direction=0, rounds=0)
    direction = 1 if distance > 0 else -1
    rounds = held.rounds + 1 if direction == held.direction else 1
    if rounds < rules.rounds:
        return replace(held, direction=direction, rounds=rounds)
    return Held(want)
