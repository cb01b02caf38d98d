"""The bundles that a node holds, when each was last confirmed, and which of them are CLOSED by now (agent.freshness)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agent.freshness import LIMIT, Freshness, State, judge
from trustfed.federation.envelope import Envelope, PublicationKey
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.ids import TrustDomain

_NEVER = datetime.max.replace(tzinfo=UTC)
_ALWAYS = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class HeldBundle:
    """A verified envelope, and the key that it is pinned by."""

    envelope: Envelope
    key: PublicationKey
    received_at: datetime

    @property
    def bundle(self) -> Bundle:
        """The bundle inside."""
        return self.envelope.bundle


class Bundles:
    """How the bundles of one store stand; `held` is the store's own mapping. The home bundle is never judged."""

    def __init__(self, home: TrustDomain, held: dict[TrustDomain, HeldBundle]) -> None:
        self._home, self._held = home, held
        self.confirmed: dict[TrustDomain, datetime] = {}
        self.limits: dict[TrustDomain, timedelta] = {}
        self.closed: frozenset[TrustDomain] = frozenset()
        self.next = _NEVER
        """When a state changes next if nothing is heard."""

    def put(self, held: HeldBundle, confirmed_at: datetime | None) -> None:
        """Replace a bundle. What confirmed the one before it says nothing of this one."""
        domain = held.bundle.trust_domain
        self._held[domain] = held
        if confirmed_at is None:
            self.confirmed.pop(domain, None)
        else:
            self.confirmed[domain] = confirmed_at
        self.next = _ALWAYS

    def confirm(self, domain: TrustDomain, at: datetime) -> bool:
        """Take a confirmation of the bundle held; False when it is no news."""
        if domain not in self._held or at <= self.confirmed.get(domain, _ALWAYS):
            return False
        self.confirmed[domain] = at
        self.next = _ALWAYS
        return True

    def limit(self, domain: TrustDomain, limit: timedelta) -> bool:
        """How long a domain's bundle is used unconfirmed; False when that is no news."""
        if self.limits.get(domain, LIMIT) == limit:
            return False
        self.limits[domain] = limit
        self.next = _ALWAYS
        return True

    def remove(self, domain: TrustDomain) -> bool:
        """Forget a domain; False when there was nothing."""
        self.confirmed.pop(domain, None)
        self.limits.pop(domain, None)
        self.closed -= {domain}
        return self._held.pop(domain, None) is not None

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
        self.confirmed.clear()
        self.limits.clear()
        self.closed, self.next = frozenset(), _NEVER

    def due(self, now: datetime) -> bool:
        """Whether a state may have changed by now."""
        return now >= self.next

    def of(self, domain: TrustDomain, now: datetime) -> Freshness | None:
        """How one foreign bundle stands; None for the home bundle, and for what is not held."""
        held = self._held.get(domain)
        if held is None or domain == self._home:
            return None
        confirmed = self.confirmed.get(domain, held.received_at)
        return judge(confirmed, held.bundle.refresh_hint, self.limits.get(domain, LIMIT), now)

    def judge(self, now: datetime) -> bool:
        """Look at all of them; True when others are closed than before."""
        closed, following = set(), _NEVER
        for domain in self._held:
            found = self.of(domain, now)
            if found is None:
                continue
            if found.state is State.CLOSED:
                closed.add(domain)
            if found.next is not None:
                following = min(following, found.next)
        before, self.closed, self.next = self.closed, frozenset(closed), following
        return before != self.closed
