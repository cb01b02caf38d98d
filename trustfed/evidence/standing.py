"""How one trust domain stands right now: what its cluster tells the hub whenever it changes, for people to look at.

It is a picture, not proof: figures of the past come from counters and packs. JSON (msgspec), at most 256 KiB: lists are cut to
their worst `MAX_LISTED` and say how many there are. Times are Unix ms; 0 is never.
"""

from __future__ import annotations

import msgspec

MAX_LISTED = 100
MAX_BYTES = 256 << 10


class Authority(msgspec.Struct, frozen=True):
    """One authority on the rollover board: prepared → distributed → active → tainted → removed."""

    id: str
    kind: str  # x509 | jwt | external | root
    state: str  # prepared | distributed | active | retiring | tainted | removed
    algorithm: str
    custodian: str  # where the key is kept: file | transit | ...
    not_before_ms: int
    not_after_ms: int
    since_ms: int
    activates_by_ms: int = 0  # the last safe moment
    waiting_for: tuple[str, ...] = ()
    waiting_count: int = 0
    paused: bool = False


class Expiry(msgspec.Struct, frozen=True):
    """How many SVIDs end within one hour of the runway, how many of these have no loaded successor, and how many of those
    are in the last quarter of their life: for the others it is not due yet."""

    hour_ms: int
    ending: int
    without_successor: int
    short: int = 0


class Ending(msgspec.Struct, frozen=True):
    """An SVID with less than a quarter of its life left and no successor that is in use."""

    spiffe_id: str
    instance: str
    serial: str
    not_after_ms: int
    left: float  # of its life, 0 to 1
    level: str  # how far its successor is


class Stage(msgspec.Struct, frozen=True):
    """One step of the funnel: how many of the window's obligations came so far, and why the others did not."""

    level: str
    reached: int
    dropped: dict[str, int]


class Held(msgspec.Struct, frozen=True):
    """How far one consumer is with one domain's bundle."""

    trust_domain: str
    consumer: str  # this trust domain, or one of its nodes when it lags
    epoch: int
    sequence: int
    newest_epoch: int
    newest_sequence: int
    age_ms: int  # since it was last confirmed
    hint_ms: int


class Unknown(msgspec.Struct, frozen=True):
    """A certificate that a handshake showed and this domain's ledger does not know, or an orphan of another direction."""

    serial: str
    spiffe_id: str
    where: str
    kind: str  # handshake | held | never_delivered
    first_ms: int
    last_ms: int


class Algorithm(msgspec.Struct, frozen=True):
    """How many live certificates and keys use one algorithm."""

    purpose: str  # x509-svid | node-svid | system-svid | authority | jwt | bundle signature | log | root
    algorithm: str
    strength: int  # classical security, bits
    quantum_safe: bool
    count: int
    custodian: str


class Finding(msgspec.Struct, frozen=True):
    """Something that is configured so that it will fail: a leaf that outlives its authority, a refresh hint beyond an overlap."""

    code: str
    subject: str
    says: str
    hint: str
    advice: bool = False
    """A recommendation; nothing fails by it."""


class Probe(msgspec.Struct, frozen=True):
    """What is asked again and again: its state, since when, and for how much of 30 days it was up."""

    name: str
    up: bool
    since_ms: int
    up_share: float
    unknown_ms: int


class Clock(msgspec.Struct, frozen=True):
    """A node whose clock differs."""

    node: str
    offset_ms: int
    at_ms: int


class Silent(msgspec.Struct, frozen=True):
    """A node that nothing is heard of."""

    node: str
    since_ms: int
    identities: int


class Log(msgspec.Struct, frozen=True):
    """One Merkle log: how far it is, and who has cosigned it."""

    origin: str
    size: int
    integrated: int
    checkpoint_size: int
    checkpoint_ms: int
    root: str  # base64
    cosigned_size: int
    cosigned_ms: int
    problem: str = ""  # "fork", "shrunk", ...: alarms


_ONCE = {"ending": "life_ends", "telemetry_silence": "node_silent", "bundle_stale": "bundle_old"}
"""How clusters of earlier versions, and what was kept of them, spell codes that others spell as on the right."""


class Alarm(msgspec.Struct, frozen=True):
    """Something that somebody has to look at now. Codes are words joined by `_`; one thing has one code, whoever says it."""

    code: str
    severity: str  # page | ticket
    subject: str
    says: str
    since_ms: int
    hint: str = ""

    def __post_init__(self) -> None:
        code = alarm_code(self.code)
        if code != self.code:
            msgspec.structs.force_setattr(self, "code", code)


class Standing(msgspec.Struct, frozen=True):
    """One trust domain as of `as_of_ms`."""

    trust_domain: str
    as_of_ms: int
    software: str = ""
    simulated: bool = False
    owner: str = ""
    nodes: int = 0
    nodes_live: int = 0
    entries: int = 0
    identities: int = 0  # instances that hold an SVID somebody uses
    open_obligations: int = 0
    overdue: int = 0
    coverage: float = 1.0
    authorities: tuple[Authority, ...] = ()
    runway: tuple[Expiry, ...] = ()
    endings: tuple[Ending, ...] = ()
    endings_count: int = 0
    funnel: tuple[Stage, ...] = ()
    held: tuple[Held, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    unknown_count: int = 0
    algorithms: tuple[Algorithm, ...] = ()
    lint: tuple[Finding, ...] = ()
    probes: tuple[Probe, ...] = ()
    clocks: tuple[Clock, ...] = ()
    silent: tuple[Silent, ...] = ()
    silent_count: int = 0
    logs: tuple[Log, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    orders: tuple[str, ...] = ()  # kinds of orders from the hub that this cluster takes


def alarm_code(code: str) -> str:
    """The one spelling of an alarm's code."""
    plain = code.replace("-", "_")
    return _ONCE.get(plain, plain)
