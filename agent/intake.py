"""What the cluster says of entries and bundles, item by item: believed and stored, or refused and alarmed.

One bad item (an entry outside this domain, an envelope that does not continue) spoils no other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from agent.freshness import LIMIT
from agent.identity import Node
from agent.matching import Entry
from agent.store import HeldBundle, Store
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation.envelope import Envelope, PublicationKey, open_envelope
from trustfed.proto import node_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import from_ms
from trustfed.spiffe.ids import SpiffeId, TrustDomain

log = logs.get("agent.intake")

_MAX_BUNDLES = 10_000
_MAX_REFUSED = 1000
_LONGEST_LIMIT = 10 * 365 * 86_400


class Intake:
    """Puts into the store what holds. `refused` says what did not and why, until a good one takes its place."""

    def __init__(self, store: Store, node: Node, max_entries: int, clock: Clock, registry: Registry) -> None:
        self._store, self._node, self._max_entries, self._clock = store, node, max_entries, clock
        self.refused: dict[str, str] = {}
        self._refused = registry.counter(
            "agent_sync_refused_total", "items from the cluster that were not believed", labels=("kind",)
        )

    def entries(self, said: pb.Entries) -> bool:
        """Upserts and removals. True when something that was held is not held as it was: removed, refused, changed."""
        good, remove = [], list(said.remove)
        held = self._store.entries.keys()
        room = self._max_entries - len(held) + sum(id_ in held for id_ in remove)
        for item in said.upsert:
            try:
                entry = _entry(item, self._store.trust_domain)
                if entry.id not in held:
                    room -= 1
                    if room < 0:
                        raise Invalid(f"this node holds {self._max_entries} entries", hint="raise limits.entries")
                good.append(entry)
                self.refused.pop(f"entry {entry.id}", None)
            except TrustfedError as error:
                # What cannot be read must not go on as it was before: it may have been narrowed.
                remove.append(item.id)
                self._refuse(f"entry {item.id[:128]}", "entry", error)
        for id_ in said.remove:
            self.refused.pop(f"entry {id_}", None)
        taken_away = bool(remove) or any(self._store.entries.get(entry.id, entry) != entry for entry in good)
        self._store.put_entries(good, remove)
        return taken_away

    async def bundle(self, said: pb.Bundle) -> pb.Level | None:
        """Take a bundle whose envelope continues the one held; gives the level to acknowledge: it is served now."""
        try:
            domain = TrustDomain.parse(said.trust_domain)
            home = domain == self._store.trust_domain
            key = PublicationKey(said.publication_key)
            held = self._store.bundles.get(domain)
            if home:
                identity = self._node.identity
                if key != identity.publication_key:
                    raise Denied(f"the home bundle is signed by {key.fingerprint}, this node enrolled with another key")
                envelope = open_envelope(said.envelope, domain, key, after=identity.home)
            elif held is None or held.key != key:
                if held is not None:
                    log.warning("publication key pinned anew", trust_domain=str(domain), fingerprint=key.fingerprint)
                elif len(self._store.bundles) >= _MAX_BUNDLES:
                    raise Invalid(f"this node holds {_MAX_BUNDLES} bundles")
                envelope = open_envelope(said.envelope, domain, key)
            else:
                envelope = open_envelope(said.envelope, domain, key, after=held.envelope)
        except TrustfedError as error:
            self._refuse(f"bundle of {said.trust_domain[:255]}", "bundle", error)
            return None
        self.refused.pop(f"bundle of {domain}", None)
        now = self._clock.now()
        if not home and self._store.fresh.limit(domain, _limit(said.stale_limit_seconds)):
            self._store.judge(now)
        taken = self._taken(envelope, key, held, _confirmed(said.confirmed_at_ms, now))
        if home and envelope is not self._node.identity.home:
            await self._node.adopt(lambda present: replace(present, home=envelope))
        return level_of(taken)

    def confirmed(self, said: Iterable[pb.Confirmed]) -> None:
        """Bundles that their domains have confirmed meanwhile, as the cluster has verified."""
        now = self._clock.now()
        for item in said:
            domain, at = domain_of(item.trust_domain), _confirmed(item.at_ms, now)
            if domain is not None and at is not None:
                self._store.confirm(domain, at, now)

    def from_store(self, trust_domain: TrustDomain, data: bytes, signed_at: datetime) -> bool:
        """Take a foreign envelope that was published, while the cluster cannot be reached; True if it is news.

        `signed_at` is when its domain last signed that this is its newest: it counts as a confirmation. Only a domain
        that is held, by the key that it is pinned by, and only what continues the bundle held: a store introduces nobody.
        Raises Denied, Invalid.
        """
        held = self._store.bundles.get(trust_domain)
        if trust_domain == self._store.trust_domain:
            raise Denied("the home bundle is taken from this node's own cluster only")
        if held is None:
            raise Denied(f"no bundle of {trust_domain} is pinned here", hint="only the cluster begins a federation")
        envelope = open_envelope(data, trust_domain, held.key, after=held.envelope)
        self._taken(envelope, held.key, held, min(signed_at, self._clock.now()))
        return envelope is not held.envelope

    def _taken(
        self, envelope: Envelope, key: PublicationKey, held: HeldBundle | None, confirmed: datetime | None
    ) -> HeldBundle:
        """Store an envelope that holds, and when it was confirmed."""
        now, domain = self._clock.now(), envelope.level.trust_domain
        if held is not None and held.envelope is envelope:
            if confirmed is not None:
                self._store.confirm(domain, confirmed, now)
            return held
        taken = HeldBundle(envelope, key, now)
        self._store.put_bundle(taken, confirmed)
        self._store.judge(now)
        level = envelope.level
        log.info("bundle received", trust_domain=str(domain), epoch=level.epoch, sequence=level.sequence)
        return taken

    def remove_bundle(self, name: str) -> None:
        """A grant has ended. The home bundle is never removed."""
        domain = domain_of(name)
        if domain is not None and domain != self._store.trust_domain:
            self._store.remove_bundle(domain)
            self.refused.pop(f"bundle of {domain}", None)
            log.info("bundle removed", trust_domain=str(domain))

    def complete(self, entries: set[str], bundles: set[TrustDomain]) -> None:
        """A snapshot holds everything: what was not in it is gone, and nothing lacks."""
        self._store.put_entries((), [id_ for id_ in self._store.entries if id_ not in entries])
        self._store.lapsed &= entries
        for domain in [d for d in self._store.bundles if d not in bundles and d != self._store.trust_domain]:
            self._store.remove_bundle(domain)
        if not self._store.banned:
            self._store.mark_synced()

    def _refuse(self, what: str, kind: str, error: TrustfedError) -> None:
        if what in self.refused or len(self.refused) < _MAX_REFUSED:
            self.refused[what] = error.message
        self._refused.add(kind=kind)
        log.error("refused from the cluster", what=what, error=error.message, hint=error.hint)


def level_of(held: HeldBundle) -> pb.Level:
    """How far a bundle is, for the wire."""
    level = held.envelope.level
    return pb.Level(trust_domain=level.trust_domain.name, epoch=level.epoch, sequence=level.sequence)


def _limit(seconds: int) -> timedelta:
    return timedelta(seconds=min(seconds, _LONGEST_LIMIT)) if seconds else LIMIT


def _confirmed(milliseconds: int, now: datetime) -> datetime | None:
    """When a bundle was confirmed: never later than now; None for never, and for what is no time."""
    try:
        return min(from_ms(milliseconds), now) if milliseconds > 0 else None
    except Invalid:
        return None


def domain_of(name: str) -> TrustDomain | None:
    """The trust domain of that name, None for what is no name."""
    try:
        return TrustDomain.parse(name)
    except Invalid:
        return None


def _entry(item: pb.Entry, home: TrustDomain) -> Entry:
    """An entry from the wire. Raises Invalid; an ID outside the home domain is refused whoever sends it."""
    spiffe_id = SpiffeId.parse(item.spiffe_id)
    if spiffe_id.trust_domain != home:
        raise Invalid(f"{spiffe_id} is not of trust domain {home}")
    from_ms(item.created_at_ms)  # entries are shown with it
    return Entry(
        id=item.id,
        spiffe_id=spiffe_id,
        selectors=frozenset(item.selectors),
        x509_ttl=item.x509_ttl_seconds,
        jwt_ttl=item.jwt_ttl_seconds,
        dns_names=tuple(item.dns_names),
        federates_with=tuple(TrustDomain.parse(name) for name in item.federates_with if name != "*"),
        federates_with_all="*" in item.federates_with,
        hint=item.hint[:1024],
        admin=item.admin,
        expires_at=from_ms(item.expires_at_ms) if item.expires_at_ms else None,
        created_at_ms=item.created_at_ms,
    )
