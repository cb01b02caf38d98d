"""What every driver refuses before it touches its store, so that all refuse alike."""

from __future__ import annotations

from collections.abc import Sequence

from trustfed.errors import Conflict, Invalid
from trustfed.journal.events import Event, Fact, canonical, canonical_fact
from trustfed.journal.ports import MAX_APPEND_BYTES, MAX_EVENTS, MAX_FACTS, MAX_READ


def encode_events(events: Sequence[Event]) -> list[bytes]:
    """Canonical bytes of one append; Invalid if it is empty, has over 1,000 events or is over 16 MiB."""
    _check_count("events", len(events), MAX_EVENTS)
    encoded = [canonical(event) for event in events]
    _check_bytes("events", encoded)
    return encoded


def encode_facts(facts: Sequence[Fact]) -> list[bytes]:
    """Canonical bytes of one append; Invalid if it is empty, has over 1,000 facts or is over 16 MiB."""
    _check_count("facts", len(facts), MAX_FACTS)
    encoded = [canonical_fact(fact) for fact in facts]
    _check_bytes("facts", encoded)
    return encoded


def check_window(after: int, limit: int) -> None:
    """Invalid unless `after` is a position or 0 and `limit` is 1 to 1,000."""
    if after < 0:
        raise Invalid(f"positions start at 1; reading after {after} has no meaning")
    if not 1 <= limit <= MAX_READ:
        raise Invalid(f"a read gives 1 to {MAX_READ} records, not {limit}")


def check_trim(before: int) -> None:
    """Invalid unless `before` is a position."""
    if type(before) is not int or before < 1:
        raise Invalid(f"positions start at 1; what is before {str(before)[:40]} cannot leave")


def check_head(head: int, expected: int) -> None:
    """Conflict unless the append goes right behind the head."""
    if head != expected:
        raise Conflict(f"the journal's head is {head}, not {expected}", hint="read what is new and decide again")


def _check_count(what: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise Invalid(f"an append holds 1 to {most} {what}, not {count}")


def _check_bytes(what: str, encoded: list[bytes]) -> None:
    size = sum(map(len, encoded))
    if size > MAX_APPEND_BYTES:
        raise Invalid(f"an append of {what} is {size} bytes long; at most {MAX_APPEND_BYTES} are recorded together")
