"""The fleet as the hub knows it, ready to be shown: what dashboard, API and alerts read, and never wait for.

Everything is in memory and kept up as it is told (trustfed.hub.evidence.service tells it; a test may as well), so that reading
costs what is shown, not what is known. It belongs to the loop: no call here blocks or awaits, but `subscribe`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

from trustfed.errors import Invalid, NotFound
from trustfed.evidence.model import BUCKET_MS, COUNTS, FEW
from trustfed.evidence.standing import (
    Alarm,
    Algorithm,
    Authority,
    Clock,
    Finding,
    Log,
    Probe,
    Silent,
    Stage,
    Standing,
    Unknown,
)
from trustfed.hub.evidence import pictures, rows
from trustfed.hub.evidence.changes import Subscriber
from trustfed.hub.evidence.failures import Failures
from trustfed.hub.evidence.figures import CLASSES, JUDGED, class_named, counts_of, figure_of
from trustfed.hub.evidence.series import N, Series, bucket_of
from trustfed.hub.evidence.views import (
    Age,
    Change,
    Counts,
    DomainRow,
    Drift,
    FailedPage,
    Failure,
    Figure,
    HeatRow,
    Hit,
    Of,
    Raised,
    Runway,
    Totals,
)
from trustfed.runtime import clock as runtime_clock
from trustfed.spiffe.ids import shown

T = TypeVar("T")
CounterRow = tuple[str, int, Sequence[int]]
STALE_MS = 90_000
MAX_SUBSCRIBERS = 256
SETTLE_MS = 15 * 60 * 1000
"""For so long after a cluster began to tell everything anew, what it tells is not news."""
ENDED = tuple((COUNTS.index(name), name) for name in ("on_time", "late", "expired", "unknown"))
MAX_FIGURE_MS = 35 * 86_400_000


class Held:
    """What is held of one trust domain."""

    def __init__(self, owner: str) -> None:
        self.owner, self.simulated = owner, False
        self.connected, self.heard_ms, self.known_ms = False, 0, 0
        self.standing: Standing | None = None
        self.series: dict[str, Series] = {}
        self.failures = Failures()
        self.alarms: dict[tuple[str, str], Alarm] = {}
        self.ended: Counter[tuple[str, str]] = Counter()
        """Obligations that ended since this process began, by class and outcome: what a counter of /metrics is."""
        self.settled_ms = 0


class Fleet:
    """All trust domains: their standings, figures, failures and alarms."""

    def __init__(self, clock: runtime_clock.Clock, *, coverage_floor: float = 0.95) -> None:
        self._clock, self._floor = clock, coverage_floor
        self._domains: dict[str, Held] = {}
        self._subscribers: set[Subscriber] = set()
        self._figures: dict[tuple[str, str], Figure] = {}
        self._bucket = 0
        self._cache: dict[tuple[str, str], Any] = {}
        self._published: dict[str, tuple[int, int]] = {}
        self.version = 0

    # -- what is told

    def know(self, domain: str, *, owner: str = "", simulated: bool | None = None) -> None:
        """A trust domain takes part, also when it has said nothing yet; whether it is simulated its invitation said."""
        held = self._domains.get(domain)
        if held is None:
            held = self._domains[domain] = Held(owner)
            held.known_ms = self.now_ms
        held.owner = owner or held.owner
        held.simulated = held.simulated if simulated is None else simulated
        self._changed(domain, "domains")

    def published(self, domain: str, epoch: int, sequence: int) -> None:
        """The hub has taken this bundle of a trust domain: what its consumers are held against."""
        if self._published.get(domain) != (epoch, sequence):
            self._published[domain] = (epoch, sequence)
            self._changed(domain, "journal")

    def forget(self, domain: str) -> None:
        """A trust domain was removed: nothing of it is shown any more."""
        self._published.pop(domain, None)
        if self._domains.pop(domain, None) is not None:
            self._drop_figures(domain)
            self._changed(domain, "domains")

    def tell_standing(self, domain: str, standing: Standing) -> None:
        """How a trust domain stands now."""
        held = self._held(domain)
        old, held.standing = held.standing, standing
        held.heard_ms = max(held.heard_ms, standing.as_of_ms)
        if old is None or old.coverage != standing.coverage:
            self._drop_figures(domain)
        alarms = old is None or old.alarms != standing.alarms
        self._changed(domain, "standing", *(("alarms",) if alarms else ()))

    def tell_counters(self, domain: str, told: Iterable[CounterRow]) -> int:
        """Buckets as they are now; answers how many came too late to count. Invalid for an unknown class or impossible counts."""
        held, now, late = self._held(domain), bucket_of(self.now_ms), 0
        touched = set()
        for class_, bucket_ms, counts in told:
            try:
                change = self._series(held, class_).tell(bucket_of(bucket_ms), counts, now)
            except ValueError as error:
                raise Invalid(f"counters of {shown(domain)}: {error}") from error
            if change is None:
                late += 1
            elif held.settled_ms <= self.now_ms:
                for place, outcome in ENDED:
                    held.ended[class_, outcome] += max(change[place], 0)
            touched.add(class_)
        for class_ in touched:
            self._figures.pop((domain, class_), None)
        self._changed(domain, "counters")
        return late

    def tell_failed(self, domain: str, told: Iterable[Failure]) -> None:
        """Obligations that failed, or no longer have (outcome "")."""
        self._held(domain).failures.tell(told)
        self._changed(domain, "failed")

    def anew(self, domain: str) -> None:
        """A cluster begins to tell everything anew: counters and failures that were held are gone."""
        held = self._held(domain)
        held.series.clear()
        held.failures.clear()
        held.settled_ms = self.now_ms + SETTLE_MS
        self._drop_figures(domain)
        self._changed(domain, "counters", "failed")

    def stream(self, domain: str, connected: bool, at_ms: int) -> None:
        """The stream of a cluster began or ended, or it said that it lives."""
        held = self._held(domain)
        changed = held.connected != connected
        held.connected, held.heard_ms = connected, max(held.heard_ms, at_ms)
        if changed:
            self._changed(domain, "stream")

    def alarm(self, domain: str, alarm: Alarm) -> None:
        """The hub itself found something; "" is the hub's own."""
        held = self._held(domain)
        if held.alarms.get((alarm.code, alarm.subject)) != alarm:
            held.alarms[alarm.code, alarm.subject] = alarm
            self._changed(domain, "alarms")

    def calm(self, domain: str, code: str, subject: str = "") -> None:
        """It is over."""
        held = self._domains.get(domain)
        if held and held.alarms.pop((code, subject), None):
            self._changed(domain, "alarms")

    # -- what is read

    @property
    def now_ms(self) -> int:
        """The clock, Unix ms."""
        return int(self._clock.now().timestamp() * 1000)

    @property
    def names(self) -> list[str]:
        """The trust domains, by name."""
        return sorted(name for name in self._domains if name)

    @property
    def simulated(self) -> frozenset[str]:
        """Those that were invited as simulated."""
        return frozenset(name for name, held in self._domains.items() if held.simulated)

    def held(self, domain: str) -> Held:
        """What is held of one domain, for the store and the alerts. NotFound."""
        held = self._domains.get(domain)
        if held is None:
            raise NotFound(f"trust domain {shown(domain)} is not registered", hint="trustfed domain list")
        return held

    def standing(self, domain: str) -> Standing | None:
        """The newest picture of one domain."""
        return self.held(domain).standing

    def age(self, domain: str, now_ms: int | None = None) -> Age:
        """How old the news of a domain is."""
        held, now = self.held(domain), self.now_ms if now_ms is None else now_ms
        # A cluster says how it stands whenever that changes: what it said holds as long as it is heard.
        as_of = max(held.standing.as_of_ms if held.standing else 0, held.heard_ms)
        if not as_of:
            return Age("live" if held.connected else "never", 0, None)
        state = "away" if not held.connected else "stale" if now - as_of > STALE_MS else "live"
        return Age(state, as_of, max(now - as_of, 0))

    def domain(self, name: str) -> DomainRow:
        """One domain in one line. NotFound."""
        self._turn()
        return self._row(name, self.held(name), self.now_ms)

    def domains(self) -> list[DomainRow]:
        """All domains, worst first."""
        self._turn()
        now = self.now_ms
        return sorted((self._row(*one, now) for one in self._domains.items() if one[0]), key=rows.worst_first)

    def cell(self, domain: str, class_: str) -> Figure:
        """The figure of 30 days, up to the last whole five minutes."""
        self._turn()
        return self._cell(domain, self.held(domain), class_named(class_))

    def figure(self, domain: str, class_: str, from_ms: int, to_ms: int) -> Figure:
        """The figure of another window, within the last 35 days. Invalid for more."""
        if not 0 < to_ms - from_ms <= MAX_FIGURE_MS:
            raise Invalid("a window is of up to 35 days", hint="trustfed evidence report asks the cluster for more")
        held, class_ = self.held(domain), class_named(class_)
        window = (bucket_of(from_ms), bucket_of(to_ms))
        values = held.series[class_].sum(*window) if class_ in held.series else [0] * N
        coverage = held.standing.coverage if held.standing else 1.0
        return figure_of(domain, class_, window, values, coverage, self._floor)

    def sums(self, domain: str, class_: str, begin: int, end: int) -> list[int]:
        """What the burn rates need of the raw counts of the buckets from `begin` to before `end`."""
        series = self.held(domain).series.get(class_)
        return series.sum(begin, end, JUDGED) if series else [0] * N

    def trend(self, domain: str, class_: str, hours: int = 720) -> list[tuple[int, Counts]]:
        """The hours with something due, oldest first: (Unix ms, counts)."""
        series, now = self.held(domain).series.get(class_named(class_)), bucket_of(self.now_ms)
        if series is None:
            return []
        return [(at * BUCKET_MS, counts_of(found)) for at, found in series.hours(now - min(hours, 840) * 12, now)]

    def heatmap(self) -> list[HeatRow]:
        """Domains by classes, worst first."""
        held, worst = self._domains, self.domains()
        return [
            HeatRow(row, tuple([self._cell(row.trust_domain, held[row.trust_domain], one) for one in CLASSES]))
            for row in worst
        ]

    def totals(self, every: Sequence[DomainRow] | None = None) -> Totals:
        """The whole fleet; `every` are the rows of `domains`, for who has just asked for them."""
        return rows.totals_of(self.domains() if every is None else every, self._fleet_figures())

    def funnel(self, domain: str = "") -> list[Stage]:
        """How far the window's obligations came, and why the others did not."""
        return self._view("funnel", domain, pictures.funnel)

    def runway(self, domain: str = "") -> Runway:
        """What ends in the hours to come."""
        return self._view("runway", domain, pictures.runway)

    def board(self, domain: str = "") -> list[Of[Authority]]:
        """The authorities that are being rolled over, those that wait for somebody first."""
        return self._view("board", domain, pictures.board)

    def drift(self, domain: str = "") -> list[Drift]:
        """Publisher against consumer, furthest behind first; of one domain: as either side."""
        found = self._view("drift", "", lambda told: pictures.drift(told, self._published))
        return [one for one in found if not domain or domain in (one.consumer, one.publisher)]

    def unknown(self, domain: str = "") -> list[Of[Unknown]]:
        """Certificates that nobody's ledger knows, newest first."""
        return self._view("unknown", domain, pictures.unknown)

    def algorithms(self, domain: str = "") -> list[Algorithm]:
        """Live keys and certificates by purpose and algorithm, weakest first."""
        return self._view("algorithms", domain, pictures.algorithms)

    def lint(self, domain: str = "") -> list[Of[Finding]]:
        """What is configured so that it will fail; what is only advised comes last."""
        return self._view("lint", domain, pictures.listed("lint", lambda one: one.what.advice))

    def probes(self, domain: str = "") -> list[Of[Probe]]:
        """What is asked again and again; what is down first."""
        return self._view("probes", domain, pictures.listed("probes", lambda one: (one.what.up, one.what.up_share)))

    def clocks(self, domain: str = "") -> list[Of[Clock]]:
        """Nodes whose clock differs, furthest first."""
        return self._view("clocks", domain, pictures.listed("clocks", lambda one: -abs(one.what.offset_ms)))

    def silent(self, domain: str = "") -> list[Of[Silent]]:
        """Nodes that nothing is heard of, longest first."""
        return self._view("silent", domain, pictures.listed("silent", lambda one: one.what.since_ms))

    def logs(self, domain: str = "") -> list[Of[Log]]:
        """The Merkle logs; those with a problem first."""
        return self._view("logs", domain, pictures.listed("logs", lambda one: not one.what.problem))

    def alarms(self, domain: str = "") -> list[Raised]:
        """What somebody has to look at now: the hub's own findings and the clusters'; pages first, then by age."""
        held = [(name, one) for name, one in self._domains.items() if not domain or name == domain]
        return rows.alarms(held)

    def failed(self, domain: str = "", class_: str = "", page: int = 1, size: int = 50) -> FailedPage:
        """Failed obligations, newest first. NotFound for an unknown domain."""
        names = [domain] if domain else self.names
        return rows.failed([(name, self.held(name)) for name in names], class_, max(page, 1), min(max(size, 1), 500))

    def find(self, text: str, limit: int = 50) -> list[Hit]:
        """What the hub itself knows under this text: a part of a domain's name or a SPIFFE ID, the beginning of a serial."""
        return rows.find([(name, held) for name, held in self._domains.items() if name], text, limit)

    async def subscribe(self) -> AsyncIterator[Change]:
        """What changes from now on; whoever is slow gets several changes as one. Invalid when too many listen."""
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise Invalid(f"{MAX_SUBSCRIBERS} readers listen already", hint="close another page")
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        try:
            while True:
                await subscriber.news.wait()
                yield subscriber.take(self.version)
        finally:
            self._subscribers.discard(subscriber)

    # -- inside

    def _held(self, domain: str) -> Held:
        return self._domains.setdefault(domain, Held(""))

    def _series(self, held: Held, class_: str) -> Series:
        if class_ not in held.series:
            held.series[class_named(class_)] = Series(few=class_ in FEW)
        return held.series[class_]

    def _changed(self, domain: str, *kinds: str) -> None:
        self.version += 1
        if "counters" not in kinds and "failed" not in kinds and "stream" not in kinds:
            self._cache.clear()
        for subscriber in self._subscribers:
            subscriber.add(domain, kinds)

    def _drop_figures(self, domain: str) -> None:
        for name in CLASSES:
            self._figures.pop((domain, name), None)

    def _row(self, name: str, held: Held, now_ms: int) -> DomainRow:
        return rows.row_of(name, held, self.age(name, now_ms), [self._cell(name, held, one) for one in held.series])

    def _cell(self, domain: str, held: Held, class_: str) -> Figure:
        figure = self._figures.get((domain, class_))
        if figure is None:
            series = held.series.get(class_) or Series(few=class_ in FEW)
            series.advance(self._bucket)
            coverage = held.standing.coverage if held.standing else 1.0
            figure = figure_of(domain, class_, series.window, series.total, coverage, self._floor)
            self._figures[domain, class_] = figure
        return figure

    def _turn(self) -> None:
        """Every five minutes the window of each figure moves on."""
        bucket = bucket_of(self.now_ms)
        if bucket != self._bucket:
            self._bucket = bucket
            self._figures.clear()

    def _fleet_figures(self) -> dict[str, Figure]:
        self._turn()
        sums = {name: [0] * N for name in CLASSES}
        window = (0, self._bucket)
        for held in self._domains.values():
            for name, series in held.series.items():
                series.advance(self._bucket)
                window = series.window
                sums[name] = [one + other for one, other in zip(sums[name], series.total, strict=True)]
        return {name: figure_of("", name, window, sums[name], 1.0, self._floor) for name in CLASSES}

    def _view(self, name: str, domain: str, make: Callable[[pictures.Told], T]) -> T:
        """A list over standings; kept until one of them changes."""
        if domain:
            self.held(domain)
        if (name, domain) not in self._cache:
            told = [(key, held.standing) for key, held in self._domains.items() if held.standing]
            self._cache[name, domain] = make([one for one in told if not domain or one[0] == domain])
        kept: T = self._cache[name, domain]
        return kept
