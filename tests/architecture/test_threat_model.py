"""threat_model.md cites real tests: each control has one, each citation exists, and every part of the document is there."""

from __future__ import annotations

import ast
import re
from datetime import date
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, parsed, text

PAGE = Path("threat_model.md")
CITATION = re.compile(r"`(tests/[\w/.-]+\.py)::(\w+)(?:::(\w+))?`")
PARTS = (
    "Data flow",
    "Assets",
    "Actors",
    "Assumptions",
    "Boundaries",
    "Attack trees",
    "Blast radius",
    "Residual risks",
    "Out of scope",
)
TREES = ("Mint a foreign SVID", "Steal an SVID", "Plant a rogue root", "Outlast a revocation")
BOUNDARY_HEAD = ["", "threat", "control", "test", "residual"]


def _rows(markdown: str, head: list[str]) -> list[list[str]]:
    """The cells of every table with this head."""
    found: list[list[str]] = []
    taking = False
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            taking = False
        elif cells == head or [""] * (len(head) - len(cells)) + cells == head:
            taking = True
        elif taking and not set("".join(cells)) <= set("-: "):
            found.append([cell.strip() for cell in line.strip()[1:-1].split("|")])
    return found


def _uncited(markdown: str) -> list[str]:
    return [row[1] for row in _rows(markdown, BOUNDARY_HEAD) if len(row) != 5 or not CITATION.search(row[3])]


def _missing(markdown: str) -> list[str]:
    """Citations that name no test of the tree."""
    missing = []
    for file, *names in CITATION.findall(markdown):
        wanted = [name for name in names if name]
        if not (ROOT / file).is_file() or not _has(parsed(Path(file)).body, wanted):
            missing.append("::".join([file, *wanted]))
    return missing


def _has(body: list[ast.stmt], names: list[str]) -> bool:
    for node in body:
        if getattr(node, "name", None) == names[0]:
            if len(names) > 1:
                return isinstance(node, ast.ClassDef) and _has(node.body, names[1:])
            return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and names[0].startswith("test_")
    return False


def test_every_control_cites_a_test() -> None:
    """A control without a test is a wish."""
    rows = _rows(text(PAGE), BOUNDARY_HEAD)
    assert len(rows) > 50
    assert not _uncited(text(PAGE))
    for row in rows:
        assert row[0] in set("STRIDE"), row
        assert all(row[1:4]), row


def test_every_cited_test_exists() -> None:
    """A test that was renamed or removed takes its control with it."""
    assert not _missing(text(PAGE))
    written = re.findall(r"`tests/[^`]*::[^`]*`", text(PAGE))
    assert [one for one in written if not CITATION.fullmatch(one)] == []


def test_the_checks_can_fail() -> None:
    """A row without a citation, a test that is not there, a file that is not there, a function that is no test."""
    row = "|  | threat | control | test | residual |\n|---|---|---|---|---|\n| S | a | b | {} | |\n"
    assert _uncited(row.format("by care")) == ["a"]
    here = "tests/architecture/test_threat_model.py"
    assert not _uncited(row.format(f"`{here}::test_the_checks_can_fail`"))
    assert not _missing(f"`{here}::test_the_checks_can_fail`")
    assert _missing(f"`{here}::test_that_was_removed`")
    assert _missing("`tests/unit/nowhere.py::test_x`")
    assert _missing(f"`{here}::_missing`")


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_there(part: str) -> None:
    """And says something."""
    match = re.search(rf"^## {part}\n(.*?)(?=^## |\Z)", text(PAGE), re.DOTALL | re.MULTILINE)
    assert match and len(match[1].split()) > 30


def test_attack_trees_assumptions_and_residual_risks_are_complete() -> None:
    """Each assumption says what if it is false; each residual risk has an owner and a date that can be met."""
    for tree in TREES:
        assert re.search(rf"^### \d\. {tree}$", text(PAGE), re.MULTILINE), tree
    assumptions = _rows(text(PAGE), ["", "assumption", "if false"])
    assert [row[0] for row in assumptions] == [str(number) for number in range(1, len(assumptions) + 1)]
    assert len(assumptions) >= 8 and all(all(row) for row in assumptions)
    risks = _rows(text(PAGE), ["", "risk", "why it is accepted now", "owner", "until"])
    assert [row[0] for row in risks] == [str(number) for number in range(1, len(risks) + 1)] and risks
    for row in risks:
        assert all(row), row
        assert date.fromisoformat(row[4]) > date(2026, 11, 1)
