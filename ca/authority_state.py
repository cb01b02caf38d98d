"""The words of an authority's life cycle: states, consumers, policy, steps, and what each step changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from trustfed.errors import Conflict, Invalid, NotFound


class Status(StrEnum):
    """Where an authority is in its life; it only ever moves forward."""

    PREPARED = "prepared"
    ACTIVE = "active"
    RETIRING = "retiring"
    REMOVED = "removed"


class Kind(StrEnum):
    """What an authority signs. Each kind has a life cycle of its own."""

    X509 = "x509"
    JWT = "jwt"
    EXTERNAL = "external"  # X.509 too, but signed with elsewhere: the key is not ours, only the twin is in the bundle


SIGNING = (Kind.X509, Kind.JWT)
"""The kinds that we sign with ourselves, so that one of each must always be at hand."""


class Level(NamedTuple):
    """How far a consumer has come: levels are ordered, epoch first."""

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class AuthorityState:
    """One authority as the journal knows it. Keep removed ones: they tell a first authority from a later one."""

    id: str
    kind: Kind
    status: Status
    key_name: str
    not_before: datetime
    not_after: datetime  # of the twin: what the root signs, or does not, changes nothing about it
    twin: bytes = b""
    intermediate: bytes = b""
    first_level: Level | None = None  # the first envelope that carries it; None: in no envelope yet
    activated_at: datetime | None = None
    last_leaf_not_after: datetime | None = None  # the latest end of anything it signed
    replace: bool = False  # an operator asked for a successor (forced rotation): prepared at once, gated as usual
    tainted_at: datetime | None = None
    remove_first: bool = False  # tainted with a key known to be stolen: the twin goes before the successor is out
    reissue_at: datetime | None = None  # when Reissue was carried out for this (tainted) authority
    intermediate_not_after: datetime | None = None  # until when chains to the root hold


@dataclass(frozen=True, slots=True)
class Consumer:
    """Who uses the domain's bundle: an agent, a peer cluster, or a publication that is only polled.

    `level` is what it acknowledged; for a polled publication, the level of the last successful push, at `last_push_at`.
    `live_until` is the NotAfter of its own SVID; None: it has none and always counts.
    """

    name: str
    level: Level | None
    live_until: datetime | None = None
    polls_only: bool = False
    last_push_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """How long things take in one domain. Raises Invalid when a successor could not be ready in time."""

    ca_ttl: timedelta = timedelta(hours=24)
    leaf_ttl_max: timedelta = timedelta(hours=1)  # the longest SVID lifetime of the domain
    margin: timedelta = timedelta(minutes=10)  # beyond leaf_ttl_max before the active authority's end
    refresh_hint: timedelta = timedelta(minutes=5)
    prepare_fraction: float = 0.25  # of an authority's life, after which its successor stands by
    rollover_fraction: float = 0.5  # after which the successor takes over
    removal_margin: timedelta = timedelta(seconds=60)  # clock differences, after the last SVID ended
    taint_ack_wait: timedelta = timedelta(seconds=60)  # how long a taint waits for acknowledgements before Reissue
    reissue_window: timedelta = timedelta(minutes=5)  # jitter window for reissuing; the tainted twin stays that long

    def __post_init__(self) -> None:
        if not 0 < self.prepare_fraction < 1:
            raise Invalid(f"prepare_fraction {self.prepare_fraction} is out of range", hint="between 0 and 1")
        if not self.prepare_fraction < self.rollover_fraction < 1:
            raise Invalid(
                f"rollover_fraction {self.rollover_fraction} is out of range",
                hint=f"between prepare_fraction ({self.prepare_fraction}) and 1",
            )
        durations = (self.leaf_ttl_max, self.margin, self.refresh_hint, self.removal_margin, self.taint_ack_wait)
        if min(*durations, self.reissue_window) < timedelta(0):
            raise Invalid("a duration of the authority policy is negative", hint="use positive durations")
        if self.ca_ttl * (1 - self.rollover_fraction) <= self.leaf_ttl_max + self.margin:
            raise Invalid(
                f"an authority of {self.ca_ttl} leaves no time to hand over SVIDs of {self.leaf_ttl_max}",
                hint="let authorities live at least twice as long as SVIDs plus the margin",
            )

    @property
    def poll_wait(self) -> timedelta:
        """How long after a push every reader that only polls has it: SPIRE polls no faster than every 15 s."""
        return max(2 * self.refresh_hint, timedelta(seconds=120))


@dataclass(frozen=True, slots=True)
class Prepare:
    """Create a key, make the twin, cut an envelope that carries it, ask the root for the intermediate."""

    kind: Kind
    why: str


@dataclass(frozen=True, slots=True)
class Activate:
    """Sign with this authority from now on; `retires` signs no more."""

    authority: str
    kind: Kind
    retires: str | None
    forced: bool
    missing: tuple[str, ...]  # live consumers that have not acknowledged (only when forced)
    why: str


@dataclass(frozen=True, slots=True)
class Retire:
    """It signs no more, but stays in the bundle for what it has signed."""

    authority: str
    why: str


@dataclass(frozen=True, slots=True)
class Reissue:
    """Tell agents to renew everything the tainted authority signed, with jitter, and to drop cached JWTs."""

    authority: str
    missing: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Take it out of the bundle and destroy its key: nothing that it signed is alive."""

    authority: str
    why: str


@dataclass(frozen=True, slots=True)
class RemoveTainted:
    """Take it out of the bundle although what it signed may be alive; `missing` have not seen its successor."""

    authority: str
    missing: tuple[str, ...]
    why: str


Step = Prepare | Activate | Retire | Reissue | Remove | RemoveTainted


def applied(authorities: Sequence[AuthorityState], step: Step, now: datetime) -> tuple[AuthorityState, ...]:
    """The states after `step` (Prepare changes none: it needs a new key). Raises NotFound for an unknown authority.

    Raises Conflict when the step does not fit: only a prepared authority is activated, and nothing comes back.
    """
    if isinstance(step, Prepare):
        return tuple(authorities)
    if all(authority.id != step.authority for authority in authorities):
        raise NotFound(f"authority {step.authority} is not known", hint="trustfed authority list")
    return tuple(_after(authority, step, now) for authority in authorities)


def _after(authority: AuthorityState, step: Step, now: datetime) -> AuthorityState:
    if isinstance(step, Prepare):
        return authority
    if authority.id != step.authority:
        supplanted = isinstance(step, Activate) and authority.kind is step.kind and authority.status is Status.ACTIVE
        return replace(authority, status=Status.RETIRING, replace=False) if supplanted else authority
    if isinstance(step, Activate):
        _fits(authority, step, Status.PREPARED)
        return replace(authority, status=Status.ACTIVE, activated_at=now)
    if isinstance(step, Retire):
        _fits(authority, step, Status.ACTIVE)
        return replace(authority, status=Status.RETIRING, replace=False)
    if isinstance(step, Reissue):
        _fits(authority, step, Status.RETIRING)
        return replace(authority, reissue_at=now)
    _fits(authority, step, Status.PREPARED, Status.ACTIVE, Status.RETIRING)
    return replace(authority, status=Status.REMOVED)


def _fits(authority: AuthorityState, step: Step, *statuses: Status) -> None:
    if authority.status not in statuses:
        verb = type(step).__name__.lower()
        raise Conflict(f"authority {authority.id} is {authority.status}: {verb} does not fit", hint="look again")
