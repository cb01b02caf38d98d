"""Who trusts whom: decisions about grants, each one-way. Pure."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime

from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.federation.envelope import PublicationKey
from trustfed.hub.domains import check_reason, enrolled
from trustfed.hub.events import GrantAccepted, GrantEnded, GrantOffered, HubEvent
from trustfed.hub.records import Grant
from trustfed.hub.state import HubState
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain, shown

MAX_OPEN_GRANTS = 10_000  # of one domain


@dataclass(frozen=True)
class Offer:
    """`importer` may accept identities of `exporter`; `start` None means now."""

    id: str
    importer: TrustDomain
    exporter: TrustDomain
    until: datetime
    reason: str
    start: datetime | None = None


def offer(state: HubState, command: Offer, now: datetime) -> list[HubEvent]:
    """Offer a grant to its importing owner; one open grant per direction."""
    importer, exporter = command.importer.name, command.exporter.name
    if importer == exporter:
        raise Invalid(f"{importer} needs no grant for itself")
    for name in (importer, exporter):
        enrolled(state, name)
    start = command.start or now
    if command.until <= max(now, start):
        raise Invalid(
            f"the grant would have ended at {command.until.isoformat()}, before it began", hint="choose a later --until"
        )
    open_ones = [grant for grant in state.grants_with(importer) if grant.status != "ended"]
    for grant in open_ones:
        if (grant.importer, grant.exporter) == (importer, exporter):
            raise Conflict(
                f"{importer} has the open grant {grant.id} for {exporter} ({grant.status})", hint="end it first"
            )
    if len(open_ones) >= MAX_OPEN_GRANTS:
        raise Conflict(f"{importer} is a side of {MAX_OPEN_GRANTS} open grants, and no more")
    return [
        GrantOffered(
            id=command.id,
            importer=importer,
            exporter=exporter,
            from_ms=to_ms(start),
            until_ms=to_ms(command.until),
            reason=check_reason(command.reason),
        )
    ]


def found(state: HubState, grant_id: str) -> Grant:
    """The grant with this id, or NotFound."""
    grant = state.grants.get(grant_id)
    if grant is None:
        raise NotFound(f"no grant has the id {shown(grant_id)}", hint="trustfed grant list")
    return grant


def visible(state: HubState, grant_id: str, domain: str) -> Grant:
    """The grant, if `domain` is a side of it; to all others it does not exist."""
    grant = found(state, grant_id)
    if domain not in (grant.importer, grant.exporter):
        raise NotFound(f"no grant of {domain} has the id {shown(grant_id)}", hint="trustfed grant list")
    return grant


def accept(state: HubState, grant_id: str, domain: str, *, by: str, fingerprint: str, now: datetime) -> list[HubEvent]:
    """Record that the importing owner agreed and pinned `fingerprint`; the same again changes nothing."""
    grant = visible(state, grant_id, domain)
    if grant.importer != domain:
        raise Denied(f"grant {grant_id} is for {grant.importer} to accept, not for {domain}")
    if grant.status == "ended" or grant.until_ms <= to_ms(now):
        raise Conflict(
            f"grant {grant_id} has ended: {grant.ended_reason or 'its time is over'}", hint="offer a new one"
        )
    exporter = enrolled(state, grant.exporter)
    known = PublicationKey(exporter.publication_key).fingerprint
    if not hmac.compare_digest(known.encode(), fingerprint.encode()):
        raise Conflict(
            f"{domain} pinned {shown(fingerprint)} for {grant.exporter}, but {known} is registered",
            hint="compare the fingerprint with the exporting owner before accepting",
        )
    if grant.status == "accepted":
        return []
    return [GrantAccepted(grant_id, by, fingerprint)]


def end(state: HubState, grant_id: str, by: str, reason: str, now: datetime) -> list[HubEvent]:
    """End a grant; what has ended stays so."""
    if found(state, grant_id).status == "ended":
        return []
    return [GrantEnded(grant_id, by, check_reason(reason), to_ms(now))]


def end_expired(state: HubState, now: datetime) -> list[HubEvent]:
    """End what has reached its own end (at most 500 at once)."""
    at = to_ms(now)
    over = [grant for grant in state.grants.values() if grant.status != "ended" and grant.until_ms <= at]
    return [GrantEnded(grant.id, "hub", "the grant reached its end", at) for grant in over[:500]]


def next_end(state: HubState) -> int | None:
    """When the next open grant reaches its end (Unix ms); None when none is open."""
    return min((grant.until_ms for grant in state.grants.values() if grant.status != "ended"), default=None)
