"""What stands on a command line as values: text, paths, whole numbers, one of a few names, and lists of these.

Typer has pydantic do it. To load pydantic takes longer than all else that a short command does, so it is left alone for
the kinds of values that our commands have; any other kind stays typer's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperOption

_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)


def without_pydantic() -> None:
    """From here on typer reads what it was given on a command line through this file."""
    for kind in (TyperOption, TyperArgument):
        kind.get_runtime_param = _reader  # type: ignore[assignment, method-assign]


_typers = TyperOption.get_runtime_param


class _Reader:
    """Reads one parameter."""

    def __init__(self, parameter: TyperOption | TyperArgument) -> None:
        described = parameter.type_descriptor
        kind: Any = described.annotation
        info = described.parameter_info
        self._list = get_origin(kind) is list
        self._one = None if info.parser else _read(get_args(kind)[0] if self._list else kind, info.min, info.max)

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of an option as its function takes it. Raises typer.BadParameter."""
        if value is None:
            return () if self._list else None
        if self._one is None or (self._list and isinstance(value, str)):
            return _typers(param).coerce(value, param, ctx)
        try:
            return [self._one(item) for item in value] if self._list else self._one(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None


def _reader(parameter: TyperOption | TyperArgument) -> _Reader:
    return _Reader(parameter)


def _read(kind: Any, least: float | None, most: float | None) -> Callable[[Any], Any] | None:
    """What makes a value of this kind of a word; None for a kind that is not known here. It raises ValueError."""
    if kind is str:
        return str
    if kind is Path:
        return Path
    if kind is int:
        return lambda word: _whole(word, least, most)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return lambda word: _named(word, kind)
    return None


def _whole(word: Any, least: float | None, most: float | None) -> int:
    if not isinstance(word, int) and not _WHOLE.fullmatch(str(word).strip()):
        raise ValueError(f"{str(word)[:40]!r} is not a whole number.")
    number = int(word)
    if least is not None and number < least:
        raise ValueError(f"{number} is less than {least}.")
    if most is not None and number > most:
        raise ValueError(f"{number} is more than {most}.")
    return number


def _named(word: Any, kind: type[Enum]) -> Enum:
    if isinstance(word, kind):
        return word
    for one in kind:
        if str(one.value) == word:
            return one
    raise ValueError(f"{word!r} is not one of {', '.join(repr(str(one.value)) for one in kind)}.")
