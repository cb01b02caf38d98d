"""One TOML file becomes one tree of frozen dataclasses, or one error that lists everything wrong with it.

Field types: str, int, bool, float, pathlib.Path (relative to the file's folder), datetime.timedelta ("90s", "2m",
"1h30m", "30d"), SecretFile, Literal, tuple[T, ...] or list[T], dict[str, T], T | None, nested dataclasses, and every
class with a `parse(text)` class method (TrustDomain, SpiffeId). A dataclass may refuse in `__post_init__` with Invalid.
Keys in the file may be written with "-" or "_". Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from trustfed.errors import Invalid, TrustfedError
from trustfed.runtime.files import read_bounded
from trustfed.runtime.secret_file import SecretFile

T = TypeVar("T")
MAX_BYTES = 1_048_576
MAX_FAULTS = 20
_DURATION = re.compile(
    r"(?:(?P<days>\d{1,6})d)?(?:(?P<hours>\d{1,6})h)?(?:(?P<minutes>\d{1,6})m(?!s))?"
    r"(?:(?P<seconds>\d{1,9})s)?(?:(?P<milliseconds>\d{1,9})ms)?",
    re.ASCII,
)
__all__ = ["SecretFile", "build", "duration", "load"]


def load(path: Path, cls: type[T]) -> T:
    """The configuration in the TOML file at `path`. Raises NotFound (no file) or Invalid (all faults, one per line)."""
    data = read_bounded(path, MAX_BYTES)
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise Invalid(f"{path} is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Invalid(f"{path} is not TOML: {error}", hint="see https://toml.io for the format") from None
    return build(table, cls, folder=path.absolute().parent, source=str(path))


def build(table: dict[str, Any], cls: type[T], *, folder: Path, source: str = "configuration") -> T:
    """The same from a table that is already parsed; relative paths start at `folder`. Raises Invalid."""
    reading = _Reading(folder)
    result = reading.table(table, cls, "")
    if reading.faults:
        shown = reading.faults[:MAX_FAULTS]
        more = len(reading.faults) - len(shown)
        lines = "".join(f"\n  {fault}" for fault in shown) + (f"\n  and {more} more" if more else "")
        raise Invalid(f"{source} has {len(reading.faults)} fault(s):{lines}")
    return typing.cast(T, result)


def duration(text: str) -> timedelta:
    """ "1h30m" as a timedelta; units d h m s ms, each at most once and in that order. Raises Invalid."""
    match = _DURATION.fullmatch(text)
    if not text or not match:
        raise Invalid(f"{text[:40]!r} is not a duration", hint='write "90s", "2m", "1h30m" or "30d"')
    return timedelta(**{unit: int(number) for unit, number in match.groupdict(default="0").items()})


class _Bad:
    """Stands for a value that was refused, so that reading goes on."""


_BAD = _Bad()


class _Reading:
    """One pass over one document, which collects faults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[str] = []

    def fault(self, where: str, message: str) -> _Bad:
        self.faults.append(f"{where or 'the top level'}: {message}")
        return _BAD

    def table(self, value: object, cls: type[Any], where: str) -> object:
        """An instance of the dataclass `cls`, or _BAD."""
        if not isinstance(value, dict):
            return self.fault(where, f"must be a table, not {_kind(value)}")
        before = len(self.faults)
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        hints = typing.get_type_hints(cls)
        found: dict[str, object] = {}
        for key, item in value.items():
            name, place = key.replace("-", "_"), _join(where, key)
            if name not in fields:
                self.fault(place, f"is not known{_nearest(name, fields)}")
            elif name in found:
                self.fault(place, "is given twice, with - and with _")
            else:
                found[name] = self.value(item, hints[name], place)
        for name, field in fields.items():
            if name not in found and field.default is field.default_factory is dataclasses.MISSING:
                self.fault(_join(where, name), f"is missing; it must be {_expected(hints[name])}")
        if len(self.faults) > before:
            return _BAD
        try:
            return cls(**found)
        except TrustfedError as error:
            return self.fault(where, _sentence(error))

    def value(self, value: object, hint: Any, where: str) -> object:
        """`value` as the type `hint`, or _BAD."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            # Only T | None: a union of several types has no use in a file, and no clear error.
            found = self.value(value, next(kind for kind in arguments if kind is not type(None)), where)
        elif dataclasses.is_dataclass(hint) and not hasattr(hint, "parse"):
            found = self.table(value, typing.cast("type[Any]", hint), where)
        elif origin is Literal:
            found = (
                value if (type(value), value) in [(type(a), a) for a in arguments] else self.wrong(value, hint, where)
            )
        elif origin in (tuple, list):
            found = self.sequence(value, hint, arguments[0], where)
        elif origin is dict:
            found = self.mapping(value, hint, arguments[1], where)
        else:
            found = self.scalar(value, hint, where)
        return found

    def sequence(self, value: object, hint: Any, item: Any, where: str) -> object:
        if not isinstance(value, list):
            return self.wrong(value, hint, where)
        items = [self.value(entry, item, f"{where}[{index}]") for index, entry in enumerate(value)]
        return tuple(items) if typing.get_origin(hint) is tuple else items

    def mapping(self, value: object, hint: Any, item: Any, where: str) -> object:
        if not isinstance(value, dict):
            return self.wrong(value, hint, where)
        return {key: self.value(entry, item, _join(where, key)) for key, entry in value.items()}

    def scalar(self, value: object, hint: Any, where: str) -> object:
        if hint is float and type(value) is int:
            return float(value)
        # type(), not isinstance: bool is an int to Python, not to a reader.
        if type(value) is not (hint if hint in (str, int, bool, float) else str):
            return self.wrong(value, hint, where)
        return value if type(value) is hint else self.text(str(value), hint, where)

    def text(self, value: str, hint: Any, where: str) -> object:
        """What is written as a string: paths, durations, and the classes that parse themselves."""
        if hint in (Path, SecretFile):
            if not value or "\0" in value:
                return self.fault(where, "is not a path")
            value = str(self.folder / value)
        read = hint.parse if hasattr(hint, "parse") else _READERS[hint]
        try:
            return read(value)
        except TrustfedError as error:
            return self.fault(where, _sentence(error))

    def wrong(self, value: object, hint: Any, where: str) -> _Bad:
        return self.fault(where, f"must be {_expected(hint)}, not {_kind(value)}")


_READERS: dict[Any, Callable[[str], object]] = {
    timedelta: duration,
    Path: Path,
    SecretFile: lambda text: SecretFile(Path(text)),
}
_NAMES = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    float: "a number",
    dict: "a table",
    list: "a list",
    Path: "a path",
    timedelta: 'a duration such as "2m" or "1h30m"',
    SecretFile: "the path of a file that holds the secret",
}


def _expected(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return _expected(arguments[0])
    if origin in (tuple, list):
        return "a list"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a table" if not hasattr(hint, "parse") else "a string"
    return _NAMES.get(hint, "a string")


def _kind(value: object) -> str:
    """What a value is, in words. The value itself is not shown: somebody may have put a secret there."""
    return _NAMES.get(type(value), f"a {type(value).__name__}")


def _nearest(name: str, known: dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(known)) or 'nothing'}"


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _sentence(error: TrustfedError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
