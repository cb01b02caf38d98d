"""A mesh that moves from its old trust domain (`cluster.local`) to this one: the old anchor is believed for a limited time.

It enters as any foreign bundle does (trustfed.cluster.foreign.adoption): in an envelope of our own publication key, under a
grant of this domain alone, as a trust domain of its own. Agents hand it out beside the home anchors, never among them, and
it ends with its grant by itself. It is for names that no member of this federation has, and for keys that no other domain
holds: between our own domains there are grants, and no aliases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from ca.keys.port import KeyStore
from trustfed.cluster import events as cluster_events
from trustfed.cluster import grants
from trustfed.cluster.foreign import rules
from trustfed.cluster.foreign.rules import Holding
from trustfed.cluster.istio_ca import events as e
from trustfed.cluster.state import ClusterState
from trustfed.errors import Conflict, Denied, Invalid, NotFound
from trustfed.federation import envelope as envelopes
from trustfed.federation.envelope import PublicationKey
from trustfed.journal.events import TypedEvent
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain

MAX_DAYS = 90
MAX_ANCHORS = 8
MAX_LEGACY = 4


def bundle_of(state: ClusterState, name: str, anchors: Sequence[bytes], now: datetime) -> Bundle:
    """The bundle of the legacy domain, rewritten as foreign ones are. Raises Invalid for anchors that can be none."""
    domain = TrustDomain.parse(name)
    if not 1 <= len(set(anchors)) <= MAX_ANCHORS:
        raise Invalid(f"{len(set(anchors))} legacy anchors", hint=f"1 to {MAX_ANCHORS} CA certificates (PEM)")
    held = state.peers.get(domain.name)
    number = max(held.sequence + 1 if held else 1, int(now.timestamp()))
    bundle = Bundle(domain, tuple(sorted(set(anchors))), (), number, rules.MOST_HINT)
    # Read back, as any reader will: a certificate that is no CA's, or names another domain, is refused here.
    return Bundle.parse(domain, bundle.marshal())


async def sign(state: ClusterState, bundle: Bundle, keys: KeyStore) -> bytes:
    """The envelope, signed with this domain's own publication key."""
    assert state.domain is not None and bundle.sequence is not None
    level, body = envelopes.Level(bundle.trust_domain, 1, bundle.sequence), bundle.marshal()
    (signature,) = await keys.sign(state.domain.publication_key_name, [envelopes.payload_to_sign(level, body)])
    return envelopes.assemble(level, body, signature, PublicationKey(state.domain.publication_key)).data


def add(
    state: ClusterState,
    bundle: Bundle,
    data: bytes,
    others: Mapping[str, Holding],
    until: datetime,
    reason: str,
    grant: str,
    now: datetime,
) -> list[TypedEvent]:
    """Believe the legacy domain until `until`, under the new grant `grant`; `data` is the signed envelope of `bundle`.

    1. enrolled, a reason, an end within MAX_DAYS  2. no member's or foreign peer's name, nor believed already
    3. no key that another domain holds.  Raises Invalid, Conflict, Denied.
    """
    name = bundle.trust_domain.name
    if state.domain is None or state.hub is None:  # 1
        raise Conflict("this cluster is not enrolled yet", hint="trustfed cluster init @TOKENFILE")
    if not reason.strip() or len(reason) > 1024:
        raise Invalid("a legacy anchor needs a reason of at most 1024 characters", hint='--reason "the mesh moves"')
    if not now < until <= now + timedelta(days=MAX_DAYS):
        raise Invalid(f"a legacy anchor until {until.isoformat()} is out of range", hint=f"at most {MAX_DAYS} days")
    _check_name(state, name)  # 2
    keys = rules.keys_of(bundle)  # 3
    for other, holding in others.items():
        if other != name and not keys.isdisjoint(holding.keys):
            raise Denied(
                f"an anchor given for {name} has a key that {other} holds: one key cannot speak for two domains",
                hint="between members of this federation there are grants: trustfed grant offer",
            )
    own, key = state.trust_domain, state.domain.publication_key
    made: list[TypedEvent] = [
        cluster_events.GrantOffered(grant, own, name, now, until, f"legacy: {reason.strip()}", key, 0, local=True),
        cluster_events.GrantAccepted(grant, key, now),
        # Nobody confirms such a bundle: it is stale, and so alarmed, from the first hour on, and used until its grant ends.
        cluster_events.GrantLimited(grant, int(timedelta(days=MAX_DAYS + 1).total_seconds())),
    ]
    level = bundle.sequence or 0
    made.append(cluster_events.PeerBundle(name, key, 1, level, data, 0, now))
    prints = tuple(f"sha256:{hashlib.sha256(der).hexdigest()}" for der in bundle.x509_authorities)
    made.append(e.LegacyAnchorAdded(name, prints, until, grant, reason.strip(), now))
    return made


def end(state: ClusterState, name: str, actor: str, reason: str, now: datetime) -> list[TypedEvent]:
    """Believe it no longer: every agent drops its bundle at once. Raises NotFound."""
    known = state.istio.legacy.get(name)
    if known is None:
        raise NotFound(f"{name[:255]!r} is no legacy domain here", hint="trustfed legacy list")
    held = state.grants.get(known.grant)
    ended: list[TypedEvent] = []
    if held is not None and held.state == "accepted":
        ended += grants.end(state, known.grant, actor, reason, now)
    return [*ended, e.LegacyAnchorEnded(name, actor, reason, now)]


def over(state: ClusterState, now: datetime) -> list[TypedEvent]:
    """The end of those whose grant has ended, whoever or whatever ended it."""
    return [
        e.LegacyAnchorEnded(name, "time" if now >= known.until else "grant", "its grant has ended", now)
        for name, known in state.istio.legacy.items()
        if (grant := state.grants.get(known.grant)) is None or grant.state != "accepted" or now >= grant.until
    ]


def mesh_config(state: ClusterState) -> str:
    """What meshConfig says meanwhile: aliases for the legacy domains, and for nobody else."""
    lines = [f"trustDomain: {state.trust_domain}"]
    names = sorted(state.istio.legacy)
    if names:
        lines += ["trustDomainAliases:", *(f"- {name}" for name in names)]
    return "\n".join(lines) + "\n"


def _check_name(state: ClusterState, name: str) -> None:
    assert state.hub is not None
    if name in (state.trust_domain, state.hub.trust_domain):
        raise Denied(f"{name} is this federation's own: it is no legacy domain")
    if name in state.istio.legacy:
        raise Conflict(f"{name} is believed already", hint=f"trustfed legacy end {name}, then add it anew")
    if name in state.foreign:
        raise Conflict(f"{name} is a foreign peer", hint=f"trustfed peer remove {name}")
    members = {side for g in state.grants.values() if not g.local for side in (g.importer, g.exporter)}
    if name in members or name in state.endpoints:
        raise Denied(
            f"{name} is a member of this federation: an alias would make its identities equal to ours",
            hint="members accept each other by grants: trustfed grant offer",
        )
    if len(state.istio.legacy) >= MAX_LEGACY:
        raise Conflict(f"there are {MAX_LEGACY} legacy domains already", hint="trustfed legacy list")
