"""Authorities and bundles: the rollover board, the drift of bundles between domains, and who trusts whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from bundle_publisher.documents import bundle_name
from trustfed.evidence.standing import Authority
from trustfed.hub.dashboard.charts.svg import Kind
from trustfed.hub.dashboard.charts.trust_map import Link, Node, trust_map
from trustfed.hub.dashboard.frame import visit_of
from trustfed.hub.dashboard.views.pages import choice, cut, domain_named, fleet_of, ground, lag, seen, show, text
from trustfed.hub.dashboard.views.rollover import rotations
from trustfed.hub.evidence.views import Drift, Of
from trustfed.hub.publication import Publication
from trustfed.runtime.timestamps import to_ms
from trustfed.spiffe.ids import TrustDomain

LANES, PUBLISHERS, MATRIX, GRANTS = 20, 30, 16, 50
COLUMNS = ("prepared", "distributed", "active", "tainted", "removed")


@dataclass
class Lane:
    """One trust domain on the board: its authorities in the column of their state."""

    trust_domain: str
    as_of_ms: int
    columns: dict[str, list[Authority]] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    @property
    def kind(self) -> Kind:
        """How its rollovers go: a taint that is not cleaned up and a passed safe moment are the worst."""
        held = [one for column in self.columns.values() for one in column]
        if any(blocked(one, self.as_of_ms) is Kind.BAD for one in held):
            return Kind.BAD
        return Kind.WARN if any(blocked(one, self.as_of_ms) is Kind.WARN for one in held) else Kind.OK

    @property
    def moving(self) -> bool:
        """Whether anything is on its way."""
        return any(self.columns[name] for name in COLUMNS if name not in ("active", "removed"))


def blocked(authority: Authority, now_ms: int) -> Kind:
    """How one authority is: waiting past its last safe moment, waiting for somebody, or well."""
    if authority.state == "tainted" or (authority.waiting_count and 0 < authority.activates_by_ms <= now_ms):
        return Kind.BAD
    if authority.waiting_count or authority.paused:
        return Kind.WARN
    return Kind.OK


def lanes(held: Iterable[Of[Authority]]) -> list[Lane]:
    """The board: blocked domains first, then those with a rollover on its way, then the rest by name."""
    made: dict[str, Lane] = {}
    for one in held:
        lane = made.setdefault(one.trust_domain, Lane(one.trust_domain, one.as_of_ms))
        # What retires still signs nothing new and is still trusted: it stands beside its successor.
        column = "active" if one.what.state == "retiring" else one.what.state
        lane.columns.setdefault(column, []).append(one.what)
    return sorted(made.values(), key=lambda lane: (lane.kind.rank, not lane.moving, lane.trust_domain))


async def rollovers(request: Request) -> Response:
    """5: how far each rollover is, and who is waited for; of a class or one authority its rotations, asked of the cluster."""
    fleet = fleet_of(request)
    name = domain_named(request, text(request, "domain", 255))
    if text(request, "class") or text(request, "authority"):
        return await rotations(request, name)
    every = lanes(fleet.board(name))
    which = choice(request, "show", ("all", "moving"), "all" if len(every) <= LANES or name else "moving")
    listed = [lane for lane in every if which == "all" or lane.kind is not Kind.OK or lane.moving]
    found = ground([fleet.domain(name)] if name else fleet.domains())
    return show(
        request,
        "rollovers",
        lanes=cut(request, listed, LANES),
        columns=COLUMNS,
        which=which,
        every=len(every),
        blocked=blocked,
        blocked_count=sum(lane.kind is not Kind.OK for lane in every),
        moving=sum(lane.moving for lane in every),
        domain=name,
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )


@dataclass
class Published:
    """One publisher: what it has published where, and how far its consumers are."""

    trust_domain: str
    epoch: int
    sequence: int
    http: bool
    targets: list[dict[str, object]]
    consumers: list[Drift]

    @property
    def behind(self) -> list[Drift]:
        """Those that lack its newest, or say to hold what it never published."""
        return [one for one in self.consumers if one.behind or one.ahead]

    @property
    def overdue(self) -> int:
        """Those that lack it for longer than three refresh hints."""
        return sum(one.overdue for one in self.consumers)

    @property
    def kind(self) -> Kind:
        """At a glance."""
        if self.overdue or any(target["state"] == "failing" for target in self.targets):
            return Kind.BAD
        late = self.behind or any(target["state"] == "waiting" for target in self.targets)
        return Kind.WARN if late else Kind.OK if self.sequence else Kind.NONE


async def drift(request: Request) -> Response:
    """6: who publishes what, where, and who has not got it."""
    visit, fleet = visit_of(request), fleet_of(request)
    name = domain_named(request, text(request, "domain", 255))
    hub = visit.parts.hub
    told = _targets(hub.publication, visit.now_ms)
    every = fleet.drift(name)
    by_publisher: dict[str, list[Drift]] = {}
    for one in every:
        by_publisher.setdefault(one.publisher, []).append(one)
    domains = hub.operations.state.domains
    names = {record.name for record in domains.values() if record.status == "enrolled" and record.envelope}
    published = []
    for publisher in sorted(names | set(by_publisher)):
        if name and publisher != name and publisher not in by_publisher:
            continue
        record, consumers = domains.get(publisher), by_publisher.get(publisher, [])
        newest = max(((one.newest_epoch, one.newest_sequence) for one in consumers), default=(0, 0))
        if record and record.envelope:
            newest = max(newest, (record.epoch, record.sequence))
        http = bool(record and record.envelope)
        published.append(Published(publisher, *newest, http, told.get(publisher, []), consumers))
    published.sort(key=lambda one: (one.kind.rank, -one.overdue, -len(one.behind), one.trust_domain))
    found = ground(fleet.domains())
    rows, columns, cells = _matrix(published, every)
    return show(
        request,
        "drift",
        published=cut(request, published, PUBLISHERS),
        behind=[one for one in every if lag(one) is not Kind.OK][:100],
        behind_count=sum(bool(one.behind) or one.overdue for one in every),
        listed_count=sum(lag(one) is not Kind.OK for one in every),
        ahead_count=sum(one.ahead for one in every),
        overdue_count=sum(one.overdue for one in every),
        pairs=len(every),
        targets=sorted({str(target["target"]) for targets in told.values() for target in targets}),
        rows=rows,
        columns=columns,
        cells=cells,
        domain=name,
        ground=found,
        as_of_ms=found.as_of_ms or None,
    )


def _matrix(
    published: list[Published], every: list[Drift]
) -> tuple[list[str], list[str], dict[tuple[str, str], Drift]]:
    """The worst publishers against the consumers that lag most; a node that lags counts for its domain."""
    cells: dict[tuple[str, str], Drift] = {}
    for one in every:
        key = (one.publisher, one.consumer)
        held = cells.get(key)
        if held is None or (one.ahead, one.overdue, one.behind) > (held.ahead, held.overdue, held.behind):
            cells[key] = one
    rows = [one.trust_domain for one in published if one.consumers][:MATRIX]
    late: dict[str, tuple[int, int]] = {}
    for (publisher, consumer), one in cells.items():
        if publisher in rows:
            before = late.get(consumer, (0, 0))
            late[consumer] = (before[0] + one.overdue + one.ahead, before[1] + bool(one.behind))
    columns = sorted(late, key=lambda consumer: (-late[consumer][0], -late[consumer][1], consumer))[:MATRIX]
    return rows, columns, cells


def _targets(publication: Publication, now_ms: int) -> dict[str, list[dict[str, object]]]:
    """How each domain's bundle stands at each configured target."""
    told: dict[str, list[dict[str, object]]] = {}
    for status in publication.status():
        if not status.name.startswith(_BUNDLES):
            continue
        waiting = to_ms(status.wanted) if status.wanted else 0
        state = (
            ("failing" if status.error else "waiting")
            if status.wanted
            else "withdrawn"
            if status.withdrawn
            else "published"
        )
        told.setdefault(status.name.removeprefix(_BUNDLES), []).append(
            {
                "target": status.target,
                "state": state,
                "published_ms": to_ms(status.published) if status.published else 0,
                "lag_ms": now_ms - waiting if waiting else 0,
                "error": status.error,
                "hint": status.hint,
            }
        )
    return told


_BUNDLES = bundle_name(TrustDomain("x.example")).removesuffix("x.example")


async def trust(request: Request) -> Response:
    """Who trusts whom: a drawing, and every grant in a list."""
    visit, fleet = visit_of(request), fleet_of(request)
    owner = text(request, "owner", 256)
    state = visit.parts.hub.operations.state
    kinds = {row.trust_domain: seen(row) for row in fleet.domains()}
    records = [one for one in state.domains.values() if one.status == "enrolled"]
    words = {Kind.BAD: "bad", Kind.UNKNOWN: "stale", Kind.WITHHELD: "stale", Kind.NONE: "stale"}
    grants = [one for one in state.grants.values() if one.status != "ended"]
    if owner:
        mine = {one.name for one in records if one.owner == owner}
        grants = [one for one in grants if one.importer in mine or one.exporter in mine]
        near = mine | {one.importer for one in grants} | {one.exporter for one in grants}
        records = [one for one in records if one.name in near]
    nodes = [Node(one.name, one.owner, words.get(kinds.get(one.name, Kind.NONE), "ok")) for one in records]
    links = [Link(one.importer, one.exporter, one.status) for one in grants]
    listed = sorted(
        grants, key=lambda one: (one.status != "offered", one.until_ms or 1 << 62, one.importer, one.exporter)
    )
    owners = sorted({one.owner for one in state.domains.values() if one.status == "enrolled"})
    chart: Markup | None = trust_map("trust", nodes, links) if nodes else None
    return show(
        request,
        "trust",
        chart=chart,
        grants=cut(request, listed, GRANTS),
        owner=owner,
        owners=owners[:100],
        domains=len(nodes),
        ground=ground(fleet.domains()),
        as_of_ms=visit.now_ms,
    )
