"""The rendered table of this cluster: what its istiods are to know, kept current from its journal.

Work is proportional to a change: an event names the hosts that it touches, those are decided anew, and only resources whose
bytes differ are told. The table is complete from construction on, so that a feed is never shown an empty one. Many hosts are
done in slices, so that the loop is not held; what they come to becomes visible at once, when all of them are done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol, TypeAlias

from rpds import HashTrieMap

from bundle_publisher.istio import exported
from bundle_publisher.istio.resource import Resource
from bundle_publisher.istio.settings import Settings
from trustfed.cluster import events as cluster_events
from trustfed.cluster.istio_ca.events import LegacyAnchorAdded, LegacyAnchorEnded
from trustfed.cluster.mesh import exported_hosts, imported_hosts
from trustfed.cluster.mesh.claims import Claimant, Claims
from trustfed.cluster.mesh.config import MeshConfig
from trustfed.cluster.mesh.outcomes import Outcome, View
from trustfed.cluster.mesh.reasons import Reason, because
from trustfed.cluster.mesh.route_index import RouteIndex
from trustfed.cluster.mesh.standing import Standing, next_change
from trustfed.cluster.mesh.touched import EXPORT, IMPORT, Place, Touched
from trustfed.cluster.mesh.whose import aliases, contested, first_accepted, peers
from trustfed.cluster.state import ClusterState
from trustfed.federation.mesh_digest import digest
from trustfed.journal.events import TypedEvent
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Registry
from trustfed.runtime.waiting import news_or_time

log = logs.get("cluster.routes")

MAX_RESOURCES = 20_000
"""As many as a feed takes (trustfed.feed.resources)."""
MAX_BYTES = 60 * 1024 * 1024
"""Of the manifests of all hosts; a feed takes 64 MiB, with the policy for all workloads. One foreign host can have 128 kB."""
SLICE_SECONDS = 0.005
_LONGEST_WAIT = 86_400.0
_MESH_POLICY = ("mesh", "")
Listener: TypeAlias = Callable[[Iterable[str]], None]


class Held(Protocol):
    """Where the state is: the cluster's fold."""

    @property
    def state(self) -> ClusterState: ...


class Routes:
    """What is rendered now, and why the rest is not."""

    def __init__(self, fold: Held, config: MeshConfig, clock: Clock, registry: Registry) -> None:
        self._fold, self._clock, self._reach = fold, clock, config.reach()
        self._settings, self._own_domains = settings_of(config, fold.state.trust_domain), config.own_domains
        self._contested: frozenset[str] = frozenset()
        self._touched = Touched(fold.state.mesh)
        self._news = asyncio.Event()
        self._claims, self._outcomes = Claims(), dict[Place, Outcome]()
        self._table: HashTrieMap[str, Resource] = HashTrieMap()
        self._next, self._digest = self._table, digest({})
        self._digested: object = self._table
        self._bytes = 0
        self._cut: list[str] = []
        self._crowded: set[Place] = set()  # that found no room
        self._standing = Standing(fold.state, clock.now())
        self._listeners: list[Listener] = []
        registry.gauge("mesh_routes_resources", "Rendered resources for istiod").read(lambda: float(len(self._table)))
        registry.gauge("mesh_routes_hosts", "Imported hosts that are rendered").read(
            lambda: float(sum(bool(one.resources) for place, one in self._outcomes.items() if place[0] == IMPORT))
        )
        self._changes = registry.counter("mesh_routes_changes_total", "Resources that were rendered anew or withdrawn")
        self._touched.everything()
        for _ in self.settle():
            pass

    def table(self) -> Mapping[str, Resource]:
        """By key KIND/NAMESPACE/NAME, as they are now; a later change makes another table."""
        return self._table

    def digest(self) -> bytes:
        """trustfed.federation.mesh_digest of the table."""
        if self._digested is not self._table:
            self._digested, self._digest = self._table, digest({key: one.version for key, one in self._table.items()})
        return self._digest

    def status(self) -> dict[str, object]:
        """For `trustfed mesh status`."""
        hosts = [bool(one.resources) for place, one in self._outcomes.items() if place[0] == IMPORT]
        return {
            "resources": len(self._table),
            "hosts": sum(hosts),
            "waiting": len(hosts) - sum(hosts),
            "own_domains": [self._settings.trust_domain, *self._settings.aliases],
            "own_domains_refused": sorted(self._contested),
        }

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with the keys that changed, after each change."""
        self._listeners.append(listener)

    def on_event(self, event: TypedEvent) -> None:
        """One event of the journal, after it was folded."""
        self._touched.event(event)
        if self._touched or isinstance(event, _GRANTS):
            self._news.set()

    async def run(self) -> None:
        """Follow the events, and the times at which grants begin and end; ends only when cancelled."""
        while True:
            now, state = self._clock.now(), self._fold.state
            due = next_change(state, now)
            wait = min((due - now).total_seconds() + 0.01, _LONGEST_WAIT) if due is not None else None
            await news_or_time(self._news, self._clock, wait)
            started = self._clock.monotonic()
            for _ in self.settle():
                if self._clock.monotonic() - started > SLICE_SECONDS:
                    await asyncio.sleep(0)
                    started = self._clock.monotonic()

    def imported(self, host: str) -> Outcome:
        """What an imported host came to, with the reasons."""
        known = self._outcomes.get((IMPORT, host))
        if known is not None and known.reasons:
            return known
        return Outcome(reasons=tuple(imported_hosts.wanted_but_absent(self._view(), host)))

    def exported(self, host: str) -> Outcome | None:
        """What an own export came to; None when there is none."""
        known = self._outcomes.get((EXPORT, host))
        if known is None or not known.reasons:
            return None
        cut = sum(caller in set(self._cut) for caller in known.callers)
        more = (because("callers-cut", callers=cut),) if cut else ()
        return Outcome(known.resources, (*known.reasons, *more), (), known.since, known.names, known.callers)

    def reasons(self, host: str) -> tuple[Reason, ...]:
        """Why a host is rendered here, or is not: of its import, then of its export."""
        out = self.exported(host)
        return (*self.imported(host).reasons, *(out.reasons if out is not None else ()))

    @property
    def index(self) -> RouteIndex:
        """Which hosts belong to which exporter, and what is imported."""
        return self._touched.index

    @property
    def standing(self) -> Standing:
        """The grants as they were when the table was last made."""
        return self._standing

    def hosts(self) -> list[str]:
        """Every host that is imported, offered or exported here."""
        exports = {host for place, host in self._outcomes if place == EXPORT}
        return sorted({*self._touched.index.hosts(), *exports})

    def _view(self) -> View:
        touched, mesh, settings = self._touched, self._fold.state.mesh, self._settings
        places = (touched.index, settings, self._reach, touched.workloads, touched.regions())
        return View(settings.trust_domain, mesh, self._standing, *places)

    def settle(self) -> Iterator[None]:
        """Decide every touched host anew, one per step; then show and tell what changed."""
        state = self._fold.state
        standing, known = Standing(state, self._clock.now()), aliases(state, self._own_domains)
        self._contest(contested(state, self._own_domains))
        others = peers(state, known)
        before, self._standing = self._standing, standing
        self._touched.domains(standing.changed(before))
        if (known, others) != (self._settings.aliases, self._settings.peers):
            self._settings = replace(self._settings, aliases=known, peers=others)
            self._touched.exports()
        changed: set[str] = set()
        while (place := self._touched.take()) is not None:
            changed |= self._decide(self._view(), place)
            yield
        if self._touched.callers_moved():
            changed |= self._put(_MESH_POLICY, self._mesh_policy())
        if changed:
            self._table = self._next
            self._changes.add(len(changed))
            log.info("routes changed", resources=len(changed), now=len(self._table))
            for listener in self._listeners:
                listener(changed)

    def _decide(self, view: View, place: Place) -> set[str]:
        kind, host = place
        try:
            outcome = (imported_hosts if kind == IMPORT else exported_hosts).decide(view, host)
        except Exception as error:  # whatever it is, it is of this host alone: the others and the cluster go on
            log.exception("a host cannot be rendered", error=error, host=host)
            outcome = Outcome(reasons=(because("invalid", host=host, why="an internal error, which the log has"),))
        if outcome.since is None or not outcome.resources:
            again, why = self._claims.release(*place), None
        else:
            held = self._held(place)
            instead = (*held, *self._held(_MESH_POLICY))  # which has room of its own, whether it is there yet or not
            room = len(self._next) - len(instead) + len(outcome.resources) < MAX_RESOURCES
            room = room and self._bytes - _size(instead) + _size(outcome.resources) <= MAX_BYTES
            taken, again = self._claims.take(Claimant(outcome.since, kind, host), outcome.names)
            why = because("name-taken", other=taken.host, host=host) if taken is not None else None
            why = why or (None if room else because("too-many", host=host))
        self._touched.places(again)
        self._crowded.discard(place)
        if why is not None and why.code == "too-many":
            self._crowded.add(place)
        if why is not None:
            outcome = Outcome(reasons=(why, *(one for one in outcome.reasons if not one.code.startswith("rendered"))))
        return self._put(place, outcome)

    def _held(self, place: Place) -> tuple[Resource, ...]:
        known = self._outcomes.get(place)
        return known.resources if known is not None else ()

    def _put(self, place: Place, outcome: Outcome) -> set[str]:
        """Take what a place came to into the next table; returns the keys that differ."""
        known = self._outcomes.get(place)
        before, after = self._held(place), outcome.resources
        if (known.callers if known else ()) != outcome.callers or bool(before) != bool(after):
            self._touched.callers()
        if outcome.reasons or outcome.resources:
            self._outcomes[place] = outcome
        else:
            self._outcomes.pop(place, None)
        changed = set()
        versions = {one.key: one.version for one in before}
        kept = {one.key for one in after}
        for one in before:
            if one.key not in kept and self._next.get(one.key) is one:
                self._next = self._next.discard(one.key)
                self._bytes -= len(one.manifest)
                changed.add(one.key)
        for one in after:
            if versions.get(one.key) != one.version or self._next.get(one.key) is None:
                changed.add(one.key)
            earlier = self._next.get(one.key)
            self._bytes += len(one.manifest) - (len(earlier.manifest) if earlier is not None else 0)
            self._next = self._next.insert(one.key, one)
        if self._crowded and (len(after) < len(before) or _size(after) < _size(before)):
            self._touched.places(self._crowded)  # there is room now
        return changed

    def _mesh_policy(self) -> Outcome:
        """The policy for all workloads, while there are peers, or something is exported or imported here."""
        places = [(kind, one) for (kind, _), one in self._outcomes.items() if one.resources and one.since is not None]
        known = [one.since for _, one in places if one.since is not None]
        accepted = first_accepted(self._fold.state, self._settings.peers)
        since = min([*known, *([accepted] if accepted is not None else [])], default=None)
        if since is None:
            return Outcome()
        callers = (caller for kind, one in places if kind == EXPORT for caller in one.callers)
        kept, self._cut = exported.bounded(callers, self._settings.peers)
        return Outcome((exported.mesh_policy(kept if known else None, since, self._settings),))

    def _contest(self, domains: frozenset[str]) -> None:
        if domains - self._contested:
            hint = "mesh.own_domains: a domain is a peer or this mesh's own, not both"
            log.error("configured own domains are peers: they stay foreign", domains=sorted(domains), hint=hint)
        self._contested = domains


def _size(resources: Iterable[Resource]) -> int:
    return sum(len(one.manifest) for one in resources)


def settings_of(config: MeshConfig, trust_domain: str) -> Settings:
    """What of a cluster's configuration goes into every resource."""
    selector = dict(label.partition("=")[::2] for label in config.gateway_selector)
    return Settings(
        trust_domain,
        config.root_namespace,
        selector,
        config.gateway_port,
        config.max_connection_duration,
    )


_GRANTS = (
    LegacyAnchorAdded,
    LegacyAnchorEnded,
    cluster_events.GrantOffered,
    cluster_events.GrantAccepted,
    cluster_events.GrantConfirmed,
    cluster_events.GrantRepinned,
    cluster_events.GrantEnded,
)
