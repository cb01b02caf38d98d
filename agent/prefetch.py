"""For which entries SVIDs are held: those that processes have, and of the others as many as are prefetched. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from agent.matching import Entry

Place = tuple[bool, float, int, str]


def need(
    entries: Mapping[str, Entry], matched: Collection[str], used: Mapping[str, datetime]
) -> Callable[[str], Place]:
    """The order of need, as a sort key over entry ids: what a process of this run has (`matched`), then what was `used`
    most recently, then the oldest entries."""

    def place(id_: str) -> Place:
        last = used.get(id_)
        return id_ not in matched, -last.timestamp() if last else 0.0, entries[id_].created_at_ms, id_

    return place


def chosen(
    entries: Mapping[str, Entry], matched: Collection[str], used: Mapping[str, datetime], limit: int
) -> Collection[str]:
    """The ids of the entries whose SVIDs are held: all that are `matched`, and as many others, in the order of need, as
    `limit` leaves room for."""
    if len(entries) <= limit:
        return entries.keys()
    ranked = sorted(entries, key=need(entries, matched, used))
    return set(ranked[: max(limit, sum(id_ in entries for id_ in matched))])
