"""An obligation that facts can still change: what is known of it, how it stands, and what is counted of it. Pure.

The numbers in brackets are those of trustfed.evidence.rules.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import msgspec

from trustfed.evidence.definition import Definition
from trustfed.evidence.model import BUCKET_MS, COUNTS, FEW, Level, Obligation, Outcome

EXCLUDED = frozenset({Outcome.EXCUSED, Outcome.SUPERSEDED, Outcome.UNUSED})
"""Outcomes that leave the base of a headline."""

LEVEL_NAMES = {
    Level.ISSUED: "issued",
    Level.DELIVERED: "delivered",
    Level.LOADED: "loaded",
    Level.CONFIRMED: "confirmed",
}

_PLACE = {name: place for place, name in enumerate(COUNTS)}
_OUTCOME_PLACE = {outcome: _PLACE[outcome.value] for outcome in Outcome}
_BY_LEVEL = tuple((name, int(level)) for level, name in sorted(LEVEL_NAMES.items(), reverse=True))
_LEVEL_PLACES = tuple((int(level), _PLACE[name]) for level, name in LEVEL_NAMES.items())
_ENCODE = msgspec.json.Encoder().encode
_ZERO = (0,) * len(COUNTS)
_TRIES, _REFUSED = _PLACE["tries"], _PLACE["refused"]


class Pending(Obligation, eq=False, gc=False):
    """An obligation with what the rules remember about it besides. Times are Unix ms; 0 is never."""

    position: int = 0  # of the predecessor's x509.issued
    authority: str = ""  # the predecessor's
    after: int = 0  # position of the command that forced it: what was issued before does not fulfil it (7)
    excused_ms: int = 0
    released_ms: int = 0
    superseded: bool = False
    said_expired: bool = False
    silence: bool = False
    unforced: bool = True  # FEW: nobody had to override
    counted: tuple[int, ...] = _ZERO  # what was last told of it
    settled: bool = False


def obligation_id(trust_domain: str, spiffe_id: str, instance: str, slot: str, predecessor: str, force: str) -> str:
    """The first 32 hex digits of SHA-256 over the JSON array of the key."""
    # Strings alone: their JSON is canonical as it is (RFC 8785 §3.2.2.2).
    key = _ENCODE([trust_domain, spiffe_id, instance, slot, predecessor, force])
    return hashlib.sha256(key).hexdigest()[:32]


def holds(it: Pending, clock: int) -> bool:
    """Whether no other obligation of its slot may open (5)."""
    return (
        clock <= it.hard_ms
        and not it.reached_ms
        and not it.excused_ms
        and not it.superseded
        and not (it.released_ms and clock > it.on_time_ms)
    )


def outcome(it: Pending, as_of: int, silent_since: int, definition: Definition) -> tuple[Outcome, int, str]:
    """How it stands, since when, and why (10, 23)."""
    reached = it.reached_ms
    if it.class_ in FEW:
        return _few_outcome(it, as_of)
    if it.superseded:
        return Outcome.SUPERSEDED, it.ended_ms, "a forced rotation took its place"
    if reached and reached <= it.on_time_ms:
        return Outcome.ON_TIME, reached, ""
    if it.excused_ms and it.excused_ms <= it.on_time_ms:
        again = ", and its SPIFFE ID was issued there again within its life" if it.again_ms else ""
        return Outcome.EXCUSED, it.excused_ms, "its entry or node was gone" + again
    if it.released_ms and as_of > it.on_time_ms:
        return Outcome.UNUSED, it.on_time_ms, "no workload had it any more"
    if reached and reached <= it.hard_ms:
        return Outcome.LATE, reached, _lacking(it)
    if as_of <= it.hard_ms + definition.unknown_grace_ms:
        return Outcome.OPEN, 0, ""
    if it.said_expired:
        return Outcome.EXPIRED, it.hard_ms, "the agent says that it ended in use: " + _lacking(it)
    if it.silence or (silent_since and silent_since <= it.hard_ms):
        return Outcome.UNKNOWN, it.hard_ms, "nothing was heard of its node: " + _lacking(it)
    return Outcome.EXPIRED, it.hard_ms, _lacking(it)


def _few_outcome(it: Pending, as_of: int) -> tuple[Outcome, int, str]:
    if it.superseded:
        return Outcome.SUPERSEDED, it.ended_ms, "it was tainted"
    if it.reached_ms and it.reached_ms <= it.hard_ms:
        if it.unforced and it.reached_ms <= it.on_time_ms:
            return Outcome.ON_TIME, it.reached_ms, ""
        return Outcome.LATE, it.reached_ms, it.why or "after the last safe moment"
    if it.reached_ms or as_of > it.hard_ms:
        return Outcome.EXPIRED, it.hard_ms, "it ended before its successor was active"
    return Outcome.OPEN, 0, ""


def _lacking(it: Pending) -> str:
    """How far its successor was by the on-time limit: a reason to drop off the funnel."""
    best = Level.DUE
    for level, name in LEVEL_NAMES.items():
        at = it.by_level_ms.get(name, 0)
        if at and at <= it.on_time_ms:
            best = level
    if best >= it.level:
        return f"{LEVEL_NAMES[best]}, but not in time"
    if best == Level.DUE:
        if it.refused:
            return "every request was refused"
        return "requested, not issued" if it.tries else "never requested"
    return f"{LEVEL_NAMES[best]}, not {LEVEL_NAMES[it.level]}"


def counted(it: Pending) -> tuple[int, ...]:
    """What its bucket holds of it, in the order of COUNTS (12)."""
    best = 0
    if it.outcome not in EXCLUDED:
        times, limit = it.by_level_ms, it.on_time_ms
        for name, level in _BY_LEVEL:
            if 0 < times.get(name, 0) <= limit:
                best = level
                break
    return _counts(it.outcome, it.tries, it.refused, best)


@lru_cache(maxsize=4096)
def _counts(ended: Outcome, tries: int, refused: int, best: int) -> tuple[int, ...]:
    counts = list(_ZERO)
    counts[0] = counts[_OUTCOME_PLACE[ended]] = 1
    counts[_TRIES], counts[_REFUSED] = tries, refused
    for level, place in _LEVEL_PLACES:
        counts[place] = int(best >= level)
    return tuple(counts)


@lru_cache(maxsize=4096)
def difference(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Which counts change from one to the other: their places, and by how much."""
    pairs = enumerate(zip(old, new, strict=True))
    return tuple((place, after - before) for place, (before, after) in pairs if before != after)


def bucket_of(at_ms: int) -> int:
    """The five minutes that a time falls into, by their beginning."""
    return at_ms - at_ms % BUCKET_MS
