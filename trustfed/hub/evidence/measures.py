"""The fleet on /metrics: figures, ages and failures of each trust domain, for Prometheus, Alertmanager and Grafana.

Simulated domains are left out: a demonstration pages nobody. What is withheld has no series.
"""

from __future__ import annotations

from collections import Counter

from trustfed.evidence.model import FEW
from trustfed.evidence.rollovers import stuck
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.views import DomainRow
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.metrics import Gauge, Registry

EVERY_SECONDS = 15.0
MAX_SERIES = 20_000
STATES = ("live", "stale", "away", "never")
_log = logs.get("hub.evidence")


class Measures:
    """`run` keeps the metrics up."""

    def __init__(self, fleet: Fleet, clock: Clock, registry: Registry) -> None:
        self._fleet, self._clock = fleet, clock
        self._states = registry.gauge("hub_fleet_domains", "Trust domains by how old their news are.", ("state",))
        self._success = registry.gauge(
            "hub_fleet_rotation_success",
            "Rotations that were on time in 30 days, a share; none while it is withheld.",
            ("trust_domain", "class"),
            limit=MAX_SERIES,
        )
        self._ended = registry.counter(
            "hub_fleet_obligations_total",
            "Rotations that were due and ended, by how they ended, as the hub hears of them.",
            ("trust_domain", "class", "outcome"),
            limit=MAX_SERIES,
        )
        self._age = registry.gauge(
            "hub_fleet_age_seconds", "Age of what is known of a trust domain.", ("trust_domain",), limit=MAX_SERIES
        )
        self._coverage = registry.gauge(
            "hub_fleet_coverage",
            "Share of its identities that a trust domain has evidence of.",
            ("trust_domain",),
            limit=MAX_SERIES,
        )
        self._overdue = registry.gauge(
            "hub_fleet_obligations_overdue", "Rotations that are due and not done.", ("trust_domain",), limit=MAX_SERIES
        )
        self._endings = registry.gauge(
            "hub_fleet_lives_ending",
            "SVIDs near their end without a successor in use.",
            ("trust_domain",),
            limit=MAX_SERIES,
        )
        self._unknown = registry.gauge(
            "hub_fleet_unknown_serials",
            "Certificates that a handshake showed and no ledger knows.",
            ("trust_domain",),
            limit=MAX_SERIES,
        )
        self._bundles = registry.gauge(
            "hub_fleet_bundles_overdue",
            "Bundles held for more than three refresh hints.",
            ("trust_domain",),
            limit=MAX_SERIES,
        )
        self._stuck = registry.gauge(
            "hub_fleet_rollovers_stuck",
            "Rollovers that something holds back, their last safe moment near.",
            ("trust_domain",),
            limit=MAX_SERIES,
        )
        self._offset = registry.gauge(
            "hub_fleet_clock_offset_seconds", "The largest clock offset of a node.", ("trust_domain",), limit=MAX_SERIES
        )
        self._problems = registry.gauge(
            "hub_fleet_log_problems",
            "Logs with a fork, a shrink or another inconsistency.",
            ("trust_domain",),
            limit=MAX_SERIES,
        )
        registry.gauge("hub_log_refused", "Clusters that hold another past of the hub's own log.").read(
            lambda: float(len(self._own_alarms()))
        )
        self._counted: Counter[tuple[str, str, str]] = Counter()
        self._shown: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                self.update()
            except Exception as error:  # what one domain says takes no other's metrics away, and not the hub
                _log.exception("the fleet's metrics could not be brought up to date", error)
            await self._clock.sleep(EVERY_SECONDS)

    def update(self) -> None:
        """Say what is so now."""
        rows = [row for row in self._fleet.domains() if not row.simulated]
        states = Counter(row.age.state for row in rows)
        for state in STATES:
            self._states.set(states[state], state=state)
        for row in rows:
            self._domain(row)
        names = {row.trust_domain for row in rows}
        for gone in self._shown - names:
            for gauge in self._gauges():
                gauge.remove(trust_domain=gone)
        self._shown = names

    def _domain(self, row: DomainRow) -> None:
        name, held = row.trust_domain, self._fleet.held(row.trust_domain)
        if row.age.age_ms is not None:
            self._age.set(row.age.age_ms / 1000, trust_domain=name)
        standing = held.standing
        if standing is not None:
            offsets = [abs(one.offset_ms) for one in standing.clocks]
            hints = [one for one in standing.held if one.hint_ms and one.age_ms > 3 * one.hint_ms]
            problems = {one.origin for one in standing.logs if one.problem}
            problems |= {subject for code, subject in held.alarms if code in ("log_inconsistent", "log_key")}
            self._coverage.set(standing.coverage, trust_domain=name)
            self._overdue.set(standing.overdue, trust_domain=name)
            self._endings.set(max(standing.endings_count, len(standing.endings)), trust_domain=name)
            self._unknown.set(sum(one.kind == "handshake" for one in standing.unknown), trust_domain=name)
            self._bundles.set(len(hints), trust_domain=name)
            self._stuck.set(len(stuck(standing.authorities, self._fleet.now_ms)), trust_domain=name)
            self._offset.set(max(offsets, default=0) / 1000, trust_domain=name)
            self._problems.set(len(problems), trust_domain=name)
        for class_ in held.series:
            if class_ not in FEW:
                headline = self._fleet.cell(name, class_).headline
                labels = {"trust_domain": name, "class": class_}
                if headline is None:
                    self._success.remove(**labels)
                else:
                    self._success.set(headline, **labels)
        for (class_, outcome), count in held.ended.items():
            before, key = self._counted[name, class_, outcome], (name, class_, outcome)
            if count > before:
                self._ended.add(count - before, trust_domain=name, outcome=outcome, **{"class": class_})
            self._counted[key] = count

    def _own_alarms(self) -> list[str]:
        return [one.what.subject for one in self._fleet.alarms("") if one.trust_domain == "" and one.source == "hub"]

    def _gauges(self) -> tuple[Gauge, ...]:
        return (
            self._age,
            self._coverage,
            self._overdue,
            self._endings,
            self._unknown,
            self._bundles,
            self._stuck,
            self._offset,
            self._problems,
        )
