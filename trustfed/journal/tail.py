"""The newest facts of a ledger in memory, as they were just written: for whoever follows closely and asks at once.

What is here was durable before it came here, and is what a read of the file would give; it is read back from the file as
soon as it has left. Bounded by number and by bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from trustfed.journal.events import Fact, RecordedFact

MOST_FACTS = 2_000
MOST_BYTES = 2 << 20


class Tail:
    """Facts with their positions, without a gap; the last one is the ledger's last."""

    def __init__(self) -> None:
        self._held: deque[RecordedFact] = deque()
        self._bytes = 0

    def put(self, last: int, facts: Sequence[Fact], encoded: Sequence[bytes]) -> None:
        """These were recorded, up to position `last`; their bodies do not change any more."""
        first = last - len(facts) + 1
        if self._held and self._held[-1].position != first - 1:
            self._held.clear()
            self._bytes = 0
        self._held.extend(map(RecordedFact, range(first, last + 1), facts, encoded))
        self._bytes += sum(map(len, encoded))
        while len(self._held) > MOST_FACTS or self._bytes > MOST_BYTES:
            self._bytes -= len(self._held.popleft().canonical)

    def read(self, after: int, limit: int) -> list[RecordedFact]:
        """Up to `limit` facts above `after`, in order; none if the next one is not here."""
        if not self._held:
            return []
        skipped = after + 1 - self._held[0].position
        return list(islice(self._held, skipped, skipped + limit)) if skipped >= 0 else []
