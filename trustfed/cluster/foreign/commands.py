"""What an operator decides about foreign peers: settings checked, events made. Pure.

A foreign peer comes with a grant of this domain alone: pinned to this domain's own publication key, unknown to the hub.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime

from trustfed.cluster import events as e
from trustfed.cluster.foreign.rules import MAX_FOREIGN
from trustfed.cluster.state import ClusterState, ForeignPeer, Grant
from trustfed.errors import Conflict, Invalid, NotFound
from trustfed.journal.events import TypedEvent
from trustfed.runtime.reach import Target
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.certificate import read as read_certificate
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.x509svid import pem

WEB, SPIFFE = "https_web", "https_spiffe"
MAX_PEERS = 200
MAX_READERS = 16
MAX_CA = 64 * 1024
MAX_CAS = 32


@dataclass(frozen=True)
class Settings:
    """Where a foreign bundle is and how its endpoint is known (SPIFFE Federation §5.1, §5.2)."""

    trust_domain: str
    profile: str
    url: str
    endpoint_id: str = ""
    ca: tuple[bytes, ...] = ()  # DER
    bundle: bytes = b""  # the first bundle of the endpoint's domain, as JSON
    readers: tuple[str, ...] = ()


def put(
    state: ClusterState, given: Settings, until: datetime, reason: str, new_grant: str, now: datetime
) -> list[TypedEvent]:
    """Trust a foreign domain until `until`, or change how its endpoint is known. The command is the whole setting.

    Raises Invalid, Conflict (a member of this federation, or too many), NotFound (nothing to know the endpoint by).
    """
    domain = TrustDomain.parse(given.trust_domain)
    if state.domain is None or state.hub is None:
        raise Conflict("this cluster is not enrolled yet", hint="trustfed cluster init @TOKENFILE")
    if domain.name in (state.trust_domain, state.hub.trust_domain):
        raise Invalid(f"{domain} is no foreign trust domain: it is this federation's own")
    if until <= now:
        raise Invalid(f"the grant would have ended at {until.isoformat()}", hint="choose a later --until")
    if not reason.strip() or len(reason) > 1024:
        raise Invalid("a grant needs a reason of at most 1024 characters", hint='--reason "why they are trusted"')
    if domain.name in state.istio.legacy:
        raise Conflict(f"{domain} is a legacy domain of this mesh", hint=f"trustfed legacy end {domain}")
    Target.parse(given.url)
    pinned = state.pins(now).get(domain.name)
    if pinned is not None and not pinned.local:
        raise Conflict(
            f"{domain} is a member of this federation: grant {pinned.id}", hint=f"trustfed grant end {pinned.id}"
        )
    held = state.foreign.get(domain.name)
    if held is None and len(state.foreign) >= MAX_PEERS:
        raise Conflict(f"there are {MAX_PEERS} foreign peers already", hint="trustfed peer list")
    anchors = _anchors(state, given, domain, held, now)
    readers = _networks(given.readers)
    grant = _grant_of(state, held, now)
    kept = grant is not None and grant.until == until and grant.reason == reason
    id_ = grant.id if grant is not None and kept else new_grant
    kind = e.ForeignPeerAdded if held is None else e.ForeignPeerChanged
    ca = pem(given.ca)
    made: list[TypedEvent] = [
        kind(domain.name, given.profile, given.url, given.endpoint_id, ca, anchors, readers, id_, now)
    ]
    if held is not None and kept and _unchanged(held, made[0]):
        return []
    if not kept:
        key = state.domain.publication_key
        made.append(
            e.GrantOffered(id_, state.trust_domain, domain.name, now, until, reason.strip(), key, 0, local=True)
        )
        made.append(e.GrantAccepted(id_, key, now))
        if grant is not None:
            made.append(e.GrantEnded(grant.id, "owner", f"replaced by {id_}", now))
    return made


def remove(state: ClusterState, name: str, actor: str, reason: str, now: datetime) -> list[TypedEvent]:
    """Trust a foreign domain no longer: its grant ends, every agent drops its bundle. Raises NotFound."""
    peer = known(state, name)
    grant = _grant_of(state, peer, now)
    ended: list[TypedEvent] = [e.GrantEnded(grant.id, actor, reason, now)] if grant is not None else []
    return [*ended, e.ForeignPeerRemoved(peer.trust_domain, reason, now)]


def known(state: ClusterState, name: str) -> ForeignPeer:
    """The foreign peer of this name. Raises NotFound."""
    peer = state.foreign.get(name.removeprefix("spiffe://"))
    if peer is None:
        raise NotFound(f"there is no foreign peer {name[:255]!r}", hint="trustfed peer list")
    return peer


def granted(state: ClusterState, peer: ForeignPeer, now: datetime) -> bool:
    """Whether its grant still stands: only then is it asked."""
    return _grant_of(state, peer, now) is not None


def _grant_of(state: ClusterState, peer: ForeignPeer | None, now: datetime) -> Grant | None:
    grant = state.grants.get(peer.grant) if peer is not None else None
    return grant if grant is not None and grant.state == "accepted" and now < grant.until else None


def _unchanged(held: ForeignPeer, event: object) -> bool:
    assert isinstance(event, e.ForeignPeerAdded | e.ForeignPeerChanged)
    fields = ("profile", "url", "endpoint_id", "ca", "anchors", "readers", "grant")
    return all(getattr(held, field) == getattr(event, field) for field in fields)


def _anchors(
    state: ClusterState, given: Settings, domain: TrustDomain, held: ForeignPeer | None, now: datetime
) -> bytes:
    """The bundle that the endpoint is known by at first, rewritten; b"" where one is held or Web PKI decides."""
    if given.profile == WEB:
        if given.endpoint_id or given.bundle:
            raise Invalid(f"{WEB} knows its endpoint by name: it takes no endpoint ID and no bundle", hint="--ca FILE")
        if len(given.ca) > MAX_CAS or sum(map(len, given.ca)) > MAX_CA:
            raise Invalid(f"the CA file is larger than {MAX_CAS} certificates or {MAX_CA} bytes")
        for der in given.ca:
            if not read_certificate(der, "CA certificate").ca:
                raise Invalid("the CA file has a certificate that is no CA's")
        return b""
    if given.profile != SPIFFE:
        raise Invalid(f"the profile {given.profile[:40]!r} is unknown", hint=f"{WEB} or {SPIFFE}")
    if given.ca:
        raise Invalid(f"{SPIFFE} knows its endpoint by a SPIFFE bundle, not by a CA", hint="--bundle FILE")
    if not given.endpoint_id:
        raise Invalid(f"{SPIFFE} needs the SPIFFE ID that must answer", hint="--endpoint-id spiffe://NAME/spire/server")
    server = SpiffeId.parse(given.endpoint_id)
    if not server.path:
        raise Invalid(f"{server} is a trust domain's ID, not an endpoint's", hint="such as spiffe://NAME/spire/server")
    if given.bundle:
        first = Bundle.parse(server.trust_domain, given.bundle)
        if not first.x509_authorities:
            raise Invalid(f"the bundle of {server.trust_domain} has no X.509 authority to know the endpoint by")
        if len(first.marshal()) > MAX_FOREIGN:
            raise Invalid(f"the bundle of {server.trust_domain} is larger than {MAX_FOREIGN} bytes")
        return first.marshal()
    accepted = held is not None and bool(held.keys) and _grant_of(state, held, now) is not None
    if server.trust_domain == domain:
        if not accepted:
            raise Invalid(
                f"nothing is held of {domain} that its endpoint could be known by at first",
                hint="--bundle FILE: their bundle, as their owner gave it to you",
            )
    elif server.trust_domain.name != state.trust_domain and server.trust_domain.name not in state.imports(now):
        raise NotFound(
            f"no bundle of {server.trust_domain}, whose identity the endpoint has, is held here",
            hint="trust that domain first, or give its bundle with --bundle FILE",
        )
    return b""


def _networks(readers: tuple[str, ...]) -> tuple[str, ...]:
    if len(readers) > MAX_READERS:
        raise Invalid(f"{len(readers)} reader networks; at most {MAX_READERS}")
    found = []
    for text in readers:
        try:
            found.append(str(ipaddress.ip_network(text)))
        except ValueError:
            raise Invalid(f"{text[:80]!r} is no network", hint="such as 198.51.100.0/24 or 2001:db8::7/128") from None
    return tuple(found)
