"""What of a standing the cluster itself knows: its authorities and who holds them up, bundles, settings that will fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ca import lifecycle
from ca.lifecycle import AuthorityState, Consumer, Kind, Level, Status
from trustfed.cluster.authority_commands import waiting_for_root
from trustfed.cluster.config import ClusterConfig
from trustfed.cluster.freshness import Freshness
from trustfed.cluster.presence import Presence
from trustfed.cluster.state import ClusterState
from trustfed.evidence.standing import MAX_LISTED, Algorithm, Authority, Finding, Held
from trustfed.runtime.clock import Clock
from trustfed.runtime.timestamps import to_ms

_STRENGTH = 128


@dataclass(frozen=True)
class OwnStanding:
    """Asked whenever a standing is made; reads state only."""

    state: Callable[[], ClusterState]
    config: ClusterConfig
    presence: Presence
    consumers: Callable[[datetime], Sequence[Consumer]]
    policy: lifecycle.Policy
    freshness: Freshness
    clock: Clock

    def parts(self) -> dict[str, Any]:
        """Members of trustfed.evidence.standing.Standing."""
        state, now = self.state(), self.clock.now()
        return {
            "nodes": sum(not node.banned for node in state.nodes.values()),
            "nodes_live": len(self.presence.live(now)),
            "entries": len(state.entries),
            "authorities": self.authorities(),
            "held": self._held(state, now),
            "lint": self._lint(state, now),
            "orders": self.config.evidence.orders,
        }

    def owners(self) -> dict[str, str]:
        """Whose each entry is, where somebody is named."""
        return {entry.id: entry.owner for entry in self.state().entries.values() if entry.owner}

    def end_of(self, entry: str) -> int:
        """When an entry ends (Unix ms, whole seconds); 0: never, or there is none."""
        held = self.state().entries.get(entry)
        return to_ms(held.expires_at) // 1000 * 1000 if held is not None and held.expires_at is not None else 0

    def keys(self) -> tuple[Algorithm, ...]:
        """The keys that this cluster itself signs with."""
        state, custodian = self.state(), self.config.keys.store
        counts: dict[tuple[str, str], int] = {}
        for authority in state.authorities.values():
            if authority.status is not Status.REMOVED:
                purpose = "jwt" if authority.kind is Kind.JWT else "authority"
                at = purpose, "outside" if authority.kind is Kind.EXTERNAL else custodian
                counts[at] = counts.get(at, 0) + 1
        found = [Algorithm(what, "ec-p256", _STRENGTH, False, n, where) for (what, where), n in sorted(counts.items())]
        found.append(Algorithm("bundle signature", "ec-p256", _STRENGTH, False, 1, custodian))
        found.append(Algorithm("log", "ed25519", _STRENGTH, False, 1, custodian))
        return tuple(found)

    def authorities(self) -> tuple[Authority, ...]:
        """The rollover board of this domain."""
        state, now = self.state(), self.clock.now()
        everyone = list(self.consumers(now))
        own = [a for a in state.authorities.values() if a.status is not Status.REMOVED]
        own.sort(key=lambda a: (a.kind, a.not_before))
        return tuple(self._authority(a, state, everyone, now) for a in own[:MAX_LISTED])

    def _authority(
        self, a: AuthorityState, state: ClusterState, everyone: Sequence[Consumer], now: datetime
    ) -> Authority:
        waiting: tuple[str, ...] = ()
        if a.status is Status.PREPARED:
            for_root = waiting_for_root(state) if a.kind is Kind.X509 else []
            waiting = lifecycle.waiting_for(a, [*everyone, *for_root], self.policy, now)
        active = next((b for b in state.authorities.values() if b.kind is a.kind and b.status is Status.ACTIVE), None)
        by = lifecycle.last_safe_moment(active, self.policy) if active and a.status is Status.PREPARED else None
        moments = [m for m in (a.reissue_at, a.tainted_at, a.activated_at) if m is not None]
        return Authority(
            id=a.id,
            kind=str(a.kind),
            state=_state(a, waiting),
            algorithm="ec-p256",
            custodian="outside" if a.kind is Kind.EXTERNAL else self.config.keys.store,
            not_before_ms=to_ms(a.not_before),
            not_after_ms=to_ms(a.not_after),
            since_ms=to_ms(max(moments, default=a.not_before)),
            activates_by_ms=to_ms(by) if by is not None else 0,
            waiting_for=waiting[:20],
            waiting_count=len(waiting),
            paused=str(a.kind) in state.evidence.paused,
        )

    def _held(self, state: ClusterState, now: datetime) -> tuple[Held, ...]:
        """Peers' bundles as this domain has them, then the nodes that lag, until there are enough."""
        found = []
        for name in state.imports(now):
            peer, since = state.peers.get(name), self.freshness.counted_from(name)
            if peer is None:
                continue
            age = to_ms(now) - to_ms(since) if since is not None else 0
            hint = int(self.freshness.hint_of(name).total_seconds() * 1000)
            held = Held(
                name, state.trust_domain, peer.epoch, peer.sequence, peer.epoch, peer.sequence, max(age, 0), hint
            )
            found.append(held)
        found.sort(key=lambda held: -held.age_ms)
        hint = int(self.config.policy.refresh_hint.total_seconds() * 1000)
        newest = {
            state.trust_domain: state.level,
            **{p.trust_domain: Level(p.epoch, p.sequence) for p in state.peers.values()},
        }
        for node, present in self.presence.live(now):
            if len(found) >= MAX_LISTED:
                break
            heard = to_ms(now) - to_ms(present.heard) if present.heard is not None else 0
            for domain, at in present.levels.items():
                if domain in newest and at < newest[domain]:
                    found.append(Held(domain, node, *at, *newest[domain], max(heard, 0), hint))
        return tuple(found[:MAX_LISTED])

    def _lint(self, state: ClusterState, now: datetime) -> tuple[Finding, ...]:
        policy, found = self.config.policy, []
        overlap = policy.authority_ttl / 4
        if 2 * policy.refresh_hint > overlap:
            says = f"a reader may ask only every {2 * policy.refresh_hint}, and a successor stands by for {overlap}"
            hint = "a shorter policy.refresh_hint, or a longer policy.authority_ttl"
            found.append(Finding("hint-beyond-overlap", state.trust_domain, says, hint))
        if policy.node_ttl < 2 * timedelta(minutes=5):
            says = f"nodes' SVIDs live {policy.node_ttl}: a short outage of this cluster cuts them off"
            found.append(Finding("short-node-svid", state.trust_domain, says, "a longer policy.node_ttl"))
        for a in state.authorities.values():
            end = a.intermediate_not_after
            if (
                a.status is Status.ACTIVE
                and a.kind is Kind.X509
                and end is not None
                and end < now + policy.longest_leaf
            ):
                says = f"its intermediate ends at {end.isoformat()}, before the longest SVID would"
                found.append(
                    Finding("leaf-outlives-authority", a.id, says, "can the hub be reached? it signs the next one")
                )
        for entry in state.entries.values():
            if len(found) >= 50:
                break
            if entry.expires_at is not None and entry.expires_at < now + timedelta(seconds=entry.x509_ttl):
                says = f"entry {entry.id} ends at {entry.expires_at.isoformat()}, and its SVIDs with it"
                hint = "trustfed entry update --expires, or none"
                found.append(Finding("entry-ends", entry.spiffe_id, says, hint, advice=True))
        if self.config.evidence.witness_directory is None:
            says = "no auditor holds checkpoints of this cluster: who has its disk and its keys can tell another past"
            found.append(Finding("no-witness", state.trust_domain, says, "evidence.witness_directory", advice=True))
        return tuple(found)


def _state(a: AuthorityState, waiting: Sequence[str]) -> str:
    if a.tainted_at is not None:
        return "tainted"
    if a.status is Status.PREPARED:
        return "prepared" if waiting or a.first_level is None else "distributed"
    return str(a.status)
