"""The failed obligations of one trust domain, newest first and bounded: what is older is a number. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator

from trustfed.hub.evidence.views import Failure

MAX_FAILED = 500
"""Of one trust domain; the cluster itself has all of them (`Questions`)."""

_Key = tuple[int, str]


class Failures:
    """What failed, by obligation; `changed` and `gone` are for the store."""

    def __init__(self) -> None:
        self._by_id: dict[str, Failure] = {}
        self._order: list[_Key] = []  # by (-ended, id): newest first
        self.summarised: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._dirty: set[str] = set()

    def __len__(self) -> int:
        return len(self._by_id)

    def tell(self, rows: Iterable[Failure]) -> None:
        """Take rows as they are now; "" for an outcome takes one away. The oldest beyond the bound are summarised."""
        for row in rows:
            self._remove(row.id)
            self._dirty.add(row.id)
            if row.outcome:
                self._by_id[row.id] = row
                self.counts[row.class_] += 1
                insort(self._order, _key(row))
        while len(self._order) > MAX_FAILED:
            oldest = self._by_id[self._order[-1][1]]
            self._remove(oldest.id)
            self._dirty.add(oldest.id)
            self.summarised[f"{oldest.class_} {oldest.outcome}"] += 1

    def newest(self, class_: str = "") -> Iterator[Failure]:
        """Newest first, of one class or all."""
        for _, key in self._order:
            row = self._by_id[key]
            if not class_ or row.class_ == class_:
                yield row

    def total(self, class_: str = "") -> int:
        """How many are held."""
        return self.counts[class_] if class_ else len(self._by_id)

    def clear(self) -> None:
        """Everything is told anew."""
        self._dirty.update(self._by_id)
        self._by_id.clear()
        self._order.clear()
        self.counts.clear()
        self.summarised.clear()

    def take_dirty(self) -> list[tuple[str, Failure | None]]:
        """What changed since the last time; None: gone."""
        changed = [(key, self._by_id.get(key)) for key in self._dirty]
        self._dirty.clear()
        return changed

    def load(self, rows: Iterable[Failure], summarised: dict[str, int]) -> None:
        """Take back what the store held."""
        self.tell(rows)
        self.summarised.update(summarised)
        self._dirty.clear()

    def _remove(self, key: str) -> None:
        old = self._by_id.pop(key, None)
        if old is not None:
            del self._order[bisect_left(self._order, _key(old))]
            self.counts[old.class_] -= 1


def _key(row: Failure) -> _Key:
    return (-(row.ended_ms or row.on_time_ms), row.id)
