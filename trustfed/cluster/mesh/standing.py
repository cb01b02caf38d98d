"""Between which domains calls may pass now: both grants, of each domain for the other's identities. Pure."""

from __future__ import annotations

from datetime import datetime

from bundle_publisher.istio.resource import timestamp
from trustfed.cluster.mesh.reasons import Reason, because
from trustfed.cluster.state import ClusterState, Grant


class Standing:
    """The grants of one state at one time; made in one walk over them."""

    def __init__(self, state: ClusterState, now: datetime) -> None:
        self._own, self._now = state.trust_domain, now
        self._of: dict[tuple[str, str], list[Grant]] = {}  # accepting and accepted domain
        for grant in state.grants.values():
            self._of.setdefault((grant.importer, grant.exporter), []).append(grant)
        pairs = self._of.items()
        stand = {pair for pair, grants in pairs if any(_stands(grant, now) for grant in grants)}
        ours = {accepted for accepting, accepted in stand if accepting == self._own}
        self.both = frozenset(domain for domain in ours if (domain, self._own) in stand)
        """The domains with which both grants stand."""
        # A domain outside the federation tells nobody whether it accepts ours.
        outside = {grant.exporter for (one, _), grants in pairs for grant in grants if grant.local and one == self._own}
        self.admitted = frozenset(self.both | (ours & outside))
        """The domains whose identities may be let in where they are named."""
        self.pinned = {
            domain: grant.exporter_key
            for domain in ours
            for grant in self._of[self._own, domain]
            if _stands(grant, now)
        }
        """Of the domains that are accepted now: the publication key that was pinned."""

        self.reasons = {domain: self.why_not(domain) for pair in self._of for domain in pair if domain != self._own}
        """Of every domain that grants speak of: what `why_not` says."""

    def changed(self, before: Standing) -> frozenset[str]:
        """The domains with which something stands otherwise than it did before, or for another reason."""
        named = self.reasons.keys() | before.reasons.keys()
        return frozenset(name for name in named if self._told(name) != before._told(name))

    def _told(self, domain: str) -> tuple[bool, bytes | None, Reason | None]:
        return domain in self.admitted, self.pinned.get(domain), self.reasons.get(domain)

    def why_not(self, domain: str) -> Reason | None:
        """Why calls between this domain and `domain` may not pass; None when they may."""
        if domain in self.both:
            return None
        ways = [(self._own, domain), (domain, self._own)]
        lacking = [way for way in ways if not any(_stands(grant, self._now) for grant in self._of.get(way, ()))]
        for accepting, accepted in lacking:
            grants = [grant for grant in self._of.get((accepting, accepted), ()) if grant.state != "offered"]
            to_come = [
                grant.from_ for grant in grants if grant.state == "accepted" and self._now < grant.from_ < grant.until
            ]
            words = {"accepting": accepting, "accepted": accepted}
            if to_come:
                return because("grant-not-begun", domain, when=timestamp(min(to_come)), **words)
            if grants:
                ended = max(min(grant.ended_at or grant.until, grant.until) for grant in grants)
                return because("grant-ended", domain, when=timestamp(ended), **words)
        if len(lacking) == len(ways):
            return because("no-grant", domain, own=self._own)
        accepted, accepting = lacking[0]
        return because("grant-one-way", domain, accepting=accepting, accepted=accepted)


def next_change(state: ClusterState, now: datetime) -> datetime | None:
    """When time alone changes what stands; None: never."""
    accepted = [grant for grant in state.grants.values() if grant.state == "accepted"]
    return min((at for grant in accepted for at in (grant.from_, grant.until) if at > now), default=None)


def _stands(grant: Grant, now: datetime) -> bool:
    return grant.state == "accepted" and grant.from_ <= now < grant.until
