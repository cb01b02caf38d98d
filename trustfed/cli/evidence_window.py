"""The window that commands about evidence take: two moments, at full five minutes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from trustfed.errors import Invalid
from trustfed.runtime.config import duration

MINUTES_5 = timedelta(minutes=5)
Begin = Annotated[
    str, typer.Option("--from", metavar="TIME", help="RFC 3339, or how long ago (30d); down to full 5 minutes.")
]
End = Annotated[str, typer.Option("--to", metavar="TIME", help="The same; default: now.")]


def window(from_: str, to: str) -> dict[str, str | int]:
    """The window as the admin sockets take it: Unix ms at full 5 minutes. Raises Invalid."""
    begin, end = _moment(from_, "--from"), _moment(to, "--to")
    if begin >= end:
        raise Invalid("the window ends before it begins", hint="--from must be earlier than --to, by 5 minutes")
    return {"from": begin, "to": end}


def _moment(text: str, name: str) -> int:
    try:
        wanted = datetime.fromisoformat(text)
    except ValueError:
        try:
            wanted = datetime.now(UTC) - duration(text)
        except Invalid:
            raise Invalid(
                f"{name} {text[:40]!r} is no time", hint="2026-11-01T00:00:00Z, or how long ago: 30d"
            ) from None
    if wanted.tzinfo is None:
        raise Invalid(f"{name} {text[:40]!r} has no time zone", hint="for example 2026-11-01T00:00:00Z")
    return int(wanted.timestamp() // MINUTES_5.total_seconds()) * int(MINUTES_5 / timedelta(milliseconds=1))
