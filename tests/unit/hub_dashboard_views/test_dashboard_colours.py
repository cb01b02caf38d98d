"""Both themes have contrast: whatever colour is written on whatever ground (WCAG 2.2, 1.4.3 and 1.4.11)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trustfed.hub.dashboard.static_files import FOLDER

GROUNDS = ("ground", "surface", "surface-2")
ON_ANY = ("text", "text-2", "link")
STATES = ("good", "warn", "bad", "unknown", "info")
SHEETS = {path.name: path.read_text() for path in Path(FOLDER).glob("*.css")}


def themes() -> dict[str, dict[str, str]]:
    """The colours of the light theme, and what they are in the dark one."""
    blocks = re.findall(r":root \{(.*?)\}", SHEETS["style.css"], re.S)[:2]
    light, dark = (dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block)) for block in blocks)
    return {"light": light, "dark": {**light, **dark}}


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2, definitions)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """From 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_written_can_be_read(theme: str) -> None:
    of = themes()[theme]
    pairs = [(text, ground) for text in (*ON_ANY, *STATES) for ground in GROUNDS]
    pairs += [(state, f"{state}-ground") for state in STATES]
    pairs += [(text, f"{state}-ground") for text in ON_ANY for state in STATES]
    pairs += [("on-accent", "accent"), ("surface", "bad")]
    poor = {pair: round(contrast(of[pair[0]], of[pair[1]]), 2) for pair in pairs}
    assert {pair: found for pair, found in poor.items() if found < 4.5} == {}
    edges = [("focus", ground) for ground in GROUNDS] + [("line-strong", ground) for ground in ("ground", "surface")]
    lines = {(line, ground): contrast(of[line], of[ground]) for line, ground in edges}
    assert {pair: found for pair, found in lines.items() if found < 3} == {}


def test_colours_are_named_in_one_place() -> None:
    """Or a page could have one that no theme knows."""
    for name, sheet in SHEETS.items():
        rules = sheet.partition("*, *::before")[2] if name == "style.css" else sheet
        rules = rules.partition("@media print")[0]
        assert re.findall(r"(?:color|background|fill|stroke):[^;{}]*#[0-9a-f]{3,8}", rules) == []
