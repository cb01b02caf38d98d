"""The counters of one trust domain and class over time: five-minute buckets of three days, hours of 35 days. Pure.

A bucket is told as it is now, so the old value has to be known: an hour keeps its twelve buckets until it is older than three
days and has nothing open or unknown in it. After that it is one slot of its day, and a bucket in it that is told once more comes
too late: it is refused, never counted twice. Buckets are counted from the epoch, five minutes each.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from trustfed.evidence.model import BUCKET_MS, COUNTS

N = len(COUNTS)
HOUR, DAY = 12, 288
FINE, KEEP, WINDOW = 3 * DAY, 35 * DAY, 30 * DAY
MAX_HOURS = 2_400
"""Hours of one series that are kept in buckets: 100 days. A leaf of 90 days has its on-time limits 68 days ahead."""
MAX_COUNT = 100_000_000
UNSETTLED = (COUNTS.index("open"), COUNTS.index("unknown"))
ZERO = [0] * N


class Chunk(msgspec.Struct):
    """One row of the store: kind "h" (an hour, 12 buckets) or "d" (a day, 24 hours; bits of the buckets that are in it)."""

    kind: str
    at: int
    data: bytes
    mask: bytes = b""


class _Day:
    __slots__ = ("mask", "values")

    def __init__(self) -> None:
        self.values, self.mask = array("I", bytes(4 * 24 * N)), 0


class Series:
    """What one cell of the heatmap counts. `few`: a class of few rotations, whose buckets are never merged."""

    def __init__(self, *, few: bool = False) -> None:
        self._few = few
        self._hours: dict[int, array[int]] = {}
        self._days: dict[int, _Day] = {}
        self._dirty: set[tuple[str, int]] = set()
        self._start = self._end = 0  # of the rolling window, in buckets
        self._total = list(ZERO)

    def tell(self, bucket: int, counts: Sequence[int], now: int) -> Sequence[int] | None:
        """Take one bucket as it is now: by how much it changed, or None when it comes too late, or too many hours are open."""
        self.advance(now)
        counts = bounded(counts)
        hour, slot = divmod(bucket, HOUR)
        day = self._days.get(bucket // DAY)
        if day and day.mask >> (bucket % DAY) & 1:
            return None
        chunk = self._hours.get(hour)
        if chunk is None:
            settled = not any(counts[index] for index in UNSETTLED)
            if not self._few and bucket < now - FINE and settled:
                if bucket < now - KEEP:
                    return None
                self._merge(bucket, counts)
                self._count(bucket, counts)
                return counts
            if len(self._hours) >= MAX_HOURS and not self._give_up(now):
                return None
            chunk = self._hours[hour] = array("I", bytes(4 * HOUR * N))
        begin = slot * N
        old = chunk[begin : begin + N]
        chunk[begin : begin + N] = array("I", counts)
        self._dirty.add(("h", hour))
        change = [new - before for new, before in zip(counts, old, strict=True)]
        self._count(bucket, change)
        return change

    def advance(self, now: int) -> None:
        """Move the window of 30 days on, to end before bucket `now` and to begin with a whole hour."""
        start = -(-(now - WINDOW) // HOUR) * HOUR
        if now == self._end and start == self._start:
            return
        if not self._end <= now <= self._end + DAY:
            self._start, self._end = start, now
            self._total = self.sum(start, now)
            return
        for sign, begin, end in ((1, self._end, now), (-1, self._start, start)):
            if begin < end:
                moved = self.sum(begin, end)
                self._total = [total + sign * change for total, change in zip(self._total, moved, strict=True)]
        self._start, self._end = start, now

    @property
    def window(self) -> tuple[int, int]:
        """The rolling window: its first bucket, and the first after it."""
        return self._start, self._end

    @property
    def total(self) -> list[int]:
        """The counts of the rolling window."""
        return list(self._total)

    def sum(self, begin: int, end: int, columns: Sequence[int] = range(N)) -> list[int]:
        """The counts of the buckets from `begin` to before `end`; merged hours count whole when they begin in between.

        Other columns than these are left at 0.
        """
        total = list(ZERO)
        for values in self._slices(begin, end):
            for index in columns:
                total[index] += sum(values[index::N])
        return total

    def hours(self, begin: int, end: int) -> Iterator[tuple[int, list[int]]]:
        """Each hour with something in it, by its first bucket."""
        for hour in range(begin // HOUR, -(-end // HOUR)):
            counts = self.sum(hour * HOUR, hour * HOUR + HOUR)
            if any(counts):
                yield hour * HOUR, counts

    def compact(self, now: int) -> list[tuple[int, list[int], bytes]]:
        """Merge what is settled and old; answers the days that leave: day, counts, and the bits of their buckets."""
        if self._few:
            return []
        for hour, chunk in list(self._hours.items()):
            first = hour * HOUR
            if first + HOUR > now - FINE:
                continue
            settled = not any(sum(chunk[index::N]) for index in UNSETTLED)
            if settled or first < now - KEEP:
                del self._hours[hour]
                self._dirty.add(("h", hour))
                for slot in range(HOUR):
                    counts = chunk[slot * N : slot * N + N].tolist()
                    if any(counts):
                        self._merge(first + slot, counts)
        gone = []
        for number, day in list(self._days.items()):
            if number * DAY + DAY < now - KEEP:
                del self._days[number]
                self._dirty.add(("d", number))
                gone.append((number, [sum(day.values[index::N]) for index in range(N)], _bits(day.mask)))
        return gone

    def take_dirty(self) -> list[Chunk]:
        """The rows that changed since the last time; one without data is gone."""
        changed = [self._chunk(kind, at) for kind, at in self._dirty]
        self._dirty.clear()
        return changed

    def load(self, chunks: Iterable[Chunk]) -> None:
        """Take rows back from the store. ValueError when one has another length."""
        for chunk in chunks:
            values = array("I")
            values.frombytes(chunk.data)
            if len(values) != (HOUR if chunk.kind == "h" else 24) * N:
                raise ValueError("a row of counters has another length")
            if chunk.kind == "h":
                self._hours[chunk.at] = values
            else:
                day = self._days[chunk.at] = _Day()
                day.values, day.mask = values, int.from_bytes(chunk.mask, "little")
        self._start = self._end = 0
        self._total = list(ZERO)

    def _chunk(self, kind: str, at: int) -> Chunk:
        if kind == "h":
            held = self._hours.get(at)
            return Chunk(kind, at, held.tobytes() if held is not None else b"")
        day = self._days.get(at)
        return Chunk(kind, at, day.values.tobytes(), _bits(day.mask)) if day else Chunk(kind, at, b"")

    def _count(self, bucket: int, change: Sequence[int]) -> None:
        if self._start <= bucket < self._end:
            for index, value in enumerate(change):
                self._total[index] += value

    def _merge(self, bucket: int, counts: Sequence[int]) -> None:
        number, within = divmod(bucket, DAY)
        day = self._days.setdefault(number, _Day())
        begin = within // HOUR * N
        for index, value in enumerate(counts):
            day.values[begin + index] += value
        day.mask |= 1 << within
        self._dirty.add(("d", number))

    def _give_up(self, now: int) -> bool:
        """Drop the oldest hour that the rolling window has left behind."""
        oldest = min(self._hours)
        if oldest * HOUR + HOUR > now - WINDOW - HOUR:
            return False
        del self._hours[oldest]
        self._dirty.add(("h", oldest))
        return True

    def _slices(self, begin: int, end: int) -> Iterator[array[int]]:
        first, last = begin // HOUR, -(-end // HOUR)
        wanted = range(first, last)
        held = self._hours if len(self._hours) < len(wanted) else wanted
        for hour in held:
            chunk = self._hours.get(hour)
            if chunk is not None and hour in wanted:
                low, high = max(begin - hour * HOUR, 0), min(end - hour * HOUR, HOUR)
                yield chunk[low * N : high * N]
        for number, day in self._days.items():
            low, high = max(-(-(begin - number * DAY) // HOUR), 0), min(-(-(end - number * DAY) // HOUR), 24)
            if low < high:
                yield day.values[low * N : high * N]


def bucket_of(at_ms: int) -> int:
    """The bucket of a moment (Unix ms)."""
    return at_ms // BUCKET_MS


def bounded(counts: Sequence[int]) -> list[int]:
    """Counts in the width that is kept here. ValueError for one that cannot be."""
    kept = list(counts[:N]) + ZERO[len(counts) :]
    if any(not 0 <= value <= MAX_COUNT for value in kept):
        raise ValueError(f"a count is not between 0 and {MAX_COUNT}")
    return kept


def _bits(mask: int) -> bytes:
    return mask.to_bytes(DAY // 8, "little")
