"""What the fleet is shown as: the rows of views, without any behaviour. Times are Unix ms; 0 is never."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from trustfed.evidence.standing import Alarm, Ending, Expiry

T = TypeVar("T")
Counts = dict[str, int]
"""By the names of trustfed.evidence.model.COUNTS."""


class Of(msgspec.Struct, Generic[T], frozen=True):
    """Something that one trust domain says, and as of when. `source` is "cluster" or "hub"."""

    trust_domain: str
    what: T
    as_of_ms: int
    source: str = "cluster"


class Age(msgspec.Struct, frozen=True):
    """How old the news of a domain is: live, stale (connected, and silent), away (not connected) or never heard."""

    state: str
    as_of_ms: int
    age_ms: int | None


class Failure(msgspec.Struct, frozen=True, gc=False):
    """An obligation that failed; with outcome "" it is no failure any more."""

    id: str
    class_: str
    spiffe_id: str
    instance: str
    slot: str
    predecessor: str
    outcome: str
    why: str
    on_time_ms: int
    hard_ms: int
    ended_ms: int


class FailedPage(msgspec.Struct, frozen=True):
    """One page of failed obligations, newest first; `summarised` counts the older ones that the hub gave up."""

    rows: list[Of[Failure]]
    page: int
    pages: int
    total: int
    summarised: dict[str, int]


class Figure(msgspec.Struct, frozen=True):
    """Rotation success of one class over one window.

    `headline` is ON_TIME ÷ (due - EXCUSED - SUPERSEDED - UNUSED), None where nothing was due, where the class has few
    rotations (each is listed instead), or while coverage is below its floor; `why` says which.
    """

    trust_domain: str
    class_: str
    from_ms: int
    to_ms: int
    counts: Counts
    headline: float | None
    with_unused: float | None  # UNUSED counted as failed
    low: float | None  # 95 % Clopper-Pearson
    high: float | None
    by_level: dict[str, float]
    attempts: float | None  # (tries - refused) ÷ tries: the raw ratio, which misleads alone
    retries: float | None  # tries beyond the first, per obligation
    coverage: float
    few: bool
    withheld: bool
    why: str


class DomainRow(msgspec.Struct, frozen=True):
    """One trust domain in one line. `severity` is 0 (look now) to 5 (well); `withheld` are the classes without a figure."""

    trust_domain: str
    owner: str
    simulated: bool
    connected: bool
    age: Age
    software: str
    nodes: int
    nodes_live: int
    entries: int
    identities: int
    open_obligations: int
    overdue: int
    coverage: float
    failed: int
    worst: float | None
    withheld: tuple[str, ...]
    pages: int
    tickets: int
    severity: int
    says: str


class HeatRow(msgspec.Struct, frozen=True):
    """A domain and its figures, in the order of trustfed.evidence.model.Class."""

    row: DomainRow
    cells: tuple[Figure, ...]


class Runway(msgspec.Struct, frozen=True):
    """What ends in the hours to come, and the worst of what has no successor in use."""

    hours: list[Expiry]
    endings: list[Of[Ending]]
    endings_count: int


class Drift(msgspec.Struct, frozen=True):
    """How far a consumer is behind what a publisher has published. `behind` is in sequences; -1 for an earlier epoch.

    With `ahead` it says to hold what was never published.
    """

    consumer: str
    publisher: str
    node: str
    epoch: int
    sequence: int
    newest_epoch: int
    newest_sequence: int
    behind: int
    age_ms: int
    hint_ms: int
    overdue: bool
    as_of_ms: int
    ahead: bool = False


class Totals(msgspec.Struct, frozen=True):
    """The whole fleet; its figures stand beside those of each domain, never instead of them."""

    domains: int
    connected: int
    stale: int
    away: int
    never: int
    simulated: int
    nodes: int
    nodes_live: int
    entries: int
    identities: int
    open_obligations: int
    overdue: int
    failed: int
    pages: int
    tickets: int
    figures: dict[str, Figure]


class Hit(msgspec.Struct, frozen=True):
    """Something that a search found at the hub itself. `kind` is domain, spiffe_id or serial."""

    kind: str
    text: str
    trust_domain: str
    where: str


class Change(msgspec.Struct, frozen=True):
    """What has changed since the last one: coarse kinds, and whose (empty: of many)."""

    version: int
    kinds: frozenset[str]
    domains: frozenset[str]


Raised = Of[Alarm]
