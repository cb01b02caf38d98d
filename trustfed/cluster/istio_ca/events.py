"""What a cluster decides about a plugged-in CA, and about the domain a mesh moves away from: events of its journal."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class ExternalPrepared(Struct, frozen=True):
    """A key that is not ours has its twin: from the next envelope on it is an anchor of this domain. Nothing is signed yet."""

    id: str
    twin: bytes
    not_before: datetime
    not_after: datetime
    leaf_seconds: int  # the longest life of what will be signed with it
    why: str
    at: datetime


class ExternalAnchored(Struct, frozen=True):
    """The mesh was given the new anchor beside the old one; `confirmed`: an operator says that its proxies have it."""

    id: str
    confirmed: bool
    at: datetime


class ExternalExported(Struct, frozen=True):
    """From here on it may sign, outside our ledger, in the place of `retires` ("": of none)."""

    id: str
    retires: str
    at: datetime


class ExternalSwapped(Struct, frozen=True):
    """Its files are where istiod reads them: from here on the other one's last certificates are running out."""

    id: str
    retires: str
    retires_until: datetime | None  # the latest end of anything that one signed
    at: datetime


class ExternalAbandoned(Struct, frozen=True):
    """It was prepared and never used: it leaves the bundle."""

    id: str
    reason: str
    at: datetime


class LegacyAnchorAdded(Struct, frozen=True):
    """The domain that a mesh moves away from is still believed for a while, under a grant of this domain alone."""

    trust_domain: str
    fingerprints: tuple[str, ...]  # SHA-256 of each anchor
    until: datetime
    grant: str
    reason: str
    at: datetime


class LegacyAnchorEnded(Struct, frozen=True):
    """It is believed no longer."""

    trust_domain: str
    by: str  # "time", or who ended it
    reason: str
    at: datetime


EVENTS: dict[str, type[Struct]] = {
    "external.prepared": ExternalPrepared,
    "external.anchored": ExternalAnchored,
    "external.exported": ExternalExported,
    "external.swapped": ExternalSwapped,
    "external.abandoned": ExternalAbandoned,
    "legacy.added": LegacyAnchorAdded,
    "legacy.ended": LegacyAnchorEnded,
}
