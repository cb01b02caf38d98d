"""How fast the error budget of the 99.9 % objective burns, over two windows at once, by the time of the events. Pure.

An alert needs both of its windows: the long one says that it matters, the short one that it goes on (Google SRE workbook,
chapter 5). 1.44 % over an hour is 14.4 times the budget: two per cent of a month's in that hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from trustfed.hub.evidence.figures import failing

MINUTES = {"5m": 5, "30m": 30, "1h": 60, "6h": 360, "3d": 4_320}
"""The windows, in minutes."""
_BUCKET_MINUTES = 5


class Burn(msgspec.Struct, frozen=True):
    """One alert: its code, severity, the two windows, and the share of failures that both must be above."""

    code: str
    severity: str
    long: str
    short: str
    share: float


BURNS = (
    Burn("burn_fast", "page", "1h", "5m", 0.0144),
    Burn("burn_slow", "page", "6h", "30m", 0.006),
    Burn("burn_ticket", "ticket", "3d", "6h", 0.001),
)


def shares(
    sums: Callable[[int, int], Sequence[int]], now: int, known: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The share of failures in each window that ends before bucket `now`; 0 where nothing was due; `known` ones as they are."""
    found = dict(known or {})
    for name, minutes in MINUTES.items():
        if name in found:
            continue
        failed, of = failing(sums(now - minutes // _BUCKET_MINUTES, now))
        found[name] = failed / of if of else 0.0
    return found


def burning(found: dict[str, float]) -> list[Burn]:
    """The alerts that these shares raise."""
    return [one for one in BURNS if found[one.long] > one.share and found[one.short] > one.share]
