"""Unix milliseconds on the wire, aware UTC datetimes in the code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from trustfed.errors import Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 253_402_300_799_000  # 9999-12-31T23:59:59Z


def to_ms(moment: datetime) -> int:
    """Whole milliseconds since 1970, rounded down."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def from_ms(milliseconds: int) -> datetime:
    """The moment, UTC. Raises Invalid outside 1970 to 9999."""
    if not 0 <= milliseconds <= _LATEST:
        raise Invalid(f"{milliseconds} is not a time in Unix milliseconds")
    return _EPOCH + timedelta(milliseconds=milliseconds)
