"""What changed last, once per thing: how an agent that was away is brought up to date without reading history.

For each thing the position of its newest change is kept, the newest last, so finding what an agent missed costs what
changed and not what happened. Below `floor` nothing is known: who was away for longer gets a snapshot.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

Item = tuple[str, str]  # what changed: its kind, and which one
MAX_CHANGES = 200_000
ANYBODY = "?"
"""In place of a parent: who it was before is not known, so the change concerns every node."""


class Changes:
    """The newest change of each thing since `floor`."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self._at: OrderedDict[Item, int] = OrderedDict()
        self._parents: dict[str, set[str]] = {}

    def note(self, position: int, items: Iterable[Item]) -> None:
        """These changed at `position`, which never falls."""
        for item in items:
            self._at[item] = position
            self._at.move_to_end(item)
        while len(self._at) > MAX_CHANGES:
            (kind, key), self.floor = self._at.popitem(last=False)
            if kind == "entry":
                self._parents.pop(key, None)

    def moved(self, entry: str, parents: Iterable[str]) -> None:
        """An entry belongs, or belonged, to these parents."""
        self._parents.setdefault(entry, set()).update(parents)

    def since(self, position: int, parents: Iterable[str], most: int) -> set[Item] | None:
        """What changed after `position` that concerns a node with these parents; None when that is not known, or more
        than `most` things.
        """
        if position < self.floor:
            return None
        concerned, found = {ANYBODY, *parents}, set[Item]()
        for item in reversed(self._at):
            if self._at[item] <= position:
                break
            if item[0] != "entry" or not concerned.isdisjoint(self._parents.get(item[1], ())):
                found.add(item)
                if len(found) > most:
                    return None
        return found
