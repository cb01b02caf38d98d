"""When an authority is prepared, activated, retired and removed: a pure function of states, levels, policy and time.

The rules, numbered as in the code (each kind of authority by itself):

1. The first authority of a domain is prepared at once and activated as soon as an envelope carries it.
2. A successor is prepared at a quarter of the active authority's life, and stands by: it is in the bundle, acknowledged, and
   the root has signed it, long before it is needed. It takes over at half that life. Then it is a quarter old itself, so
   the next one is prepared at the moment of every activation. At once when an operator asks or the key is tainted.
3. It is activated when every live consumer has acknowledged the envelope that carries it. A consumer whose own SVID has
   ended does not block. A publication that is only polled has it the longer of twice the
   refresh hint and 2 minutes after the last push.
4. At the last safe moment (the longest SVID lifetime and a margin before the active one ends), when the active one is
   tainted, or when none is left to sign, it is activated all the same, and the step names who was missing.
5. An authority that has ended, or that a newer one replaced, retires.
6. A retired one leaves the bundle after the last SVID it signed has ended; one that was never used, when it ends.
7. Taint: successor active → its envelope out (or the wait is over) → reissue → after that window the twin leaves.
   With `remove_first` the twin leaves at once, whatever breaks.
8. An external authority has no successor here: who holds its key hands over (trustfed.cluster.istio_ca). It leaves by 5, 6
   and, told so, 7; tainted without `remove_first` it stays until its leaves have ended, for nobody here can replace those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from ca.authority_state import (
    SIGNING,
    Activate,
    AuthorityState,
    Consumer,
    Kind,
    Level,
    Policy,
    Prepare,
    Reissue,
    Remove,
    RemoveTainted,
    Retire,
    Status,
    Step,
    applied,
)

__all__ = [
    "SIGNING",
    "Activate",
    "AuthorityState",
    "Consumer",
    "Kind",
    "Level",
    "Policy",
    "Prepare",
    "Reissue",
    "Remove",
    "RemoveTainted",
    "Retire",
    "Status",
    "Step",
    "applied",
    "bundled",
    "due",
    "last_safe_moment",
    "next_due",
    "rollover_at",
    "signer",
    "waiting_for",
]


def due(
    authorities: Sequence[AuthorityState], consumers: Sequence[Consumer], policy: Policy, now: datetime
) -> list[Step]:
    """What must be done now, in order. Carry out each step, cut an envelope where the bundle changed, and ask again."""
    steps: list[Step] = []
    for kind in Kind:
        own = [authority for authority in authorities if authority.kind is kind]
        for authority in own:
            if step := _departure(authority, own, consumers, policy, now):
                steps.append(step)
        if kind in SIGNING:
            steps.extend(_succession(kind, own, consumers, policy, now))
    return steps


def next_due(
    authorities: Sequence[AuthorityState], consumers: Sequence[Consumer], policy: Policy, now: datetime
) -> datetime | None:
    """The next instant at which `due` can answer differently though nothing else changed; None: never.

    It may be earlier than the next step, never later.
    """
    moments = [moment for authority in authorities for moment in _moments(authority, policy)]
    if any(a.status is Status.PREPARED or a.tainted_at for a in authorities if a.status is not Status.REMOVED):
        for consumer in consumers:
            if consumer.live_until is not None:
                moments.append(consumer.live_until)
            if consumer.last_push_at is not None:
                moments.append(consumer.last_push_at + policy.poll_wait)
    return min((moment for moment in moments if moment > now), default=None)


def signer(authorities: Sequence[AuthorityState], kind: Kind, now: datetime) -> AuthorityState | None:
    """The one authority that may sign now: active, not tainted, within its validity."""
    able = [
        authority
        for authority in authorities
        if authority.kind is kind
        and authority.status is Status.ACTIVE
        and authority.tainted_at is None
        and authority.not_before <= now < authority.not_after
    ]
    return max(able, key=_activation, default=None)


def bundled(authorities: Sequence[AuthorityState], kind: Kind) -> list[AuthorityState]:
    """The authorities that the domain's bundle carries, oldest first: a function of the states, not of the time."""
    carried = [a for a in authorities if a.kind is kind and a.status is not Status.REMOVED]
    return sorted(carried, key=lambda a: (a.not_before, a.id))


def rollover_at(authority: AuthorityState, policy: Policy) -> datetime:
    """When its successor's turn comes (rule 2)."""
    return authority.not_before + (authority.not_after - authority.not_before) * policy.rollover_fraction


def last_safe_moment(authority: AuthorityState, policy: Policy) -> datetime:
    """When a successor must sign, lest an SVID of full length outlive `authority` (rule 4).

    An authority that lives too short for the policy hands over midway between its successor's turn and its end.
    """
    safe = authority.not_after - policy.leaf_ttl_max - policy.margin
    turn = rollover_at(authority, policy)
    return safe if safe > turn else turn + (authority.not_after - turn) / 2


def waiting_for(
    authority: AuthorityState, consumers: Sequence[Consumer], policy: Policy, now: datetime
) -> tuple[str, ...]:
    """The live consumers, by name, that have not acknowledged the envelope that carries `authority` (rule 3)."""
    return tuple(sorted(c.name for c in consumers if _alive(c, now) and not _has(c, authority, policy, now)))


def _alive(consumer: Consumer, now: datetime) -> bool:
    return consumer.live_until is None or now < consumer.live_until


def _has(consumer: Consumer, authority: AuthorityState, policy: Policy, now: datetime) -> bool:
    if authority.first_level is None or consumer.level is None or consumer.level < authority.first_level:
        return False
    if not consumer.polls_only:
        return True
    return consumer.last_push_at is not None and now >= consumer.last_push_at + policy.poll_wait


def _succession(
    kind: Kind, own: Sequence[AuthorityState], consumers: Sequence[Consumer], policy: Policy, now: datetime
) -> Iterator[Step]:
    acting = sorted((a for a in own if a.status is Status.ACTIVE), key=_activation)
    active = acting[-1] if acting else None
    for authority in (a for a in acting[:-1] if not _leaves_first(a)):  # 5
        yield Retire(authority.id, "a newer authority is active")
    if active is not None and now >= active.not_after and not _leaves_first(active):  # 5
        yield Retire(active.id, "it has ended")
    why = _successor_wanted(active, own, policy, now)  # 1, 2
    usable = [a for a in own if a.status is Status.PREPARED and a.tainted_at is None and now < a.not_after]
    if not usable and (why or _standby_wanted(active, policy, now)):
        yield Prepare(kind, why or _standby_wanted(active, policy, now))
    if not why or not usable:
        return
    ready = [a for a in usable if a.first_level is not None and a.not_before <= now]
    if not ready:
        return
    candidate = max(ready, key=lambda a: (a.not_after, a.id))
    missing = waiting_for(candidate, consumers, policy, now)
    retires = active.id if active is not None else None
    if all(a.activated_at is None for a in own):  # 1
        yield Activate(candidate.id, kind, None, False, (), why)
    elif not missing:  # 3
        yield Activate(candidate.id, kind, retires, False, (), f"{why}; every live consumer has acknowledged it")
    elif reason := _override(active, policy, now):  # 4
        yield Activate(candidate.id, kind, retires, True, missing, f"{why}; {reason}")


def _successor_wanted(
    active: AuthorityState | None, own: Sequence[AuthorityState], policy: Policy, now: datetime
) -> str:
    """Why a successor is wanted, or ""."""
    if active is None:
        return "no authority is active" if any(a.activated_at for a in own) else "first authority of the domain"
    if active.tainted_at is not None:
        return f"authority {active.id} is tainted"
    if active.replace:
        return f"an operator asked to replace authority {active.id}"
    return f"authority {active.id} is past half its life" if now >= rollover_at(active, policy) else ""


def _standby_wanted(active: AuthorityState | None, policy: Policy, now: datetime) -> str:
    """Why a successor is to stand by, or ""."""
    if active is None or now < _prepare_at(active, policy):
        return ""
    return f"stands by for authority {active.id}"


def _override(active: AuthorityState | None, policy: Policy, now: datetime) -> str:
    """Why activation does not wait for acknowledgements, or ""."""
    if active is None or now >= active.not_after:
        return "none is left to sign"
    if active.tainted_at is not None:
        return "a tainted key is not waited on"
    return "the last safe moment has come" if now >= last_safe_moment(active, policy) else ""


def _departure(
    authority: AuthorityState,
    own: Sequence[AuthorityState],
    consumers: Sequence[Consumer],
    policy: Policy,
    now: datetime,
) -> Step | None:
    if authority.status is Status.REMOVED:
        return None
    if _leaves_first(authority):  # 7
        return RemoveTainted(authority.id, (), "its key is known to be stolen")
    if authority.status is Status.PREPARED:  # 6
        if authority.tainted_at is not None:
            return Remove(authority.id, "tainted before it signed anything")
        return Remove(authority.id, "it ended unused") if now >= authority.not_after else None
    if authority.kind is Kind.EXTERNAL and authority.status is Status.ACTIVE and now >= authority.not_after:  # 8
        return Retire(authority.id, "it has ended")
    if authority.status is not Status.RETIRING:
        return None
    if now >= _gone_at(authority, policy):  # 6
        return Remove(authority.id, "the last SVID it signed has ended")
    believed = authority.tainted_at is None or authority.kind is Kind.EXTERNAL  # 8
    return None if believed else _taint(authority, own, consumers, policy, now)


def _leaves_first(authority: AuthorityState) -> bool:
    """Whether it goes without retiring (rule 7): one authority never takes two steps at once."""
    return authority.tainted_at is not None and authority.remove_first


def _taint(
    authority: AuthorityState,
    own: Sequence[AuthorityState],
    consumers: Sequence[Consumer],
    policy: Policy,
    now: datetime,
) -> Step | None:
    """Rule 7 for a retired authority."""
    successor = signer(own, authority.kind, now)
    if authority.tainted_at is None or successor is None:
        return None
    missing = waiting_for(successor, consumers, policy, now)
    if authority.reissue_at is None:
        begun = max(authority.tainted_at, _activation(successor))
        if missing and now < begun + policy.taint_ack_wait:
            return None
        return Reissue(authority.id, missing, f"authority {successor.id} has taken over")
    if now < authority.reissue_at + policy.reissue_window:
        return None
    return RemoveTainted(authority.id, missing, "the time to reissue is over")


def _activation(authority: AuthorityState) -> datetime:
    return authority.activated_at or authority.not_before


def _prepare_at(authority: AuthorityState, policy: Policy) -> datetime:
    return authority.not_before + (authority.not_after - authority.not_before) * policy.prepare_fraction


def _gone_at(authority: AuthorityState, policy: Policy) -> datetime:
    """When nothing that it signed is alive. Nothing lives longer than the authority, known or not."""
    end = authority.last_leaf_not_after or authority.not_after
    return min(end, authority.not_after) + policy.removal_margin


def _moments(authority: AuthorityState, policy: Policy) -> Iterator[datetime]:
    """Every instant at which a rule about this authority turns."""
    if authority.status is Status.REMOVED:
        return
    yield authority.not_before
    yield authority.not_after
    yield _prepare_at(authority, policy)
    yield rollover_at(authority, policy)
    yield last_safe_moment(authority, policy)
    yield _gone_at(authority, policy)
    waits: tuple[tuple[datetime | None, timedelta], ...] = (
        (authority.tainted_at, policy.taint_ack_wait),
        (authority.activated_at, policy.taint_ack_wait),
        (authority.reissue_at, policy.reissue_window),
    )
    for begun, wait in waits:
        if begun is not None:
            yield begun + wait
