"""The rule of two people: who may let a command on a CA happen. Pure; hub and clusters fold the same events.

    made = propose(held, Wanted(id, "authority.taint", {...}, reason), actor, life, now)     # proposal.made
    approved = approve(held, id, another_actor, now)       # proposal.approved, recorded in one append with the effect
    broken = break_glass(Wanted(...), actor, now)          # glass.broken, in one append with the effect: one person

1. A proposal names the command and its whole body, whose SHA-256 (over RFC 8785 bytes) each later event repeats: what
   is approved is what was proposed, and nothing else.  2. It can be approved until it expires.  3. By another person.
4. Once.

What (3) knows: an actor is an identity (a uid at the admin socket, a token, a login), and `person` is the one that it
counts as. What somebody makes counts as its maker: a token or a login link made by uid:1001 is uid:1001, whatever name
it bears, and so is what is made with that token; so neither a maker and what it made nor two things of one maker are two
people. An identity whose maker is not on record is nobody in particular: it does not propose, approve or break the glass.
An account of an identity provider counts as the uid that the configuration binds it to, and as itself without that.
What it cannot know: that two uids, or two subjects of an identity provider, or a uid and a subject that is bound to none
(the audit trail marks those) are two human beings. Who is root on the machine can be every uid, and who holds a second
person's credential is that person.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.journal.jcs import encode
from trustfed.journal.table import Table
from trustfed.runtime.timestamps import to_ms

MAX_OPEN, MAX_OPEN_EACH = 100, 20
"""Open proposals at all, and of one person: nobody can keep the others from proposing."""
MAX_CLOSED = 100
"""Of those that ended, and of broken glasses, so many stay in the state; the journal has them all."""
MAX_REFUSALS = 8
"""Refused approvals of one proposal that are recorded; a flood of them fills no journal."""
MAX_BODY, MAX_REASON, LEAST_GLASS_REASON = 16 << 10, 1_024, 10
LIFE = timedelta(hours=1)


@dataclass(frozen=True)
class ApprovalsConfig:
    """How long a proposal waits for another person. There is no way to do without one."""

    expiry: timedelta = LIFE

    def __post_init__(self) -> None:
        if not timedelta(minutes=1) <= self.expiry <= timedelta(hours=24):
            raise Invalid(f"[approvals] expiry of {self.expiry} is out of range", hint="from 1m to 24h")


class Actor(msgspec.Struct, frozen=True):
    """Who acts: the identity that the journal names, and the person that it counts as ("" is not known)."""

    id: str
    person: str


class Wanted(msgspec.Struct, frozen=True):
    """A command as it is asked for; `body` is JSON of str, int, bool, None, list and dict."""

    id: str
    command: str
    body: dict[str, Any]
    reason: str


class ProposalMade(msgspec.Struct, frozen=True):
    """Somebody wants this done; it waits for another person until `expires_ms`."""

    id: str
    command: str
    body: dict[str, Any]
    body_hash: str
    by: str
    person: str
    reason: str
    at_ms: int
    expires_ms: int


class ProposalApproved(msgspec.Struct, frozen=True):
    """Another person agreed; what was decided stands in the events beside this one, of the same command id.

    `proposed_by` and `proposer` are the identity and the person that wanted it ("": made before that was kept).
    """

    id: str
    command: str
    body_hash: str
    by: str
    person: str
    at_ms: int
    proposed_by: str = ""
    proposer: str = ""


class ProposalWithdrawn(msgspec.Struct, frozen=True):
    """It is not to happen any more: its proposer's word, or another's no."""

    id: str
    command: str
    by: str
    reason: str
    at_ms: int


class ProposalRefused(msgspec.Struct, frozen=True):
    """An approval that was tried and did not count: not another person, too late, or the state is not what it was."""

    id: str
    command: str
    by: str
    why: str
    at_ms: int


class GlassBroken(msgspec.Struct, frozen=True):
    """One person did alone what takes two; what was done stands in the events beside this one."""

    id: str
    command: str
    body: dict[str, Any]
    body_hash: str
    by: str
    person: str
    reason: str
    at_ms: int


ApprovalEvent = ProposalMade | ProposalApproved | ProposalWithdrawn | ProposalRefused | GlassBroken

EVENTS: dict[str, type[msgspec.Struct]] = {
    "proposal.made": ProposalMade,
    "proposal.approved": ProposalApproved,
    "proposal.withdrawn": ProposalWithdrawn,
    "proposal.refused": ProposalRefused,
    "glass.broken": GlassBroken,
}


class Proposal(msgspec.Struct, frozen=True):
    """One proposal, or one broken glass. `status`: open, approved, withdrawn, expired or broken; times are Unix ms."""

    id: str
    command: str
    body: dict[str, Any]
    body_hash: str
    proposed_by: str
    person: str
    reason: str
    at_ms: int
    expires_ms: int
    status: str = "open"
    decided_by: str = ""
    decided_ms: int = 0
    decided_reason: str = ""
    refusals: int = 0

    def status_at(self, now: datetime) -> str:
        """The status at a moment: what is open in the journal may have expired."""
        return "expired" if self.status == "open" and self.expires_ms <= to_ms(now) else self.status


Proposals = Table[Proposal]


def hash_of(body: dict[str, Any]) -> str:
    """SHA-256 over the canonical bytes of a body. Raises Invalid for what has no canonical form, or is too long."""
    data = encode(body, body, "the command's body")
    if len(data) > MAX_BODY:
        raise Invalid(f"the command's body is {len(data)} bytes long; at most {MAX_BODY} are proposed")
    return "sha256:" + hashlib.sha256(data).hexdigest()


def id_of(actor: str, command_id: str) -> str:
    """The proposal's id: a command that is sent again under the same id is the same proposal."""
    return hashlib.sha256(f"{actor}\n{command_id}".encode()).hexdigest()[:16]


def same(held: Proposals, wanted: Wanted, actor: Actor, now: datetime) -> Proposal | None:
    """The proposal that this one repeats: same id, or the same person wants the same thing and it is open.

    Raises Conflict when the id stands for something else, or another person has proposed just this.
    """
    body_hash, earlier = hash_of(wanted.body), held.get(wanted.id)
    if earlier is not None:
        if (earlier.command, earlier.body_hash) != (wanted.command, body_hash):
            raise Conflict("this command id was used for another command", hint="choose a new Command-Id")
        return earlier
    for known in open_ones(held, now):
        if (known.command, known.body_hash) == (wanted.command, body_hash):
            if actor.person and known.person == actor.person:
                return known
            raise Conflict(
                f"{known.proposed_by} has proposed this already as {known.id}",
                hint=f"trustfed approval approve {known.id}",
            )
    return None


def propose(held: Proposals, wanted: Wanted, actor: Actor, life: timedelta, now: datetime) -> list[ApprovalEvent]:
    """Propose a command; nothing is recorded when it only repeats what is open. Raises Denied, Conflict, Invalid."""
    _named(actor, "propose")
    if same(held, wanted, actor, now) is not None:
        return []
    pending = open_ones(held, now)
    if len(pending) >= MAX_OPEN or sum(one.person == actor.person for one in pending) >= MAX_OPEN_EACH:
        raise Conflict(
            f"{len(pending)} proposals are open, and no more are taken from {actor.id}",
            hint="trustfed approval list; approve or withdraw some",
        )
    return [
        ProposalMade(
            id=wanted.id,
            command=wanted.command,
            body=wanted.body,
            body_hash=hash_of(wanted.body),
            by=actor.id,
            person=actor.person,
            reason=_reason(wanted.reason),
            at_ms=to_ms(now),
            expires_ms=to_ms(now + life),
        )
    ]


def approve(held: Proposals, id_: str, actor: Actor, now: datetime, body_hash: str = "") -> ProposalApproved:
    """Let a proposal happen as another person; the caller records the effect in the same append.

    `body_hash`: what the approver has looked at, if it says so. Raises NotFound, Conflict (ended, expired, something
    else), Denied (the same person).
    """
    found = known(held, id_)
    _still_open(found, now)  # 2, 4
    if body_hash not in ("", found.body_hash) or hash_of(found.body) != found.body_hash:  # 1
        raise Conflict(f"proposal {id_} is not what was looked at", hint=f"trustfed approval show {id_}")
    _named(actor, "approve")  # 3
    if actor.person == found.person:
        raise Denied(
            f"{actor.id} cannot approve what {found.proposed_by} proposed: both are {found.person}",
            hint="another person approves it; --break-glass does it alone, and alarms",
        )
    who = (actor.id, actor.person, to_ms(now), found.proposed_by, found.person)
    return ProposalApproved(found.id, found.command, found.body_hash, *who)


def withdraw(held: Proposals, id_: str, actor: Actor, reason: str, now: datetime) -> list[ApprovalEvent]:
    """End a proposal before it happens, as its proposer or as one who says no. Raises NotFound, Conflict."""
    found = known(held, id_)
    if found.status == "withdrawn":
        return []
    _still_open(found, now)
    return [ProposalWithdrawn(found.id, found.command, actor.id, _reason(reason), to_ms(now))]


def refuse(held: Proposals, id_: str, actor: Actor, why: str, now: datetime) -> list[ApprovalEvent]:
    """Put a refused approval on record; nothing when there are enough of them, or no such proposal."""
    found = held.get(id_)
    if found is None or found.refusals >= MAX_REFUSALS:
        return []
    return [ProposalRefused(found.id, found.command, actor.id, why[:MAX_REASON], to_ms(now))]


def break_glass(wanted: Wanted, actor: Actor, now: datetime) -> GlassBroken:
    """Do it alone, at once; the caller records the effect in the same append, and alarms. Raises Invalid, Denied.

    The glass, too, is broken by somebody: an alarm that names nobody answers for nothing.
    """
    _named(actor, "break the glass for")
    reason = _reason(wanted.reason).strip()
    if len(reason) < LEAST_GLASS_REASON:
        raise Invalid(
            f"to do alone what takes two needs a reason of at least {LEAST_GLASS_REASON} characters",
            hint='--break-glass --reason "the key is stolen and nobody else is awake"',
        )
    return GlassBroken(
        wanted.id, wanted.command, wanted.body, hash_of(wanted.body), actor.id, actor.person, reason, to_ms(now)
    )


def known(held: Proposals, id_: str) -> Proposal:
    """The proposal with this id, or NotFound."""
    found = held.get(id_)
    if found is None:
        raise NotFound(f"no proposal has the id {id_[:40]!r}", hint="trustfed approval list")
    return found


def open_ones(held: Proposals, now: datetime) -> list[Proposal]:
    """What waits for another person, oldest first."""
    waiting = [one for one in held.values() if one.status_at(now) == "open"]
    return sorted(waiting, key=lambda one: (one.at_ms, one.id))


def apply(held: Proposals, event: ApprovalEvent) -> Proposals:
    """The proposals after one more event: bounded, whatever comes."""
    match event:
        case ProposalMade():
            held = _expire(held, event.at_ms)
            row = Proposal(
                event.id,
                event.command,
                event.body,
                event.body_hash,
                event.by,
                event.person,
                event.reason,
                event.at_ms,
                event.expires_ms,
            )
        case GlassBroken():
            row = Proposal(
                event.id,
                event.command,
                event.body,
                event.body_hash,
                event.by,
                event.person,
                event.reason,
                event.at_ms,
                event.at_ms,
                "broken",
                event.by,
                event.at_ms,
                event.reason,
            )
        case _:
            row = _ended(held.get(event.id), event)
    return _kept(held.put(row.id, row))


def _ended(row: Proposal | None, event: ProposalApproved | ProposalWithdrawn | ProposalRefused) -> Proposal:
    if row is None:  # one that left the state long ago: nothing rests on it
        row = Proposal(event.id, event.command, {}, "", "", "", "", event.at_ms, event.at_ms, "expired")
    match event:
        case ProposalApproved():
            return replace(row, status="approved", decided_by=event.by, decided_ms=event.at_ms)
        case ProposalWithdrawn():
            return replace(
                row, status="withdrawn", decided_by=event.by, decided_ms=event.at_ms, decided_reason=event.reason
            )
        case ProposalRefused():
            return replace(row, refusals=row.refusals + 1)


def _expire(held: Proposals, at_ms: int) -> Proposals:
    for row in list(held.values()):
        if row.status == "open" and row.expires_ms <= at_ms:
            held = held.put(row.id, replace(row, status="expired", decided_ms=row.expires_ms))
    return held


def _kept(held: Proposals) -> Proposals:
    """Without the oldest of those that ended; broken glasses are counted apart, so that nothing else pushes them out."""
    for broken in (False, True):
        ended = [row for row in held.values() if row.status != "open" and (row.status == "broken") is broken]
        for row in sorted(ended, key=lambda one: (one.decided_ms, one.id))[: max(len(ended) - MAX_CLOSED, 0)]:
            held = held.drop(row.id)
    return held


def _still_open(found: Proposal, now: datetime) -> None:
    status = found.status_at(now)
    if status == "expired":
        raise Conflict(f"proposal {found.id} has expired", hint="propose it again")
    if status != "open":
        raise Conflict(f"proposal {found.id} is {status} already, by {found.decided_by}", hint="trustfed approval list")


def _named(actor: Actor, what: str) -> None:
    if not actor.person:
        raise Denied(
            f"{actor.id} cannot {what} this: whose identity it is is not on record",
            hint="use an account of this machine, or a token that is made now: trustfed token create",
        )


def _reason(reason: str) -> str:
    if len(reason) > MAX_REASON or not (reason.isprintable() or not reason):
        raise Invalid(f"a reason is one line of at most {MAX_REASON} characters", hint="--reason TEXT")
    return reason
