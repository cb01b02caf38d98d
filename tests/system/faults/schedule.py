"""Which fault strikes what, when, for how long: pure, and the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

LINK_FAULTS = ("cut", "silent up", "silent down", "slow", "drip", "reset")
SHORTEST, LONGEST = 0.5, 5.0
"""Seconds that a fault lasts, but for one in ten where longer ones are wanted."""
_LONG_ONES = 0.1
CLOCK_STEPS = (-86_400, -3_600, -60, -5, 3)
"""Seconds by which a wall clock is set. Far ahead is no fault that heals: time that was believed is not given back."""


@dataclass(frozen=True)
class Able:
    """What there is to strike, by name."""

    links: tuple[str, ...]
    processes: tuple[str, ...]
    disks: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    clocks: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strike:
    """One fault: from `at`, for `lasts` seconds. `touches`: what no other fault may touch meanwhile."""

    at: float
    lasts: float
    kind: str
    where: str
    touches: tuple[str, ...]
    amount: float = 0.0

    def __str__(self) -> str:
        amount = f" by {self.amount:g} s" if self.amount else ""
        return f"{self.kind} {self.where}{amount} for {self.lasts:.1f} s"


def schedule(seed: int, seconds: float, able: Able, *, mean_gap: float = 1.2, longest: float = LONGEST) -> list[Strike]:
    """Strikes in order; the last ends before `seconds`. Several at once, but never two on the same thing."""
    chance = random.Random(seed)
    choices = _choices(able)
    # Each kind is as likely as any other, however many things it can strike.
    kinds = sorted({kind for kind, _, _ in choices})
    free: dict[str, float] = {}
    strikes: list[Strike] = []
    at = chance.uniform(0.2, 1.0)
    while at < seconds - SHORTEST:
        kind = chance.choice(kinds)
        _, where, touches = chance.choice([choice for choice in choices if choice[0] == kind])
        lasts = chance.uniform(SHORTEST, LONGEST)
        if longest > LONGEST and chance.random() < _LONG_ONES:
            lasts = chance.uniform(LONGEST, longest)
        lasts = min(lasts, seconds - at)
        amount = float(chance.choice(CLOCK_STEPS)) if kind == "clock" else 0.0
        if all(free.get(touched, 0.0) <= at for touched in touches):
            strikes.append(Strike(at, lasts, kind, where, touches, amount))
            free.update(dict.fromkeys(touches, at + lasts + SHORTEST))
        at += max(chance.expovariate(1 / mean_gap), 0.2)
    return strikes


def _choices(able: Able) -> Sequence[tuple[str, str, tuple[str, ...]]]:
    """(kind, what it strikes, what it touches)."""
    found: list[tuple[str, str, tuple[str, ...]]] = []
    found += [(kind, link, (f"link {link}",)) for link in able.links for kind in LINK_FAULTS]
    found += [(kind, name, (f"process {name}",)) for name in able.processes for kind in ("kill", "freeze")]
    found += [("full disk", name, (f"disk {name}",)) for name in able.disks]
    found += [("read-only cache", name, (f"disk {name}",)) for name in able.caches]
    found += [("read-only store", name, (f"disk {name}", f"process {name}")) for name in able.stores]
    found += [("clock", name, (f"process agent-{name}-node-1",)) for name in able.clocks]
    # Its cluster and the hub away, killed and started again.
    found += [
        ("orphan", name, (f"process agent-{name}-node-1", f"link {name}", f"disk cache-{name}"))
        for name in able.orphans
    ]
    return found
