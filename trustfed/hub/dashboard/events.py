"""What people decide at the dashboard, as it stands in the hub's journal. No secrets: a login's link is there as a hash.

Times are Unix ms. Who did it, when and why are fields of the journal's own event.
"""

from __future__ import annotations

import msgspec


class LoginLinked(msgspec.Struct, frozen=True):
    """Whoever has this link's secret may open one session with this role, once, until `until_ms`.

    `actor` is who that session will be; it counts as `person`, as whoever made the link does (trustfed.journal.approvals).
    """

    id: str
    actor: str
    person: str
    role: str
    secret_hash: str
    at_ms: int
    until_ms: int


class LoginOpened(msgspec.Struct, frozen=True):
    """A session began: by a link (its id), or by a provider's word."""

    session: str
    role: str
    how: str  # link | oidc
    link: str = ""


class LoginEnded(msgspec.Struct, frozen=True):
    """A session was ended before its time: logged out, thrown out, or its actor came back with another role."""

    session: str
    why: str


class OwnerChanged(msgspec.Struct, frozen=True):
    """A trust domain has another owner."""

    domain: str
    owner: str


class ExceptionMade(msgspec.Struct, frozen=True):
    """Until `until_ms` somebody answers for this: what is excepted still counts as it counts, and is shown beside it."""

    id: str
    domain: str
    subject: str  # what it is about: a SPIFFE ID, a node, a class, or "" for all of the domain
    until_ms: int


class ExceptionEnded(msgspec.Struct, frozen=True):
    """This exception holds no more."""

    id: str


class ActionTaken(msgspec.Struct, frozen=True):
    """The hub itself did something at once that leaves no other trace here: sent again, published again."""

    kind: str
    domain: str


DashboardEvent = LoginLinked | LoginOpened | LoginEnded | OwnerChanged | ExceptionMade | ExceptionEnded | ActionTaken

EVENTS: dict[str, type[msgspec.Struct]] = {
    "login.linked": LoginLinked,
    "login.opened": LoginOpened,
    "login.ended": LoginEnded,
    "domain.owner_changed": OwnerChanged,
    "evidence.exception": ExceptionMade,
    "evidence.exception_ended": ExceptionEnded,
    "action.taken": ActionTaken,
}
