"""A command line is read as typer would read it with pydantic, for every kind of value that our commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
import typer.main

from trustfed.cli import main, values
from trustfed.cli.reference import commands


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue-ish"


app = typer.Typer(add_completion=False)


@app.command()
def paint(
    name: str,
    more: Annotated[list[Path] | None, typer.Argument()] = None,
    colour: Colour = Colour.RED,
    count: Annotated[int, typer.Option(min=1, max=1000)] = 5,
    any_: Annotated[int, typer.Option("--any")] = 0,
    to: Path | None = None,
    tags: Annotated[list[str] | None, typer.Option("--tag")] = None,
    fast: bool = False,
) -> None: ...


COMMAND: Any = typer.main.get_command(app)
LINES = [
    ["a"],
    ["ä \x00b", "x/../y", "", "--colour", "blue-ish", "--count", "1000", "--to", "", "--tag", "", "--tag", "t"],
    ["a", "--any", "-3", "--fast"],
    ["a", "--any", "+3", "--count", " 7 "],
    ["a", "--colour", "BLUE-ISH"],
    ["a", "--colour", ""],
    ["a", "--count", "0"],
    ["a", "--count", "1001"],
    ["a", "--count", "many"],
    ["a", "--any", ""],
    [],
]


def _read(line: list[str]) -> Any:
    """The values, or the error without its words."""
    try:
        found = COMMAND.make_context("paint", list(line)).params
    except typer.TyperException as error:
        return type(error), error.exit_code
    return {name: (type(value), value) for name, value in found.items()}


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_values_are_those_that_pydantic_makes(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = _read(line)
    for kind in (values.TyperOption, values.TyperArgument):
        monkeypatch.setattr(kind, "get_runtime_param", values._typers)
    assert ours == _read(line)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["a", "--colour", "x"], "'x' is not one of 'red', 'blue-ish'."),
        (["a", "--count", "0"], "0 is less than 1."),
        (["a", "--count", "1001"], "1001 is more than 1000."),
        (["a", "--count", "1_0"], "'1_0' is not a whole number."),
        (["a", "--any", "9" * 5000], "is not a whole number."),
    ],
)
def test_a_wrong_value_is_named(line: list[str], said: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        COMMAND.make_context("paint", line)
    assert str(refused.value.message).endswith(said)


def test_no_command_of_ours_has_a_kind_that_is_left_to_pydantic() -> None:
    assert main.values is values
    left = {
        (words, one.name)
        for words, command in commands()
        for one in command.params
        if one.get_runtime_param()._one is None and one.type_descriptor.annotation is not bool
    }
    assert not left
