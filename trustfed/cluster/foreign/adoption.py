"""A foreign bundle that passed enters the house: in an envelope of our own publication key, as any peer's bundle.

Agents, caches and levels need no other notion (decision 0009). The sequence of these envelopes is our own: Unix time, or one
more than the last, whichever is higher. So it rises also where the last one is not known any more: after a peer was
removed and trusted anew, and in a cluster that was restored from a backup, whose agents hold later ones.
"""

from __future__ import annotations

from datetime import datetime

from ca.keys.port import MAX_MESSAGE_BYTES, KeyStore
from trustfed.cluster import events as e
from trustfed.cluster import grants
from trustfed.cluster.foreign import rules
from trustfed.cluster.foreign.rules import Fault, Offer, Refused, Verdict
from trustfed.cluster.state import ClusterState, ForeignPeer, Peer
from trustfed.errors import Conflict
from trustfed.federation import envelope as envelopes
from trustfed.federation.envelope import PublicationKey
from trustfed.journal.events import TypedEvent
from trustfed.spiffe.ids import TrustDomain


def needs_envelope(state: ClusterState, peer: ForeignPeer, verdict: Verdict) -> bool:
    """Whether a new envelope is to be cut: for other keys or another hint, or because none is held."""
    return verdict is Verdict.NEW or _held(state, peer) is None


async def sign(state: ClusterState, peer: ForeignPeer, offer: Offer, keys: KeyStore, now: datetime) -> bytes:
    """The envelope for `offer` at the next level. Raises Refused when it is too large, and what the key store raises."""
    assert state.domain is not None
    held = _held(state, peer)
    number = max(held.sequence + 1 if held else 1, int(now.timestamp()))
    level = envelopes.Level(TrustDomain(peer.trust_domain), 1, number)
    body = rules.rewritten(offer.bundle, level.sequence).marshal()
    message = envelopes.payload_to_sign(level, body)
    if len(message) > MAX_MESSAGE_BYTES:
        raise Refused(Fault.TOO_LARGE, f"the bundle of {peer.trust_domain} is too large to be signed", offer)
    (signature,) = await keys.sign(state.domain.publication_key_name, [message])
    return envelopes.assemble(level, body, signature, PublicationKey(state.domain.publication_key)).data


def accepted(
    state: ClusterState, peer: ForeignPeer, offer: Offer, data: bytes | None, now: datetime, *, forced: bool
) -> list[TypedEvent]:
    """The events of an acceptance; `data` is the new envelope, None when keys and hint stay. Pure.

    Raises Conflict when the peer's settings changed meanwhile, Denied when its grant ended.
    """
    if state.foreign.get(peer.trust_domain) != peer:
        raise Conflict(f"{peer.trust_domain} was changed meanwhile", hint="try again")
    made: list[TypedEvent] = [] if data is None else list(grants.receive(state, peer.trust_domain, data, 0, now)[0])
    number = rules.number_after(peer, offer, forced=forced)
    hint = rules.bounded_hint(offer.bundle)
    made.append(e.ForeignBundleAccepted(peer.trust_domain, number, offer.keys, hint, forced, now))
    return made


def _held(state: ClusterState, peer: ForeignPeer) -> Peer | None:
    held = state.peers.get(peer.trust_domain)
    return held if held is not None and state.domain is not None and held.key == state.domain.publication_key else None
