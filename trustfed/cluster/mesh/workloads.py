"""Which own exports share pods, by the labels of their workloads: found without looking at every export of a namespace."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TypeAlias

Labels: TypeAlias = frozenset[tuple[str, str]]


class Workloads:
    """The selectors of own exports, by namespace."""

    def __init__(self) -> None:
        self._hosts: dict[str, dict[Labels, set[str]]] = {}
        self._labels: dict[str, Labels] = {}
        self._with: dict[tuple[str, tuple[str, str]], set[Labels]] = {}  # namespace and label → sets that hold it

    def put(self, host: str, labels: Mapping[str, str]) -> None:
        """This export selects these pods of its namespace."""
        self.drop(host)
        self._labels[host] = chosen = frozenset(labels.items())
        self._hosts.setdefault(_namespace(host), {}).setdefault(chosen, set()).add(host)
        for label in chosen:
            self._with.setdefault((_namespace(host), label), set()).add(chosen)

    def drop(self, host: str) -> None:
        """There is no such export any more."""
        chosen = self._labels.pop(host, None)
        if chosen is not None:
            held = self._hosts[_namespace(host)]
            held[chosen].discard(host)
            if not held[chosen]:
                del held[chosen]
                for at in [(_namespace(host), label) for label in chosen]:
                    self._with[at].discard(chosen)
                    if not self._with[at]:
                        del self._with[at]

    def above(self, host: str) -> list[str]:
        """Other exports that select every pod that this one selects: at most 2^8 sets of labels are looked up."""
        chosen = self._labels.get(host, frozenset())
        held = self._hosts.get(_namespace(host), {})
        fewer = (frozenset(part) for size in range(1, len(chosen) + 1) for part in combinations(sorted(chosen), size))
        return sorted({one for part in fewer for one in held.get(part, ())} - {host})

    def below(self, host: str) -> list[str]:
        """Other exports of which this one selects every pod."""
        chosen = self._labels.get(host)
        if chosen is None:
            return []
        held = self._hosts.get(_namespace(host), {})
        near: set[Labels] = min((self._with[_namespace(host), label] for label in chosen), key=len, default=set())
        return sorted({one for labels in near if chosen <= labels for one in held[labels]} - {host})


def _namespace(host: str) -> str:
    return host.split(".")[1]
