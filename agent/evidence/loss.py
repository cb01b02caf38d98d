"""What a spool had to give up, summed up by kind until it can be said. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from trustfed.proto import evidence_pb2 as pb

UNKNOWN = "unknown"
"""The kind of facts that cannot be read any more."""
MOST_KINDS = 32
KIND = "lost"


class Loss:
    """Counts, and the range of the sequences, by kind; sequences of another epoch than the present one are not kept."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[int, int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    @property
    def count(self) -> int:
        """How many facts."""
        return sum(count for count, _, _ in self._kinds.values())

    def add(self, kind: str, count: int, first: int = 0, last: int = 0) -> None:
        """`count` more of a kind; `first` and `last` are 0 where they had no sequence of this epoch."""
        place = kind if kind in self._kinds or len(self._kinds) < MOST_KINDS else UNKNOWN
        had, begin, end = self._kinds.get(place, (0, 0, 0))
        self._kinds[place] = had + count, min(begin, first) if begin and first else begin or first, max(end, last)

    def facts(self, facts: Iterable[pb.AgentFact], first: int) -> None:
        """These facts, whose sequences begin with `first` (0: of another epoch); a loss among them is carried on."""
        for place, fact in enumerate(facts):
            sequence = first + place if first else 0
            if fact.kind == KIND:
                for one in fact.lost:
                    self.add(one.kind, one.count, *((one.first, one.last) if first else (0, 0)))
            else:
                self.add(fact.kind, 1, sequence, sequence)

    def fact(self) -> pb.AgentFact:
        """All of it as one fact, without a moment."""
        made = pb.AgentFact(kind=KIND)
        for kind, (count, first, last) in sorted(self._kinds.items()):
            made.lost.add(kind=kind, count=count, first=first, last=last)
        return made

    def forget_sequences(self) -> None:
        """Another epoch begins."""
        self._kinds = {kind: (count, 0, 0) for kind, (count, _, _) in self._kinds.items()}
