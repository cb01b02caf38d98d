"""What the pages of the dashboard share: their parameters, their lists cut into pages, and how a figure is to be seen.

Parameters come from whoever made the link: each is bounded and checked, and a wrong one is an error page, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from trustfed.errors import Invalid
from trustfed.evidence.model import FEW, Class
from trustfed.hub.dashboard.charts import runs, svg
from trustfed.hub.dashboard.charts.svg import Kind
from trustfed.hub.dashboard.frame import render, visit_of
from trustfed.hub.dashboard.views.offered import Offers
from trustfed.hub.evidence import rows
from trustfed.hub.evidence.figures import OBJECTIVE
from trustfed.hub.evidence.fleet import Fleet
from trustfed.hub.evidence.views import DomainRow, Drift, Figure
from trustfed.spiffe.ids import TrustDomain, shown

T = TypeVar("T")
MAX_PAGE = 10_000
CLASS_NAMES = {
    Class.LEAF: "Leaf",
    Class.AGENT: "Agent",
    Class.INTERMEDIATE: "Intermediate",
    Class.ROOT: "Root",
    Class.JWT_KEY: "JWT key",
    Class.BUNDLE: "Bundle",
}
_SEEN = {
    rows.PAGES: Kind.BAD,
    rows.FAILING: Kind.BAD,
    rows.QUIET: Kind.WARN,
    rows.TICKETS: Kind.WARN,
    rows.WITHHELD: Kind.WITHHELD,
    rows.WELL: Kind.OK,
}


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows of a list; `before` and `after` are addresses, or "" at the ends."""

    rows: Sequence[T]
    number: int
    pages: int
    total: int
    before: str
    after: str

    @property
    def says(self) -> str:
        """Where one is, for the pager."""
        return f"page {self.number} of {self.pages}, {self.total:,} in all"


def page_number(request: Request) -> int:
    """Parameter `page`, from 1. Invalid when it is no number."""
    given = request.query_params.get("page", "1")
    if not (given.isascii() and given.isdigit() and len(given) <= 9 and 1 <= int(given) <= MAX_PAGE):
        raise Invalid(f"page {shown(given)} is no page", hint=f"a number from 1 to {MAX_PAGE}")
    return int(given)


def cut(request: Request, rows: Sequence[T], size: int) -> Page[T]:
    """The page of a list that the request asks for; beyond the end, the last one."""
    pages = max(-(-len(rows) // size), 1)
    number = min(page_number(request), pages)
    return paged(request, rows[(number - 1) * size : number * size], number, pages, len(rows))


def paged(request: Request, rows: Sequence[T], number: int, pages: int, total: int) -> Page[T]:
    """A page that somebody else has cut."""
    before = link(request, page=number - 1) if number > 1 else ""
    after = link(request, page=number + 1) if number < pages else ""
    return Page(rows, number, pages, total, before, after)


def link(request: Request, **changes: object) -> str:
    """This page's address with some parameters changed; None or "" leaves one out."""
    asked = {**request.query_params, **{key: str(value) for key, value in changes.items() if value is not None}}
    kept = {key: value for key, value in asked.items() if value and key not in _without(changes)}
    return f"{request.url.path}?{urlencode(kept)}" if kept else request.url.path


def _without(changes: dict[str, object]) -> set[str]:
    return {key for key, value in changes.items() if value is None or value == ""}


def text(request: Request, name: str, most: int = 2_048) -> str:
    """A parameter as text, "" when it is not given. Invalid when it is too long."""
    given = request.query_params.get(name, "").strip()
    if len(given) > most:
        raise Invalid(f"{name} is longer than {most} characters")
    return given


def choice(request: Request, name: str, allowed: Sequence[str], default: str = "") -> str:
    """A parameter that is one of a few words."""
    given = request.query_params.get(name, "") or default
    if given and given not in allowed:
        raise Invalid(f"{name} {shown(given)} is unknown", hint="one of: " + ", ".join(allowed))
    return given


def domain_named(request: Request, given: str) -> str:
    """A trust domain that the hub knows, "" for none. Invalid for no name, NotFound for an unknown one."""
    if not given:
        return ""
    name = TrustDomain.parse(given).name
    fleet_of(request).domain(name)
    return name


def fleet_of(request: Request) -> Fleet:
    """What the hub knows of its clusters."""
    return visit_of(request).parts.fleet


@dataclass(frozen=True)
class Ground:
    """What every page about the fleet says first: whether there is anything, how old it is, and who is missing."""

    state: str  # empty | loading | away | ready
    as_of_ms: int
    away: list[DomainRow]
    never: list[DomainRow]


def ground(rows: Sequence[DomainRow]) -> Ground:
    """`rows` are the domains that the page is about."""
    told = [row for row in rows if row.age.as_of_ms]
    away = [row for row in told if row.age.state in ("away", "stale")]
    never = [row for row in rows if not row.age.as_of_ms]
    as_of = max((row.age.as_of_ms for row in told), default=0)
    state = "empty" if not rows else "loading" if not told else "away" if len(away) == len(told) else "ready"
    return Ground(state, as_of, away, never)


def seen(row: DomainRow) -> Kind:
    """A domain at a glance."""
    if row.age.state == "never":
        return Kind.NONE
    if row.age.state in ("away", "stale"):
        return Kind.UNKNOWN if not row.pages else Kind.BAD
    return _SEEN[row.severity]


def judged(figure: Figure) -> Kind:
    """A figure at a glance, against the objective."""
    counts = figure.counts
    failed = counts["late"] + counts["expired"] + counts["unknown"]
    if not counts["due"]:
        return Kind.NONE
    if figure.few:
        return Kind.BAD if failed else Kind.OK
    if figure.withheld:
        return Kind.WITHHELD
    if figure.headline is None:
        return Kind.NONE
    if figure.headline >= OBJECTIVE:
        return Kind.OK
    return Kind.WARN if figure.headline >= 0.99 else Kind.BAD


def lag(one: Drift) -> Kind:
    """One consumer of one publisher at a glance."""
    return Kind.BAD if one.overdue else Kind.WARN if one.behind or one.ahead else Kind.OK


def show(request: Request, template: str, **context: Any) -> Response:
    """A page of ours: `render` with the marks and small charts that its macros draw."""
    tools: dict[str, Any] = {
        "mark": svg.mark,
        "marks": svg.marks,
        "bar": runs.bar,
        "sparkline": runs.sparkline,
        "Kind": Kind,
    }
    fleet_tools: dict[str, Any] = {
        "seen": seen,
        "judged": judged,
        "lag": lag,
        "class_names": CLASS_NAMES,
        "few_classes": FEW,
        "offers": Offers(visit_of(request)),
        "simulated": fleet_of(request).simulated,
        "link": lambda **changes: link(request, **changes),
    }
    return render(request, f"views/{template}.html.jinja", **tools, **fleet_tools, **context)
