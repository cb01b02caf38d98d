"""Times, ages and numbers as a page shows them: UTC first, and never rounder than the truth.

A <time> carries its moment in `datetime`; dashboard.js adds the reader's own zone, and without it UTC is all there is.
Times are Unix ms; 0 is never.
"""

from __future__ import annotations

from datetime import UTC, datetime

from markupsafe import Markup

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
LAST_MS = 253_402_300_799_000  # 9999-12-31: what datetime can say


def stamp(ms: int) -> str:
    """A moment for programs: "2026-03-01T12:00:00Z"."""
    return datetime.fromtimestamp(min(max(ms, 0), LAST_MS) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(ms: int | None, *, seconds: bool = True) -> Markup:
    """A moment as <time>, in UTC; "never" for 0."""
    if not ms:
        return Markup('<span class="absent">never</span>')
    at = datetime.fromtimestamp(min(max(ms, 0), LAST_MS) / 1000, UTC)
    text = at.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}">{} UTC</time>').format(stamp(ms), text)


def when(text: str | None) -> Markup:
    """A moment that is written "2026-03-01T12:00:00Z", as <time>; "never" for None."""
    return moment(int(datetime.fromisoformat(text).timestamp() * 1000) if text else None)


def age(ms: int | None, now_ms: int) -> Markup:
    """How long ago it was, or how long it is until then, with the moment itself in `datetime`."""
    if not ms:
        return Markup('<span class="absent">never</span>')
    distance = now_ms - ms
    said = f"{span(distance)} ago" if distance >= 0 else f"in {span(-distance)}"
    if abs(distance) < 1_000:  # what is told while a page is made is a little younger than the page
        said = "now"
    return Markup('<time datetime="{}" data-age="{}">{}</time>').format(stamp(ms), ms, said)


def span(ms: int | float | None) -> str:
    """A duration in its two largest units: "3 d 4 h", "12 min", "0 s"."""
    left = int(abs(ms or 0) // 1000)
    parts: list[str] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return ("-" if (ms or 0) < -999 else "") + (" ".join(parts[:2]) or "0 s")


def number(value: int | float | None, digits: int = 0) -> str:
    """1,234,567; "-" is what is not known."""
    return "\u2013" if value is None else f"{value:,.{digits}f}"


def share(value: float | None, digits: int = 2) -> str:
    """A share as per cent, cut off and never rounded up: 0.99999 is "99.99 %", and only 1 is "100 %"."""
    if value is None:
        return "\u2013"
    if value >= 1:
        return "100 %"
    scale = 10**digits
    # A hair more than the value: 0.999 * 100 is 99.9 less one bit, and must not become 99.89.
    return f"{int(max(value, 0.0) * 100 * scale + 1e-9) / scale:.{digits}f} %"


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 node", "1,200 nodes"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
