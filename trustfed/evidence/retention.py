"""Facts leave the ledger after 13 months, by whole segments of 65,536: before that, what they amount to is recorded.

1. `plan` says which position is to be the first: the newest end of a segment all of whose facts are older than is kept.
2. `Rolling` folds what leaves, on top of what the rollup before carried.
3. Its facts evidence.rollup hold the definition's hash, the counts per class and month of what is settled, the authorities
   that sign, what is still pending (trustfed.evidence.carried), and the root of what leaves; they are durable before anything
   is gone.
4. Then the ledger is trimmed. Its Merkle tiles above the segments stay, so that proofs over what is retained still hold.

Claims are recomputed only from what is retained; for the time before there is the rollup, and the checkpoints that cover it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from trustfed.evidence import facts as f
from trustfed.evidence.carried import carried_engine, key_of, packed, rollups
from trustfed.evidence.definition import DEFINITION, Definition
from trustfed.evidence.engine import Engine
from trustfed.evidence.model import COUNTS, Class
from trustfed.evidence.pending import bucket_of
from trustfed.journal.events import Fact, RecordedFact
from trustfed.journal.merkle.log import SEGMENT

KEEP_MS = 400 * 86_400_000
"""13 months, and a few days for the month that is being closed."""

MAX_SEGMENTS = 512
"""That leave at once: a busy domain's day."""

_READ = 1_000


class Ledger(Protocol):
    """The ledger, as far as retention works on it."""

    @property
    def first(self) -> int: ...

    @property
    def position(self) -> int: ...

    async def read(self, after: int, limit: int) -> list[RecordedFact]: ...

    async def find(self, kind: str, key: str) -> list[Fact]: ...

    async def append(self, facts: list[Fact]) -> None: ...


Root = Callable[[int], Awaitable[bytes]]
"""The root of the Merkle log over its first so many leaves."""

Trim = Callable[[int], Awaitable[int]]
"""Let the facts before a position go; gives the first that is retained."""


def ends(first: int, head: int) -> range:
    """The positions that could be the first retained one, rising: each behind a whole segment."""
    begin = (first - 1) // SEGMENT + 1
    return range(begin * SEGMENT + 1, head + 1, SEGMENT)[:MAX_SEGMENTS]


def plan(first: int, head: int, at: dict[int, int], now_ms: int, keep_ms: int = KEEP_MS) -> int:
    """The first position to retain. `at` says for each of `ends` when the last fact before it was recorded (Unix ms).

    It is `first` when nothing may leave. Facts are in order of time but for clocks that were set back: the first segment
    that is too young ends the plan.
    """
    chosen = first
    for end in ends(first, head):
        if end not in at or at[end] >= now_ms - keep_ms:
            break
        chosen = end
    return chosen


class Rolling:
    """Folds the facts that leave, on top of an engine that stands where they begin."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._months: dict[str, dict[str, list[int]]] = {}
        self._taken = 0

    def take(self, batch: list[RecordedFact]) -> None:
        """Take the next facts. Blocks for some 20 ms a thousand."""
        for recorded in batch:
            self._engine.take(recorded.position, recorded.fact)
        self._taken += len(batch)
        for (class_, bucket), delta in self._engine.changes().counters.items():
            self._count(class_, bucket, delta, 1)

    def _count(self, class_: Class, bucket: int, counts: Sequence[int], sign: int) -> None:
        month = datetime.fromtimestamp(bucket / 1000, UTC).strftime("%Y-%m")
        row = self._months.setdefault(class_.value, {}).setdefault(month, [0] * len(COUNTS))
        for place, count in enumerate(counts):
            row[place] += sign * count

    def facts(self, at_ms: int, begin: int, end: int, root: str, tries: int) -> list[Fact]:
        """What is recorded before the facts in [begin, end) leave.

        `root` is the Merkle root over all leaves before `end`, `tries` how often that was recorded before. Raises Invalid if
        more is open than 1,000 facts hold, or after 1,000 tries. Blocks.
        """
        pending = self._engine.pending()
        for it in pending:  # counted by who carries it on
            self._count(it.class_, bucket_of(it.on_time_ms), it.counted, -1)
        parts = packed(self._engine.save())
        said: dict[str, Any] = {
            "begin": begin,
            "end": end,
            "root": root,
            "definition": self._engine.definition.hash,
            "facts": self._taken,
            "names": list(COUNTS),
            "counts": self._months,
            "authorities": sorted(it.predecessor for it in self._engine.few.open.values() if not it.reached_ms),
            "carried_on": len(pending),
        }
        return [
            Fact(
                at_ms,
                f.ROLLUP,
                key_of(end, tries),
                {**(said if part == 0 else {}), "part": part, "parts": len(parts), "carried": text},
            )
            for part, text in enumerate(parts)
        ]


async def retire(
    ledger: Ledger,
    root: Root,
    trim: Trim,
    trust_domain: str,
    now_ms: int,
    *,
    keep_ms: int = KEEP_MS,
    definition: Definition = DEFINITION,
) -> int:
    """Let go of what is older than is kept, its rollup recorded first; gives the first position that is retained.

    Cancelled or failed half-way it leaves a rollup of facts that are still there; the next one replaces it.
    """
    first, at = ledger.first, {}
    for end in ends(first, ledger.position):
        (last,) = await ledger.read(end - 2, 1)
        at[end] = last.fact.at
        if last.fact.at >= now_ms - keep_ms:
            break
    end = plan(first, ledger.position, at, now_ms, keep_ms)
    if end == first:
        return first
    rolling = Rolling(await carried_engine(ledger, trust_domain, definition))
    after = first - 1
    while after < end - 1:
        batch = await ledger.read(after, min(_READ, end - 1 - after))
        await asyncio.to_thread(rolling.take, batch)
        after = batch[-1].position
    digest = await root(end - 1)
    tries = len(await rollups(ledger, end))
    facts = await asyncio.to_thread(rolling.facts, now_ms, first, end, digest.hex(), tries)
    for start in range(0, len(facts), 100):
        await ledger.append(facts[start : start + 100])
    return await trim(end)
