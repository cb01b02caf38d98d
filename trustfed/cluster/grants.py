"""Grants as this domain's owner decides them: whose identities it accepts, under which publication key. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from trustfed.cluster.events import (
    GrantAccepted,
    GrantConfirmed,
    GrantEnded,
    GrantLimited,
    GrantOffered,
    GrantRepinned,
    PeerBundle,
    PeerEndpoints,
)
from trustfed.cluster.state import ClusterState, Grant
from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.federation.envelope import Envelope, PublicationKey, open_envelope
from trustfed.journal.events import TypedEvent
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.sockets import parse_url
from trustfed.runtime.timestamps import from_ms
from trustfed.spiffe.ids import TrustDomain

MAX_GRANTS = 10_000
"""Grants of one domain that have not ended: a hub that offers without end is refused beyond."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


def heard(state: ClusterState, grant: pb.Grant, hub_position: int, now: datetime) -> list[TypedEvent]:
    """What the hub says of a grant. It may offer and end; it can accept nothing for this domain's owner.

    Raises Invalid for what can be no grant, Denied when it is not this domain's, or changes one that exists.
    """
    own = state.trust_domain
    if not _ID.fullmatch(grant.id):
        raise Invalid(f"the hub sent a grant with the malformed id {grant.id[:64]!r}")
    if own not in (grant.importer, grant.exporter) or grant.importer == grant.exporter:
        raise Denied(f"the hub sent grant {grant.id[:64]!r}, which is not between {own} and another domain")
    TrustDomain.parse(grant.importer)
    TrustDomain.parse(grant.exporter)
    known = state.grants.get(grant.id)
    if known is not None and known.local:
        raise Denied(f"the hub speaks of grant {grant.id}, which is this domain's alone")
    said: list[TypedEvent] = []
    if known is None:
        if grant.state == "ended":
            return []
        if sum(1 for held in state.grants.values() if held.state != "ended") >= MAX_GRANTS:
            raise Denied(f"the hub offers more than {MAX_GRANTS} grants", hint="this hub is not to be believed")
        PublicationKey(grant.exporter_publication_key)
        said.append(
            GrantOffered(
                grant.id,
                grant.importer,
                grant.exporter,
                from_ms(grant.from_ms),
                from_ms(grant.until_ms),
                grant.reason[:1024],
                grant.exporter_publication_key,
                hub_position,
            )
        )
    elif (known.importer, known.exporter) != (grant.importer, grant.exporter):
        raise Denied(
            f"the hub changed the sides of grant {grant.id}", hint="this hub is not to be believed: look at it"
        )
    state_now = known.state if known else "offered"
    confirmed = known.confirmed if known else False
    if grant.state == "ended" and state_now != "ended":
        said.append(GrantEnded(grant.id, "hub", grant.ended_reason[:1024], now, hub_position))
    elif (
        grant.state == "accepted"
        and not confirmed
        and state_now == ("offered" if grant.exporter == own else "accepted")
    ):
        said.append(GrantConfirmed(grant.id, hub_position))
    return said


def forgotten(state: ClusterState, grant: pb.Grant) -> bool:
    """Whether the hub, after a restore perhaps, no longer knows what this side has decided: then it is told again."""
    known = state.grants.get(grant.id)
    if known is None or known.importer != state.trust_domain or not known.confirmed:
        return False
    return (known.state, grant.state) in {("accepted", "offered"), ("ended", "offered"), ("ended", "accepted")}


def accept(state: ClusterState, id_: str, fingerprint: str, now: datetime) -> list[TypedEvent]:
    """Accept an offered grant and pin the exporter's publication key, whose fingerprint the owner names.

    Raises NotFound, Denied when this domain is not the importer or the fingerprint is another, Conflict when it ended.
    """
    grant = _importing(state, id_)
    if grant.state == "ended" or grant.until <= now:
        raise Conflict(f"grant {id_} has ended", hint="ask for a new offer")
    key = PublicationKey(grant.exporter_key)
    _same_fingerprint(grant, key, fingerprint)
    if not grant.local and any(other.local for other in state.pins(now).values() if other.exporter == grant.exporter):
        raise Conflict(
            f"{grant.exporter} is trusted as a foreign peer already",
            hint=f"trustfed {'legacy end' if grant.exporter in state.istio.legacy else 'peer remove'} {grant.exporter}",
        )
    return [] if grant.state == "accepted" else [GrantAccepted(id_, grant.exporter_key, now)]


def end(state: ClusterState, id_: str, actor: str, reason: str, now: datetime) -> list[TypedEvent]:
    """End a grant from this side: the exporter's bundle is withdrawn from every agent at once."""
    grant = _importing(state, id_)
    return [] if grant.state == "ended" else [GrantEnded(id_, actor, reason, now)]


def repin(state: ClusterState, id_: str, exporter_key: bytes, fingerprint: str) -> list[TypedEvent]:
    """Pin another publication key, as only an operator of the importing side may; envelopes start anew under it."""
    grant = _importing(state, id_)
    if grant.state != "accepted":
        raise Conflict(f"grant {id_} is {grant.state}; only an accepted one can be pinned anew")
    if grant.local:
        raise Conflict(f"grant {id_} is a foreign peer's: there is no publication key of it", hint="trustfed peer show")
    _same_fingerprint(grant, PublicationKey(exporter_key), fingerprint)
    return [GrantRepinned(id_, exporter_key)]


def receive(
    state: ClusterState, trust_domain: str, data: bytes, hub_position: int, now: datetime
) -> tuple[list[TypedEvent], Envelope]:
    """A peer's envelope, from whatever hand: kept only if it is granted and continues what was pinned.

    Raises Denied otherwise: another key, an older level, other bytes at the same level, or no grant.
    """
    # One that begins later is received now: the hub sends it once, when the grant is accepted.
    grant = state.pins(now).get(trust_domain)
    if grant is None:
        raise Denied(f"no accepted grant for trust domain {trust_domain[:255]!r}", hint="trustfed grant list")
    domain = TrustDomain.parse(trust_domain)
    held = state.peers.get(trust_domain)
    after = held_envelope(held.envelope, trust_domain, held.key) if held else None
    envelope = open_envelope(data, domain, PublicationKey(grant.exporter_key), after=after)
    if after is not None and envelope.level == after.level:
        return [], envelope
    level = envelope.level
    news = PeerBundle(trust_domain, grant.exporter_key, level.epoch, level.sequence, data, hub_position, now)
    return [news], envelope


MAX_ENDPOINTS = 8
MAX_ENDPOINT = 300
LEAST_LIMIT, LONGEST_LIMIT = timedelta(seconds=1), timedelta(days=366)


def reachable(state: ClusterState, trust_domain: str, endpoints: Sequence[str], now: datetime) -> list[TypedEvent]:
    """Where a peer serves its own envelope, as the hub says; asked only with every guard, and believed in nothing.

    Raises Denied for a domain that no grant names, Invalid for what can be no address.
    """
    if trust_domain not in state.pins(now):
        raise Denied(f"no accepted grant for trust domain {trust_domain[:255]!r}", hint="trustfed grant list")
    if len(endpoints) > MAX_ENDPOINTS or any(len(url) > MAX_ENDPOINT for url in endpoints):
        raise Invalid(f"the hub names more than {MAX_ENDPOINTS} bundle endpoints of {trust_domain}, or too long ones")
    for url in endpoints:
        parse_url(url)
    said = tuple(endpoints)
    return [] if said == (state.endpoints.get(trust_domain) or ()) else [PeerEndpoints(trust_domain, said)]


def limit(state: ClusterState, id_: str, period: timedelta) -> list[TypedEvent]:
    """Say how long the exporter's bundle is used after its domain last confirmed it; 0: as policy says."""
    grant = _importing(state, id_)
    if grant.state == "ended":
        raise Conflict(f"grant {id_} has ended", hint="trustfed grant list")
    if period and not LEAST_LIMIT <= period <= LONGEST_LIMIT:
        raise Invalid(f"a stale limit of {period} is out of range", hint=f"{LEAST_LIMIT} to {LONGEST_LIMIT}, or 0s")
    seconds = int(period.total_seconds())
    return [] if seconds == grant.stale_limit else [GrantLimited(id_, seconds)]


def held_envelope(data: bytes, trust_domain: str, key: bytes) -> Envelope:
    """An envelope that was verified before it was journalled."""
    return open_envelope(data, TrustDomain.parse(trust_domain), PublicationKey(key))


def _importing(state: ClusterState, id_: str) -> Grant:
    grant = state.grants.get(id_)
    if grant is None:
        raise NotFound(f"grant {id_[:64]!r} is not known here", hint="trustfed grant list")
    if grant.importer != state.trust_domain:
        raise Denied(
            f"grant {id_} is {grant.importer}'s to decide: it accepts identities of {grant.exporter}",
            hint=f"run this on the cluster of {grant.importer}",
        )
    return grant


def _same_fingerprint(grant: Grant, key: PublicationKey, fingerprint: str) -> None:
    if not fingerprint:
        raise Invalid(
            f"grant {grant.id} pins the publication key {key.fingerprint} of {grant.exporter}",
            hint="compare it with that domain's owner, then name it with --fingerprint",
        )
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise Invalid(f"{fingerprint[:80]!r} is no fingerprint", hint="one is sha256: and 64 hex digits")
    if fingerprint != key.fingerprint:
        # Not what the hub shows: who pastes that back has compared nothing.
        raise Denied(
            f"the hub shows another publication key for {grant.exporter} than {fingerprint}",
            hint="ask that domain's owner; if the hub's key is not theirs, do not accept",
        )
