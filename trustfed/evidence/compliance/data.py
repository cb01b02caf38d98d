"""What a report is made of: gathered once by a process, judged and rendered anywhere. Times are Unix ms; 0 is never.

It carries what an auditor asks of any report that a system produces (SOX: information produced by the entity): its source, the
version of its logic, its parameters, how many rows were read, who ran it and when, and the checkpoint that its rows stand under.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

MAX_LISTED = 10_000
_LAST_MS = 253_402_300_799_000  # 9999-12-31: what datetime can say


class Figure(msgspec.Struct, frozen=True):
    """Rotation success of one class in one trust domain; `headline` is None where it is withheld, few, or nothing was due.

    `counts` are in the words of trustfed.evidence.model.COUNTS; from a cluster with "recreated" beside (rule 13).
    """

    trust_domain: str
    class_: str
    counts: dict[str, int]
    headline: float | None
    low: float | None
    high: float | None
    with_unused: float | None
    coverage: float
    why: str = ""


class Failure(msgspec.Struct, frozen=True):
    """One obligation that failed."""

    trust_domain: str
    class_: str
    spiffe_id: str
    instance: str
    predecessor: str
    outcome: str
    why: str
    on_time_ms: int


class Rotation(msgspec.Struct, frozen=True):
    """One of the few: an authority, a token key or a bundle, listed by itself."""

    trust_domain: str
    class_: str
    predecessor: str
    successor: str
    outcome: str
    at_ms: int
    why: str = ""


class Asset(msgspec.Struct, frozen=True):
    """One key or certificate in use."""

    trust_domain: str
    purpose: str  # as trustfed.evidence.standing.Algorithm.purpose
    name: str  # SPIFFE ID, authority id or key name
    serial: str
    sha256: str  # over the DER; "" where nothing is signed
    issuer: str
    algorithm: str
    strength: int
    quantum_safe: bool
    not_before_ms: int
    not_after_ms: int
    custodian: str
    owner: str
    state: str = "active"


class Change(msgspec.Struct, frozen=True):
    """One decision about a CA, a key, or who may do what."""

    trust_domain: str
    position: int
    at_ms: int
    kind: str
    actor: str
    approved_by: str
    reason: str
    broken_glass: bool = False


class Access(msgspec.Struct, frozen=True):
    """Somebody who may read or decide."""

    name: str
    role: str
    via: str
    until_ms: int


class Anchor(msgspec.Struct, frozen=True):
    """A bundle that is trusted: which one, and that its domain signed it."""

    importer: str
    trust_domain: str
    epoch: int
    sequence: int
    sha256: str
    approved_by: str


class Endpoint(msgspec.Struct, frozen=True):
    """A door: protocol, what it is for, and where it is."""

    place: str
    protocol: str
    versions: str
    ciphers: str
    purpose: str


class Uptime(msgspec.Struct, frozen=True):
    """How much of the window a probe was answered; unknown counts as down."""

    trust_domain: str
    probe: str
    up_share: float
    unknown_ms: int


class Deviation(msgspec.Struct, frozen=True):
    """A deviation that somebody accepted for a time."""

    trust_domain: str
    subject: str
    reason: str
    approved_by: str
    until_ms: int


class Proof(msgspec.Struct, frozen=True):
    """The logs under it: a checkpoint that whoever holds a pack can verify."""

    origin: str
    size: int
    root: str
    at_ms: int
    cosigned_by: tuple[str, ...] = ()
    first_kept_ms: int = 0
    problem: str = ""


class Report(msgspec.Struct, frozen=True):
    """Everything, as of `as_of_ms`."""

    scope: tuple[str, ...]
    from_ms: int
    to_ms: int
    as_of_ms: int
    ran_by: str
    source: str
    software: str
    definition: str
    definition_version: int
    parameters: dict[str, str]
    rows: dict[str, int]
    figures: tuple[Figure, ...] = ()
    failures: tuple[Failure, ...] = ()
    rotations: tuple[Rotation, ...] = ()
    assets: tuple[Asset, ...] = ()
    changes: tuple[Change, ...] = ()
    accesses: tuple[Access, ...] = ()
    anchors: tuple[Anchor, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    uptimes: tuple[Uptime, ...] = ()
    exceptions: tuple[Deviation, ...] = ()
    proofs: tuple[Proof, ...] = ()
    unknown: int = 0
    simulated: bool = False
    absent: tuple[str, ...] = ()
    """Tables (by their names here), or "retention", of which this source holds none or a part: nothing is satisfied by them."""


class Heard(msgspec.Struct, frozen=True):
    """One trust domain of a fleet: how the hub heard of it, and whether its cluster answered for this report."""

    trust_domain: str
    owner: str
    state: str  # live | stale | away | never
    heard_ms: int
    answered: bool
    why: str = ""  # it did not

    @property
    def says(self) -> str:
        """In words; a domain that is away is never left out."""
        if self.answered:
            return "its cluster answered"
        at = moment(self.heard_ms)
        return f"not heard since {at}" if at and self.state == "away" else f"as told {at}" if at else "never heard"


class FleetReport(msgspec.Struct, frozen=True):
    """A report for each trust domain: figures are never only of all of them together."""

    hub: str
    from_ms: int
    to_ms: int
    as_of_ms: int
    ran_by: str
    software: str
    domains: tuple[Heard, ...]
    reports: tuple[Report, ...]  # in the same order


def moment(at_ms: int) -> str:
    """Unix ms as RFC 3339 in UTC; "" for never."""
    if not at_ms:
        return ""
    at_ms = min(max(at_ms, 0), _LAST_MS)  # somebody else may have said it
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
