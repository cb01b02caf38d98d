"""A cluster's commands that take two people: what they hold, and what each one does (trustfed.journal.approving).

The steps that the lifecycle takes by policy are no operator's commands. Of a plugged-in CA's rollover, its beginning,
giving it up and passing over a wait take two people; the steps between them only follow, each when its time has come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from ca.lifecycle import AuthorityState, Consumer, Kind, Policy, Status, waiting_for
from trustfed.cluster import authority_commands
from trustfed.cluster.istio_ca import external
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict
from trustfed.journal.approving import Command, decided
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.runtime.clock import Clock


class Holders(Protocol):
    """Who has which authority, and how long what it signed lives (trustfed.cluster.admin_parts.AdminParts)."""

    @property
    def fold(self) -> Fold[ClusterState]: ...

    @property
    def consumers(self) -> Callable[[datetime], Sequence[Consumer]]: ...

    @property
    def lifecycle(self) -> Policy: ...

    @property
    def last_leaf(self) -> Callable[[AuthorityState, datetime], datetime]: ...

    @property
    def clock(self) -> Clock: ...


class AuthorityPreparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prepare a successor of this active authority."""

    kind: str
    replaces: str


class AuthorityActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Activate this prepared authority, whoever has not got it."""

    authority: str
    reason: str


class AuthorityTaint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trust this authority no longer."""

    authority: str
    remove_first: bool


class AuthorityRevocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Take this authority out of the bundle at once."""

    authority: str


class CacertsBegin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Take the twin (DER) of a key that was made elsewhere as an external authority."""

    id: str
    twin: bytes
    leaf_seconds: int
    reason: str


class CacertsConfirmed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pass over the wait for what the mesh's proxies hold."""

    id: str


class CacertsAbandon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Give up an external authority that was never used."""

    id: str
    reason: str


def preparation(state: ClusterState, kind: str) -> AuthorityPreparation:
    """A successor of what is active now. Raises Invalid, Conflict."""
    authority_commands.replace_authority(state, kind)
    active = next(a.id for a in state.authorities.values() if a.kind == kind and a.status is Status.ACTIVE)
    return AuthorityPreparation(kind, active)


def commands(parts: Holders) -> Sequence[Command[ClusterState]]:
    """All of them; `parts` know who has not got an authority yet."""

    def activate(state: ClusterState, body: AuthorityActivation, now: datetime) -> Sequence[TypedEvent]:
        known = state.authorities.get(body.authority)
        missing = missing_for(known, parts, now) if known else ()
        return authority_commands.activate(
            state, body.authority, lambda a: parts.last_leaf(a, now), body.reason, now, missing
        )

    def confirm(state: ClusterState, body: CacertsConfirmed, now: datetime) -> Sequence[TypedEvent]:
        return external.anchored(state, body.id, missing_external(state, parts), True, now)

    return (
        decided(
            "authority.prepare",
            AuthorityPreparation,
            _prepare,
            lambda body: f"prepare a successor of the {body.kind} authority {body.replaces}",
        ),
        decided(
            "authority.activate",
            AuthorityActivation,
            activate,
            lambda body: f"activate authority {body.authority}, whoever has not got it",
        ),
        decided("authority.taint", AuthorityTaint, _taint, _tainted),
        decided(
            "authority.revoke",
            AuthorityRevocation,
            lambda state, body, now: authority_commands.revoke(state, body.authority, now),
            lambda body: f"take authority {body.authority} out of the bundle at once",
        ),
        decided(
            "cacerts.begin",
            CacertsBegin,
            lambda state, body, now: external.prepare(state, body.id, body.twin, body.leaf_seconds, body.reason, now),
            lambda body: f"let istiod sign with the external authority {body.id}",
        ),
        decided(
            "cacerts.confirm",
            CacertsConfirmed,
            confirm,
            lambda body: f"let external authority {body.id} go on without waiting for the proxies",
        ),
        decided(
            "cacerts.abandon",
            CacertsAbandon,
            lambda state, body, now: external.abandon(state, body.id, body.reason, now),
            lambda body: f"give up the external authority {body.id}",
        ),
    )


def missing_for(authority: AuthorityState, parts: Holders, now: datetime) -> tuple[str, ...]:
    """Who holds the activation of a prepared authority back, by name."""
    consumers = list(parts.consumers(now))
    if authority.kind is Kind.X509:
        consumers += authority_commands.waiting_for_root(parts.fold.state)
    return waiting_for(authority, consumers, parts.lifecycle, now)


def missing_external(state: ClusterState, parts: Holders) -> tuple[str, ...]:
    """Who has not got the one that follows; the root's signature plays no part for an external one."""
    now = parts.clock.now()
    following = external.course(state, (), now).following
    if not following:
        return ()
    return waiting_for(state.authorities[following], parts.consumers(now), parts.lifecycle, now)


def _prepare(state: ClusterState, body: AuthorityPreparation, now: datetime) -> Sequence[TypedEvent]:
    if preparation(state, body.kind) != body:
        raise Conflict(f"authority {body.replaces} is not the active one any more", hint="propose it again")
    return authority_commands.replace_authority(state, body.kind)


def _taint(state: ClusterState, body: AuthorityTaint, now: datetime) -> Sequence[TypedEvent]:
    return authority_commands.taint(state, body.authority, body.remove_first, now)


def _tainted(body: AuthorityTaint) -> str:
    first = ", out of the bundle first, also where that breaks" if body.remove_first else ""
    return f"trust authority {body.authority} no longer{first}"
