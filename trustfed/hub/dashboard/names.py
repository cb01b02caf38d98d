"""Names that somebody else chose, made inert for a page: what does not print is shown as an escape, and nothing reorders.

HTML is Jinja's to escape. What is left are the tricks of text itself: control and format characters (bidirectional marks,
zero width, tags), separators, blanks that look like nothing, and towers of combining marks. Each is shown by its number,
as \\u{202e}; the name stands in <bdi>, so that no right-to-left letter moves what is beside it; and what is longer than
`LONG` characters loses its middle, with the whole in the title. The ends stay: they are what tells names apart.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from markupsafe import Markup, escape

LONG = 64
WHOLE = 4_096
"""What is never exceeded, not even by the whole name: longer than any name that a certificate may have."""
_MARKS = 2
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters and marks by category, and blank on every screen.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def visible(text: object, limit: int = WHOLE) -> str:
    """`text` as plain text in which every character can be seen; beyond `limit` characters its middle is "…"."""
    return "".join(piece for piece, _ in _pieces(shortened(_text(text), limit)))


def name(text: object, limit: int = LONG) -> Markup:
    """`text` as HTML that is inert: <bdi>, escapes for what does not print, the middle left out when it is long."""
    whole = _text(text)[: WHOLE + 1]
    short = shortened(whole, limit)
    body = Markup("").join(
        Markup('<span class="escape">{}</span>').format(piece) if hidden else escape(piece)
        for piece, hidden in _pieces(short)
    )
    if short == whole:
        return Markup('<bdi class="name">{}</bdi>').format(body)
    return Markup('<bdi class="name" title="{}">{}</bdi>').format(visible(whole), body)


def whole_name(text: object) -> Markup:
    """The same without leaving anything out below `WHOLE` characters: for the one place of a page that is about it."""
    return name(text, WHOLE)


def shortened(text: str, limit: int) -> str:
    """`text`, or its beginning and its end with "…" between them: `limit` characters."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) * 3 // 5
    return f"{text[: limit - 1 - tail]}…{text[-tail:]}"


def _text(value: object) -> str:
    # Not str(): a Markup would be a promise of somebody else's that it is safe.
    return "" if value is None else str.__str__(value) if isinstance(value, str) else str(value)


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Runs of what prints, and each character that does not as its escape."""
    run: list[str] = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        blank = (category == "Zs" and character != " ") or character in _BLANK or 0xFE00 <= ord(character) <= 0xFE0F
        if category not in _HIDDEN and not blank and marks <= _MARKS:
            run.append(character)
            continue
        if run:
            yield "".join(run), False
            run = []
        yield f"\\u{{{ord(character):04x}}}", True
    if run:
        yield "".join(run), False
