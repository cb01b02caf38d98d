"""One fetch of a foreign bundle by its profile (SPIFFE Federation §5.2), and how its endpoint is known. It blocks.

https_web: TLS 1.2 or later, the host name below the system's roots, or below the CA that the operator gave and no other.
https_spiffe: the chain must prove exactly the endpoint's SPIFFE ID in the one bundle of that ID's own domain: the first
one that the operator gave, then always the newest that is held (§5.2.2.4). TLS alone is not believed.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from trustfed.cluster.foreign import rules
from trustfed.cluster.foreign.commands import WEB
from trustfed.cluster.grants import held_envelope
from trustfed.cluster.state import ClusterState, ForeignPeer
from trustfed.errors import Invalid, NotFound
from trustfed.runtime.guarded_fetch import Resolve, fetch
from trustfed.runtime.https_client import Verify
from trustfed.runtime.reach import Reach
from trustfed.runtime.tls import client_context
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid

_ROOTS_SECONDS = 3600


@dataclass(frozen=True)
class Fetching:
    """How every foreign endpoint is asked: which addresses may be reached, how long one fetch may last."""

    reach: Reach
    seconds: float
    now: Callable[[], datetime]
    resolve: Resolve | None = None


@dataclass(frozen=True)
class Answer:
    """What an endpoint served; no offer: it is what `etag` named."""

    offer: rules.Offer | None
    etag: str


def ask(peer: ForeignPeer, known_by: Bundle | None, etag: str, how: Fetching) -> Answer:
    """Fetch and read the bundle of `peer`, whose https_spiffe endpoint is known by `known_by`.

    Raises what `guarded_fetch.fetch` and `rules.read` raise, and Denied for an endpoint that is somebody else.
    """
    context, verify = _context(peer, known_by, how)
    found = fetch(
        peer.url, context, verify=verify, etag=etag, reach=how.reach, seconds=how.seconds, resolve=how.resolve
    )
    if found.body is None:
        return Answer(None, etag)
    return Answer(rules.read(TrustDomain(peer.trust_domain), found.body), found.etag)


def endpoint_bundle(state: ClusterState, peer: ForeignPeer, now: datetime) -> Bundle | None:
    """The bundle by which the endpoint is known; None for https_web. Raises NotFound when its domain's is not held."""
    if peer.profile == WEB:
        return None
    domain = SpiffeId.parse(peer.endpoint_id).trust_domain
    if peer.anchors:
        return Bundle.parse(domain, peer.anchors)
    if domain.name == state.trust_domain:
        assert state.domain is not None
        return held_envelope(state.envelope, domain.name, state.domain.publication_key).bundle
    held, grant = state.peers.get(domain.name), state.imports(now).get(domain.name)
    if held is None or grant is None or held.key != grant.exporter_key:
        raise NotFound(
            f"no bundle of {domain} is held, so its endpoint cannot be known",
            hint=f"trustfed peer add {peer.trust_domain} --bundle FILE, with all its other options",
        )
    return held_envelope(held.envelope, domain.name, held.key).bundle


def _context(peer: ForeignPeer, known_by: Bundle | None, how: Fetching) -> tuple[ssl.SSLContext, Verify | None]:
    if known_by is None:
        return _web(peer.ca, int(how.now().timestamp() // _ROOTS_SECONDS)), None
    if not known_by.x509_authorities:
        raise NotFound(f"the bundle of {known_by.trust_domain} has no X.509 authority to know its endpoint by")
    context = client_context(None, known_by.x509_authorities)
    # §5: what Mozilla calls intermediate; an authority of a bundle may itself be signed by one that is not in it.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    expected = SpiffeId.parse(peer.endpoint_id)

    def verify(chain: tuple[bytes, ...]) -> None:
        verify_x509_svid(chain, known_by, how.now(), expected=expected)

    return context, verify


@lru_cache(maxsize=32)
def _web(ca: bytes, period: int) -> ssl.SSLContext:
    """Reading the system's roots takes tens of milliseconds: once an hour (`period`) is enough to see them change."""
    try:
        context = ssl.create_default_context(cadata=ca.decode("ascii") if ca else None)
    except (ssl.SSLError, ValueError):
        raise Invalid("the CA given for this endpoint cannot be used", hint="PEM certificates") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    return context
