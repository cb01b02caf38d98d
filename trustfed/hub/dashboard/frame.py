"""The frame that every page stands in: what a page is, who looks at it, and how it is rendered.

    View("/expiry", "Expiry runway", "What ends next, and what has no successor?", expiry, group="Rotation")

    async def expiry(request: Request) -> Response:
        visit = visit_of(request)
        return render(request, "views/expiry.html.jinja", runway=visit.parts.fleet..., as_of_ms=...)

Templates are Jinja2 with autoescape on for all of them, and undefined names are errors. Nothing in a page is inline:
no script, no style, no handler; the Content-Security-Policy would not run it (trustfed.hub.dashboard.security_headers).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2
from jinja2.bccache import Bucket
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from trustfed.hub.access import ROLES, Caller
from trustfed.hub.dashboard import figures, names
from trustfed.hub.dashboard.static_files import StaticFiles
from trustfed.runtime.timestamps import to_ms

if TYPE_CHECKING:
    from trustfed.hub.dashboard.parts import DashboardParts
    from trustfed.hub.dashboard.sessions import Session

PREFIX = "/dashboard"
TEMPLATES = Path(__file__).parent / "templates"
STALE_MS = 90_000
"""A picture older than this is called stale: clusters send theirs every few seconds, and a missing one is news."""

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class View:
    """One page: where it is, what it is called, the question that it answers, and the least role that may see it.

    `path` is below /dashboard, such as "/expiry" or "/domains/{name}". `group` is the heading in the navigation; a view
    without one is not in it. `role` is viewer, auditor, operator or admin. Views answer GET and change nothing.
    """

    path: str
    title: str
    question: str
    handler: Handler
    role: str = "viewer"
    group: str = ""


@dataclass(frozen=True)
class Visit:
    """Who looks at a page, in which session, and the moment that the whole page speaks of."""

    parts: DashboardParts
    session: Session
    now_ms: int
    mark: str
    """What the page knows of the news (trustfed.hub.dashboard.news): taken before anything is read for it."""

    @property
    def caller(self) -> Caller:
        """Who it is for the journal, with the role that limits what may be asked."""
        return self.session.caller

    def may(self, role: str) -> bool:
        """Whether this visitor's role is `role` or above."""
        return ROLES.index(self.session.role) >= ROLES.index(role)


def visit_of(request: Request) -> Visit:
    """The visit that the guard of the route let in (trustfed.hub.dashboard.door)."""
    visit: Visit = request.state.visit
    return visit


def render(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """A page. `as_of_ms` in the context is shown as its age, and as stale beyond `stale_after_ms` (STALE_MS)."""
    frame: Frame = request.app.state.frame
    return HTMLResponse(frame.html(request, template, context), status)


class _Compiled(jinja2.BytecodeCache):
    """Templates that this process has compiled once: each further Frame loads them."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give what is held."""
        if bucket.key in self._held:
            bucket.bytecode_from_string(self._held[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Hold it."""
        self._held[bucket.key] = bucket.bytecode_to_string()


_COMPILED = _Compiled()


class Frame:
    """The templates, and what all of them know."""

    def __init__(self, views: Sequence[View], static: StaticFiles, folder: Path = TEMPLATES) -> None:
        self.views = tuple(views)
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            bytecode_cache=_COMPILED,
        )
        self._environment.filters.update(
            name=names.name,
            whole_name=names.whole_name,
            visible=names.visible,
            stamp=figures.stamp,
            moment=figures.moment,
            when=figures.when,
            age=figures.age,
            span=figures.span,
            number=figures.number,
            share=figures.share,
            plural=figures.plural,
        )
        self._environment.globals.update(static=static.url, dashboard=PREFIX)
        # Macros of all pages, as `ui.badge(...)`: they are given what they need, and see no page's context.
        self._environment.globals["ui"] = self._environment.get_template("ui.html.jinja").module

    def ahead(self) -> Iterator[None]:
        """Compile the templates one by one, 20 ms each, so that no page's first reader waits for it."""
        for name in self._environment.list_templates():
            yield None
            self._environment.get_template(name)

    def html(self, request: Request, template: str, context: dict[str, Any]) -> str:
        """The text of a page."""
        visit: Visit | None = getattr(request.state, "visit", None)
        view: View | None = getattr(request.state, "view", None)
        # As it was sent: request.url is put together with the Host that a client names.
        path, query = quote(request.scope["path"]), request.scope["query_string"].decode("latin-1")
        known: dict[str, Any] = {
            "visit": visit,
            "view": view,
            "title": view.title if view else "trustfed",
            "question": view.question if view else "",
            "here": path,
            "address": f"{path}?{query}" if query else path,
            "navigation": self._navigation(visit),
            "now_ms": visit.now_ms if visit else to_ms(request.app.state.clock.now()),
            "as_of_ms": None,
            "stale_after_ms": STALE_MS,
            "csrf": visit.session.csrf if visit else "",
            "searched": "",
        }
        return self._environment.get_template(template).render({**known, **context})

    def _navigation(self, visit: Visit | None) -> list[tuple[str, list[View]]]:
        groups: dict[str, list[View]] = {}
        if visit:
            for view in self.views:
                if view.group and visit.may(view.role):
                    groups.setdefault(view.group, []).append(view)
        return list(groups.items())
