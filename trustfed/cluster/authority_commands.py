"""What operators may ask of authorities, and who holds an activation back. Pure decisions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from ca.lifecycle import AuthorityState, Consumer, Kind, Level, Status
from trustfed.cluster import events as e
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Invalid, NotFound
from trustfed.federation.envelope import MAX_NUMBER
from trustfed.journal.events import TypedEvent

MAX_MISSING = 100
"""Names of consumers that one event keeps; it says how many there were."""
MAX_EPOCHS, MAX_SEQUENCES = 1_000, 1_000_000
"""How far one step follows what readers report: nodes and hub may lie, and the numbers end at MAX_NUMBER."""


def waiting_for_root(state: ClusterState) -> list[Consumer]:
    """A prepared X.509 authority without its intermediate holds activation back like a consumer that has not got it.

    Without one, chains that are anchored at the root break, this cluster's own towards the hub too.
    """
    prepared = [a for a in state.authorities.values() if a.status is Status.PREPARED and uncertified(a)]
    return [Consumer(f"root (intermediate of {authority.id})", None) for authority in prepared]


def replace_authority(state: ClusterState, kind: str) -> list[TypedEvent]:
    """An operator wants a successor of the active authority now: the one that stands by, or a new one, gated as usual."""
    if kind not in ("x509", "jwt"):
        raise Invalid(f"authority kind {kind[:40]!r} is unknown", hint="x509 or jwt")
    active = [a for a in state.authorities.values() if a.kind == kind and a.status is Status.ACTIVE]
    if not active:
        raise Conflict(f"no {kind} authority is active", hint="trustfed authority list")
    if active[0].replace:
        raise Conflict(
            f"a successor of authority {active[0].id} is prepared already", hint="it is activated once all hold it"
        )
    return [e.AuthorityReplaced(active[0].id)]


def taint(state: ClusterState, id_: str, remove_first: bool, now: datetime) -> list[TypedEvent]:
    """The authority's key is not to be trusted any longer: a successor is activated, all it signed is replaced, it goes."""
    authority = _known(state, id_)
    if authority.status is Status.REMOVED:
        raise Conflict(f"authority {id_} has left the bundle already")
    if authority.tainted_at is not None and authority.remove_first >= remove_first:
        return []
    return [e.AuthorityTainted(id_, remove_first, now)]


def revoke(state: ClusterState, id_: str, now: datetime) -> list[TypedEvent]:
    """Taint it and take it out of the bundle at once, whatever breaks: its key is known to be stolen."""
    return taint(state, id_, True, now)


def begin_epoch(state: ClusterState, reported: Level, epoch: int, now: datetime) -> list[TypedEvent]:
    """Number envelopes anew after a restore from a backup: above our own level and the highest that readers reported.

    `epoch` 0 chooses the next; an operator who does not believe what was reported (a hub may lie) names one.
    Raises Conflict when an epoch that was begun is not out yet or what was reported is too far ahead, Invalid for a
    number that no envelope can bear.
    """
    if state.floor > state.level:
        raise Conflict(f"epoch {state.floor.epoch} is being begun already", hint="trustfed cluster status")
    if not epoch and (
        reported.epoch > state.level.epoch + MAX_EPOCHS or reported.sequence > state.level.sequence + MAX_SEQUENCES
    ):
        raise Conflict(
            f"the reported level {reported.epoch}.{reported.sequence} is too far above "
            f"{state.level.epoch}.{state.level.sequence} to be believed",
            hint="name the epoch yourself: the last one you know of, plus one",
        )
    highest = max(state.level, reported) if not epoch else state.level
    chosen = epoch or highest.epoch + 1
    sequence = max(state.level.sequence, reported.sequence if not epoch else 0) + 1
    if not state.level.epoch < chosen <= MAX_NUMBER or sequence > MAX_NUMBER:
        raise Invalid(
            f"epoch {chosen} with sequence {sequence} cannot follow {state.level.epoch}.{state.level.sequence}",
            hint=f"above {state.level.epoch}; name it if the level that was reported cannot be true",
        )
    return [e.EpochBegun(chosen, sequence, now)]


def activate(
    state: ClusterState,
    id_: str,
    last_leaf: Callable[[AuthorityState], datetime],
    why: str,
    now: datetime,
    missing: tuple[str, ...],
) -> list[TypedEvent]:
    """Activate a prepared authority by hand, whoever has not got it; they are named in the journal."""
    authority = _known(state, id_)
    if authority.status is not Status.PREPARED or authority.tainted_at is not None:
        raise Conflict(f"authority {id_} is {authority.status}; only a prepared one can be activated")
    if authority.kind is Kind.EXTERNAL:
        raise Conflict(
            f"authority {id_} is external: it signs elsewhere", hint="trustfed cacerts advance hands it over"
        )
    active = next(
        (a for a in state.authorities.values() if a.kind == authority.kind and a.status is Status.ACTIVE), None
    )
    return [
        e.AuthorityActivated(
            id_,
            str(authority.kind),
            active.id if active else "",
            last_leaf(active) if active else None,
            True,
            missing[:MAX_MISSING],
            why,
            now,
            len(missing),
        )
    ]


def _known(state: ClusterState, id_: str) -> AuthorityState:
    authority = state.authorities.get(id_)
    if authority is None:
        raise NotFound(f"authority {id_[:64]!r} does not exist", hint="trustfed authority list")
    return authority


def wants_root(authority: AuthorityState, now: datetime, enough: timedelta) -> bool:
    """Whether the root is asked for an intermediate: there is none, or it ends before the authority and half `enough`."""
    if uncertified(authority) or authority.intermediate_not_after is None:
        return uncertified(authority)
    end = authority.intermediate_not_after
    signs = authority.status in (Status.PREPARED, Status.ACTIVE)
    return signs and end < authority.not_after and end <= now + enough / 2


def uncertified(authority: AuthorityState) -> bool:
    """Whether the root has yet to sign this authority's intermediate."""
    return authority.kind is Kind.X509 and not authority.intermediate and authority.status is not Status.REMOVED
