"""A table for a pipe is written without rich, as rich would draw it where there is room."""

from __future__ import annotations

import pytest

from trustfed.cli import output

COLUMNS = {"ID": "id", "LONG HEADING": "state", "OF": "level", "LAST": "note"}
ROWS = [
    {"id": "g1", "state": "offered", "level": {"epoch": 1, "sequence": 4}, "note": None},
    {"id": "g-with-a-long-name", "state": ["a  b", "c"], "level": {}, "note": " led by a space "},
    {"id": "", "state": True, "level": 3, "note": "x\x1b[31m\ny" * 900},
]


def test_a_table_for_a_pipe_is_the_one_that_rich_draws(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing(ROWS, COLUMNS, output.Output.TABLE)
    ours = capsys.readouterr().out
    lines = [[*COLUMNS], *([output.cell(output._member(row, path)) for path in COLUMNS.values()] for row in ROWS)]
    output._drawn(lines)
    theirs = capsys.readouterr().out
    assert ours.splitlines()[:3] == theirs.splitlines()[:3]
    assert len(ours.splitlines()) == 1 + len(ROWS)  # rich folds what is longer than 10,000 characters


def test_wide_letters_are_left_to_rich(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing(
        [{"id": "東", "note": "x"}, {"id": "ab", "note": "y"}], {"ID": "id", "N": "note"}, output.Output.TABLE
    )
    assert capsys.readouterr().out == "ID  N\n東  x\nab  y\n"
