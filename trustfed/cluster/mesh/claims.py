"""Names that two hosts may want (a cut name, an address): who came first has it, whatever the order of events. Pure.

Names carry a hash of 64 bits and addresses one of 27, so this is rare, and may be forced by somebody who tries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, order=True)
class Claimant:
    """A host that wants names: the earlier, then the lesser in the alphabet, comes first."""

    since: datetime
    place: str  # "import" or "export"
    host: str


class Claims:
    """Who has which name."""

    def __init__(self) -> None:
        self._held: dict[str, Claimant] = {}
        self._names: dict[tuple[str, str], tuple[str, ...]] = {}
        self._waiting: dict[str, set[tuple[str, str]]] = {}

    def take(self, claimant: Claimant, names: Iterable[str]) -> tuple[Claimant | None, set[tuple[str, str]]]:
        """Claim all of `names` or none.

        Returns who stands in the way, or None; and the (place, host) that must be decided anew, because they lost a name, or
        because one they waited for is free.
        """
        names = tuple(names)
        again = self.release(claimant.place, claimant.host)
        for name in names:
            holder = self._held.get(name)
            if holder is not None and holder < claimant:
                self._waiting.setdefault(name, set()).add((claimant.place, claimant.host))
                return holder, again
        for name in names:
            holder = self._held.get(name)
            if holder is not None:
                again |= self.release(holder.place, holder.host) | {(holder.place, holder.host)}
            self._held[name] = claimant
        self._names[claimant.place, claimant.host] = names
        return None, again - {(claimant.place, claimant.host)}

    def release(self, place: str, host: str) -> set[tuple[str, str]]:
        """Give up whatever this host has; returns who waited for it."""
        waited: set[tuple[str, str]] = set()
        for name in self._names.pop((place, host), ()):
            del self._held[name]
            waited |= self._waiting.pop(name, set())
        return waited - {(place, host)}
