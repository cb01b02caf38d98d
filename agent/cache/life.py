"""What holds on the disk as this process knows it, and what the next save must write. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from agent.cache.port import LONG_AGO, Kept
from agent.cache.records import Parts
from agent.cache.sealing import Sealer
from agent.cache.segments import MAX_SEGMENTS, Segment

_SLACK = 65_536  # bytes of garbage that are not worth a write
_TYPICAL = 1024  # bytes of a record that was not written before


@dataclass
class Life:
    """What holds on the disk, as this process knows it."""

    sealer: Sealer
    id: bytes
    generation: int = 0
    counter: int = 0
    number: int = 0  # of the newest segment
    segments: list[Segment] = field(default_factory=list)
    gone: dict[int, set[str]] = field(default_factory=dict)  # by segment: the names it says are gone
    where: dict[str, tuple[int, int]] = field(default_factory=dict)  # by record: number of its segment, sealed length
    parts: Parts = field(default_factory=dict)
    kept: Kept | None = None
    floor: datetime = LONG_AGO  # at the last rise of the generation
    unsettled: bool = True  # something of steps 3 to 5 is still to be done

    def merged(
        self, parts: Parts, changed: set[str], gone: set[str], *, whole: bool
    ) -> tuple[list[Segment], set[str], set[str]]:
        """The segments that stay, the names that the new one holds, and those it says are gone; none stay if `whole`.

        Each stays at least twice as long as the next one. So there are few, and a record is written anew only some
        times, however often others change.
        """
        segments, names = list(self.segments), set(changed)
        by_number: dict[int, list[str]] = {}
        live = 0
        for name, (number, size) in self.where.items():
            if name in parts and name not in changed:
                by_number.setdefault(number, []).append(name)
                live += size
        size = sum(self.where[name][1] if name in self.where else _TYPICAL for name in changed)
        whole |= sum(segment.size for segment in segments) - live > live + size + _SLACK
        while segments and (whole or segments[-1].size <= 2 * size or len(segments) >= MAX_SEGMENTS - 1):
            last = segments.pop()
            again = by_number.get(last.number, [])
            names.update(again)
            gone |= self.gone.get(last.number, set())
            size += sum(self.where[name][1] for name in again)
        # What no older segment can name needs no word that it is gone.
        return segments, names, gone - parts.keys() if segments else set()


def difference(before: Parts, after: Parts) -> tuple[set[str], set[str]]:
    """The names of the parts that are new or another, and of those that are gone."""
    changed = {
        name
        for name, part in after.items()
        # Mostly the very same objects: only others are compared.
        if (old := before.get(name)) is not part and old != part
    }
    return changed, before.keys() - after.keys()
