"""What the hub itself decides at the dashboard: exceptions for a time, and who owns a trust domain. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from trustfed.errors import Conflict, Invalid, NotFound
from trustfed.hub.dashboard.events import ExceptionEnded, ExceptionMade, OwnerChanged
from trustfed.hub.domains import MAX_TEXT, enrolled
from trustfed.hub.state import HubState
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import shown

MAX_LIFE = timedelta(days=30)
MAX_EXCEPTIONS = 200
MAX_SUBJECT = 2_048


def except_(
    state: HubState, exception_id: str, *, domain: str, subject: str, life: timedelta, now: datetime
) -> list[ExceptionMade | ExceptionEnded]:
    """Answer for something until `now + life`; those that are over leave with it. Raises NotFound, Conflict, Invalid."""
    enrolled(state, domain)
    if not timedelta(0) < life <= MAX_LIFE:
        raise Invalid(f"an exception lasts for more than nothing and at most {MAX_LIFE.days} days")
    if len(subject) > MAX_SUBJECT or not (subject.isprintable() or not subject):
        raise Invalid(f"{shown(subject)} is not one line of at most {MAX_SUBJECT} printable characters")
    at = to_ms(now)
    over = [held.id for held in state.dashboard.exceptions.values() if held.until_ms <= at]
    if len(state.dashboard.exceptions) - len(over) >= MAX_EXCEPTIONS:
        raise Conflict(f"{MAX_EXCEPTIONS} exceptions are open", hint="end those that are not needed")
    return [
        *(ExceptionEnded(held) for held in over),
        ExceptionMade(exception_id, domain, subject, to_ms(now + life)),
    ]


def end_exception(state: HubState, exception_id: str) -> list[ExceptionEnded]:
    """End an exception before its time. Raises NotFound."""
    if exception_id not in state.dashboard.exceptions:
        raise NotFound(f"no exception has the id {shown(exception_id)}", hint="it may have ended")
    return [ExceptionEnded(exception_id)]


def change_owner(state: HubState, domain: str, owner: str) -> list[OwnerChanged]:
    """Let somebody else answer for a domain; the same owner again changes nothing. Raises NotFound, Conflict, Invalid."""
    if not 1 <= len(owner) <= MAX_TEXT or not owner.isprintable():
        raise Invalid(f"owner {shown(owner)} is not 1 to {MAX_TEXT} printable characters")
    return [] if enrolled(state, domain).owner == owner else [OwnerChanged(domain, owner)]
