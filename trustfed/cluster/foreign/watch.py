"""How foreign peers stand, for metrics, log and status: what we hold of them, and whether they still read our bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ca.lifecycle import Level
from trustfed.cluster.admin_parts import level_of
from trustfed.cluster.foreign import commands
from trustfed.cluster.foreign.poller import ForeignPeers
from trustfed.cluster.foreign.readers import Reader, Readers
from trustfed.cluster.state import ClusterState, ForeignPeer
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Gauge, Registry

log = logs.get("cluster.foreign")

OVERDUE_HINTS = 3
"""So many of our refresh hints without a visit, and a peer reads our bundle no longer."""
_TICK = 5.0


@dataclass
class _Visits:
    last: Reader | None = None
    overdue: bool = False


class Watch:
    """Looks at every peer every few seconds."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        peers: ForeignPeers,
        readers: Readers,
        own_hint: Callable[[], float],
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._fold, self._peers, self._readers, self._clock = fold, peers, readers, clock
        self._own_hint = own_hint
        self._visits: dict[str, _Visits] = {}
        self._shown: set[str] = set()
        self._gauges: dict[str, Gauge] = {
            "fetched": registry.gauge(
                "cluster_foreign_fetched_timestamp_seconds",
                "last time that a foreign bundle was found to be the newest, 0 for never",
                labels=("trust_domain",),
            ),
            "refused": registry.gauge(
                "cluster_foreign_refused",
                "1 while a foreign endpoint serves what is not believed",
                labels=("trust_domain",),
            ),
            "failures": registry.gauge(
                "cluster_foreign_failures",
                "fetches of a foreign bundle that failed since the last good one",
                labels=("trust_domain",),
            ),
            "unprotected": registry.gauge(
                "cluster_foreign_no_rollback_protection",
                "1 for a foreign bundle without a sequence",
                labels=("trust_domain",),
            ),
            "overdue": registry.gauge(
                "cluster_foreign_reader_overdue",
                "1 while a foreign peer, whose readers were named, reads our bundle no longer",
                labels=("trust_domain",),
            ),
        }

    async def run(self) -> None:
        """Ends only when cancelled."""
        while True:
            self.look()
            await self._clock.sleep(_TICK)

    def look(self) -> None:
        """Bring metrics up to date, and log who stopped or began to read our bundle."""
        state, now = self._fold.state, self._clock.now()
        names = set(state.foreign)
        for gone in self._shown - names:
            self._visits.pop(gone, None)
            for gauge in self._gauges.values():
                gauge.remove(trust_domain=gone)
        self._shown = names
        seen = self._readers.latest({name: peer.readers for name, peer in state.foreign.items() if peer.readers})
        for name, peer in state.foreign.items():
            course, visits = self._peers.course(name), self._visit(state, peer, seen.get(name), now)
            values = {
                "fetched": course.fetched_at.timestamp() if course.fetched_at else 0.0,
                "refused": float(bool(course.fault)),
                "failures": float(course.failures),
                "unprotected": float(bool(peer.keys) and peer.sequence is None),
                "overdue": float(visits.overdue),
            }
            for kind, value in values.items():
                self._gauges[kind].set(value, trust_domain=name)

    def status(self, peer: ForeignPeer) -> dict[str, Any]:
        """One peer, for `trustfed peer show`."""
        state, now = self._fold.state, self._clock.now()
        found = self._readers.latest({peer.trust_domain: peer.readers}).get(peer.trust_domain)
        course, visits = self._peers.course(peer.trust_domain), self._visit(state, peer, found, now)
        grant, held = state.grants.get(peer.grant), state.peers.get(peer.trust_domain)
        return {
            "trust_domain": peer.trust_domain,
            "profile": peer.profile,
            "url": peer.url,
            "endpoint_id": peer.endpoint_id,
            "own_ca": bool(peer.ca),
            "grant": peer.grant,
            "granted": commands.granted(state, peer, now),
            "until": grant.until if grant else None,
            "reason": grant.reason if grant else "",
            "added_at": peer.added_at,
            "condition": _condition(state, peer, course.error, course.fault, now),
            "sequence": peer.sequence,
            "rollback_protection": peer.sequence is not None if peer.keys else None,
            "keys": peer.keys,
            "refresh_hint": peer.refresh_hint or None,
            "level": level_of(Level(held.epoch, held.sequence)) if held and peer.keys else None,
            "accepted_at": peer.accepted_at,
            "attempted_at": course.attempted_at,
            "fetched_at": course.fetched_at,
            "next_at": course.next_at,
            "failures": course.failures,
            "error": course.error,
            "fault": course.fault or peer.fault,
            "refused_keys": course.refused_keys or peer.refused_keys,
            "refused_since": peer.fault_at,
            "readers": peer.readers,
            "reader": _shown(visits.last) if visits.last else None,
            "reader_overdue": visits.overdue if peer.readers else None,
        }

    def readers(self) -> list[dict[str, Any]]:
        """Everybody who reads our bundle, the newest first."""
        return [_shown(reader) for reader in self._readers.all()]

    def _visit(self, state: ClusterState, peer: ForeignPeer, found: Reader | None, now: datetime) -> _Visits:
        visits = self._visits.setdefault(peer.trust_domain, _Visits())
        if not peer.readers:
            visits.last, visits.overdue = None, False
            return visits
        if found is not None and (visits.last is None or found.at >= visits.last.at):
            visits.last = found
        since = visits.last.at if visits.last else max(self._readers.since, peer.added_at)
        limit = timedelta(seconds=OVERDUE_HINTS * self._own_hint())
        overdue = commands.granted(state, peer, now) and now - since > limit
        if overdue and not visits.overdue:
            log.error(
                "a foreign peer reads our bundle no longer", trust_domain=peer.trust_domain, since=since.isoformat()
            )
        elif visits.overdue and not overdue:
            log.info("a foreign peer reads our bundle again", trust_domain=peer.trust_domain)
        visits.overdue = overdue
        return visits


def _condition(state: ClusterState, peer: ForeignPeer, error: str, fault: str, now: datetime) -> str:
    """In a word: ended, refused, unreachable, waiting (for the first bundle), good."""
    if not commands.granted(state, peer, now):
        return "ended"
    if fault:
        return "refused"
    if error:
        return "unreachable"
    return "good" if peer.keys else "waiting"


def _shown(reader: Reader) -> dict[str, Any]:
    return {
        "address": reader.address,
        "profile": reader.profile,
        "document": reader.document,
        "level": {"epoch": reader.epoch, "sequence": reader.sequence},
        "at": reader.at,
        "count": reader.count,
    }
