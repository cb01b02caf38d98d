"""The life of one slot: each serial a bar from NotBefore to NotAfter, with what is known to have happened to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from markupsafe import Markup

from trustfed.hub.dashboard.charts.svg import chart, label, line, rect, table, tag
from trustfed.hub.dashboard.figures import LAST_MS

_WIDE, _LEFT, _ROW, _TOP = 960, 128, 34, 26
_SHAPES = {  # a level's shape around (0, 0): each differs, so that colour is not needed
    "issued": "M-1.5-7h3v14h-3z",
    "delivered": "M0-6l6 10H-6z",
    "loaded": "M-5-5H5V5H-5z",
    "confirmed": "M0-7l7 7-7 7-7-7z",
    "refused": "M-5-3l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z",
    "expired": "M-5-5L5 5M5-5L-5 5",
}
STEPS = tuple(_SHAPES)


@dataclass(frozen=True)
class Step:
    """Something that is known to have happened to a serial, Unix ms; `what` is one of STEPS."""

    at_ms: int
    what: str
    says: str = ""


@dataclass(frozen=True)
class Life:
    """One serial. Limits are 0 where no obligation was opened for it."""

    serial: str
    begin_ms: int
    end_ms: int
    on_time_ms: int = 0
    outcome: str = ""
    steps: Sequence[Step] = field(default_factory=tuple)


def timeline(id_: str, lives: Sequence[Life], now_ms: int, name: str, clock: str = "UTC") -> Markup:
    """Newest first. Time runs to the right; the upright line is now, the notch in a bar its on-time limit."""
    begin = min((life.begin_ms for life in lives), default=now_ms - 3_600_000)
    end = max([now_ms, *(life.end_ms for life in lives)])
    span, wide = max(end - begin, 1), _WIDE - _LEFT - 16

    def across(moment: int) -> float:
        return _LEFT + min(max((moment - begin) / span, 0.0), 1.0) * wide

    high = _TOP + _ROW * max(len(lives), 1) + 24
    drawn: list[Markup] = []
    for part in range(5):
        moment = begin + span * part // 4
        anchor = "start" if part == 0 else "end" if part == 4 else "middle"
        drawn += [line(across(moment), _TOP - 4, across(moment), high - 22, "grid")]
        drawn += [label(across(moment), high - 6, stamp(moment), "label dim", anchor)]
    for index, life in enumerate(lives):
        middle = _TOP + index * _ROW + _ROW / 2
        over = life.end_ms <= now_ms
        drawn.append(label(0, middle + 4, f"…{life.serial[-10:]}", "label mono"))
        drawn.append(
            rect(across(life.begin_ms), middle - 7, across(life.end_ms) - across(life.begin_ms), 14,
                 f"life {'is-over' if over else 'is-live'} out-{_word(life.outcome)}", rx=3)
        )  # fmt: skip
        if life.on_time_ms:
            drawn.append(line(across(life.on_time_ms), middle - 11, across(life.on_time_ms), middle + 11, "limit"))
        for step in life.steps:
            shape = _SHAPES.get(step.what, _SHAPES["issued"])
            where = f"translate({across(step.at_ms):.1f} {middle:.1f})"
            drawn.append(
                tag(
                    "path",
                    tag("title", f"{step.what} {stamp(step.at_ms)}"),
                    d=shape,
                    transform=where,
                    class_=f"step step-{_word(step.what)}",
                )
            )
    drawn += [
        line(across(now_ms), 12, across(now_ms), high - 22, "now"),
        label(across(now_ms), 9, "now", "label", "middle"),
    ]
    rows = [
        (life.serial, stamp(life.begin_ms), stamp(life.end_ms), life.outcome or "-",
         "; ".join(f"{step.what} {stamp(step.at_ms)}{' ' + step.says if step.says else ''}" for step in life.steps) or "-")
        for life in lives
    ]  # fmt: skip
    figures = table(f"Serials of {name}, times in {clock}", ["serial", "begins", "ends", "outcome", "evidence"], rows)
    says = f"{len(lives)} serials, newest first; times in {clock}."
    return chart(id_, f"Lineage of {name}", says, Markup("").join(drawn), figures, (_WIDE, high))


def stamp(moment_ms: int) -> str:
    """Unix ms as "11-21 18:30", UTC."""
    moment_ms = min(max(moment_ms, 0), LAST_MS)
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%m-%d %H:%M") if moment_ms else "-"


def _word(text: str) -> str:
    """For a class name: only what is in it."""
    return "".join(letter for letter in text if letter.isalnum() or letter in "_-")[:24] or "none"
