"""SVG as safe markup: every name, attribute and text is escaped, and no inline style exists (the CSP forbids it).

A chart is a `<figure>`: an `<svg role="img">` named by its `<title>` and `<desc>`, and the same figures as a real table behind
"as a table". Geometry is in attributes, colour in classes of views.css, and no colour is the only signal: marks have shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache

from markupsafe import Markup, escape

from trustfed.hub.dashboard.names import name, visible


class Kind(StrEnum):
    """How something is, worst first; `glyph` is its shape and `word` what a reader of text gets."""

    BAD = "bad"
    WARN = "warn"
    UNKNOWN = "unknown"
    WITHHELD = "withheld"
    OK = "ok"
    NONE = "none"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return _ORDER.index(self)

    @property
    def word(self) -> str:
        """In words."""
        return _WORDS[self]


_ORDER = tuple(Kind)
_WORDS = {
    Kind.BAD: "failing",
    Kind.WARN: "needs attention",
    Kind.UNKNOWN: "not known",
    Kind.WITHHELD: "withheld",
    Kind.OK: "good",
    Kind.NONE: "nothing to say",
}
_SHAPES = {
    Kind.BAD: '<path d="M1 1h12v12H1z"/><path class="cut" d="M4 4l6 6M10 4l-6 6"/>',
    Kind.WARN: '<path d="M7 1l6.5 12H.5z"/><path class="cut" d="M7 5v4M7 10.6v1"/>',
    Kind.UNKNOWN: '<path d="M7 .5L13.5 7 7 13.5.5 7z"/><path class="cut" d="M7 4.4v.1M7 6.5v4"/>',
    Kind.WITHHELD: '<path d="M4 1h6l3.5 6L10 13H4L.5 7z"/><path class="cut" d="M4 9l5-5M6 11.5l5-5"/>',
    Kind.OK: '<circle cx="7" cy="7" r="6"/><path class="cut" d="M4 7.2l2.2 2.3L10 5"/>',
    Kind.NONE: '<path d="M3 6h8v2H3z"/>',
}


def tag(element: str, *children: object, **attributes: object) -> Markup:
    """One element. Attributes named class_ and the like lose the underscore, inner ones become dashes; None is left out.

    What is no markup is text: every character of it can be seen (trustfed.hub.dashboard.names), and none of it runs.
    """
    given = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _seen(value))
        for key, value in attributes.items()
        if value is not None
    ]
    inner = Markup("").join(child if isinstance(child, Markup) else escape(_seen(child)) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(element), Markup("").join(given), inner)  # noqa: S704 names are ours


def _seen(value: object) -> str:
    """A value as text in which every character can be seen; most are numbers and words of ours, and are that already."""
    plain = value if type(value) is str else str(value)
    return plain if len(plain) < 4_096 and plain.isascii() and plain.isprintable() else visible(plain)


def marks() -> Markup:
    """The shapes of all kinds, once per page; `mark` refers to them."""
    symbols = [tag("symbol", Markup(shape), id=f"mark-{kind}", viewBox="0 0 14 14") for kind, shape in _SHAPES.items()]  # noqa: S704
    return tag("svg", *symbols, class_="marks", aria_hidden="true", width="0", height="0")


@lru_cache(256)
def mark(kind: Kind, word: str | None = None) -> Markup:
    """A kind's shape, with its word for those who do not see it ("" when the text beside it says the same)."""
    said = kind.word if word is None else word
    shape = tag("svg", tag("use", href=f"#mark-{kind}"), class_=f"mark is-{kind}", aria_hidden="true")
    return shape + tag("span", said, class_="hidden") if said else shape


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A chart's figures in a table; the first column names the row. Long names lose their middle."""

    def cell(value: object) -> object:
        return value if isinstance(value, int | float) else name(value, 80)

    body = [
        tag("tr", tag("th", cell(row[0]), scope="row"), *(tag("td", cell(value)) for value in row[1:])) for row in rows
    ]
    columns = tag("tr", *(tag("th", column, scope="col") for column in head))
    return tag("table", tag("caption", caption), tag("thead", columns), tag("tbody", *body), class_="told")


def chart(
    id_: str,
    title: str,
    says: str,
    drawing: Markup,
    figures: Markup,
    view: tuple[float, float],
    *,
    stretch: bool = False,
) -> Markup:
    """The whole figure. `view` is the drawing's size in its own units; with `stretch` it fills the width it is given,
    so that it may hold no text: labels are then HTML beside it."""
    svg = tag(
        "svg",
        tag("title", title, id=f"{id_}-title"),
        tag("desc", says, id=f"{id_}-desc"),
        drawing,
        role="img",
        aria_labelledby=f"{id_}-title {id_}-desc",
        viewBox=f"0 0 {number(view[0])} {number(view[1])}",
        preserveAspectRatio="none" if stretch else None,
        width=None if stretch else number(view[0]),
        height=number(view[1]),
        class_="drawing stretch" if stretch else "drawing",
    )
    words = tag("figcaption", says)
    shown = tag(
        "details",
        tag("summary", "as a table"),
        tag("div", figures, class_="scroll", tabindex="0", role="region", aria_label=title),
    )
    return tag("figure", words, svg, shown, class_="chart", id=id_)


def rect(x: float, y: float, width: float, height: float, class_: str, **more: object) -> Markup:
    """A rectangle."""
    return tag("rect", x=number(x), y=number(y), width=number(width), height=number(height), class_=class_, **more)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A line."""
    return tag("line", x1=number(x1), y1=number(y1), x2=number(x2), y2=number(y2), class_=class_)


def label(x: float, y: float, text: object, class_: str = "label", anchor: str = "start") -> Markup:
    """Text at a point."""
    return tag("text", text, x=number(x), y=number(y), class_=class_, text_anchor=anchor)


def number(value: float) -> str:
    """A coordinate in as few digits as show no difference."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"
