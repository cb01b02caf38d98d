"""What the dashboard's decisions add up to, in the hub's state: links that still open, and exceptions. Pure."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from trustfed.hub.dashboard import events as e
from trustfed.journal.table import Table


class LoginLink(msgspec.Struct, frozen=True):
    """A link that nobody has opened."""

    id: str
    actor: str
    person: str
    role: str
    secret_hash: str
    until_ms: int


class ExceptionHeld(msgspec.Struct, frozen=True):
    """One exception; `position` of the event that made it leads to who and why."""

    id: str
    domain: str
    subject: str
    until_ms: int
    position: int


class DashboardState(msgspec.Struct, frozen=True):
    """What people decided at the dashboard, and what is left of it."""

    links: Table[LoginLink] = Table()
    exceptions: Table[ExceptionHeld] = Table()


def apply(state: DashboardState, event: e.DashboardEvent, position: int) -> DashboardState:
    """The state after one more event; that of an owner is the domain's (trustfed.hub.state)."""
    match event:
        case e.LoginLinked():
            links = state.links
            for over in [held.id for held in links.values() if held.until_ms <= event.at_ms]:
                links = links.drop(over)
            made = LoginLink(event.id, event.actor, event.person, event.role, event.secret_hash, event.until_ms)
            return replace(state, links=links.put(event.id, made))
        case e.LoginOpened():
            return replace(state, links=state.links.drop(event.link)) if event.link else state
        case e.ExceptionMade():
            held = ExceptionHeld(event.id, event.domain, event.subject, event.until_ms, position)
            return replace(state, exceptions=state.exceptions.put(event.id, held))
        case e.ExceptionEnded():
            return replace(state, exceptions=state.exceptions.drop(event.id))
        case _:
            return state
