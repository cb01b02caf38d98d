"""YAML read as data only: what JSON can say, each value with its line, or a refusal.

Not a loader but the parser's events: nothing is constructed that a bound has not let through. Refused are anchors and
aliases (a small text that grows without end), tags, directives, members that occur twice, keys that are no plain text,
and depth or number beyond the bounds. A plain scalar is null, true, false, a whole number, or else text: `no`, `1.5` and
`1:30` stay what is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from trustfed.errors import Invalid
from trustfed.spiffe.ids import shown

MAX_DEPTH = 16
MAX_NODES = 400_000
MAX_DIGITS = 15
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}
# The parser in C where the package has it: ten times as fast, the same events.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Node:
    """One value and the line where it begins."""

    value: Value
    line: int

    def plain(self) -> Any:
        """The value as Python's own, as json.loads would give it."""
        if isinstance(self.value, dict):
            return {name: node.plain() for name, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


Value: TypeAlias = "str | int | bool | list[Node] | dict[str, Node] | None"


def documents(path: str, text: str) -> Iterator[Node]:
    """The documents in one file that say anything, in order. Raises Invalid naming file and line."""
    events = _events(path, text)
    left = [MAX_NODES]
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            line = _line(event)
            if event.version or event.tags:
                raise _refused(path, event, "a directive")
            node = _node(next(events), events, path, MAX_DEPTH, left)
            if node.value is not None:
                # A comment before the first member is no part of it, yet `---` may be far above.
                yield Node(node.value, max(node.line, line))


def _events(path: str, text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise Invalid(f"{path}:{line}: not YAML: {shown(error.problem or error.context or '')[1:-1]}") from None
    except yaml.YAMLError as error:
        raise Invalid(f"{path}: not YAML: {shown(str(error))}") from None


def _node(event: Any, events: Iterator[Any], path: str, depth: int, left: list[int]) -> Node:
    line = _line(event)
    left[0] -= 1
    if left[0] < 0:
        raise Invalid(f"{path}:{line}: more than {MAX_NODES} values", hint="use several files")
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise _refused(path, event, "an anchor or an alias")
    if event.tag is not None:
        raise _refused(path, event, f"the tag {shown(event.tag)}")
    if isinstance(event, yaml.ScalarEvent):
        return Node(_scalar(event, path), line)
    if depth == 0:
        raise Invalid(f"{path}:{line}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(inner := next(events), yaml.SequenceEndEvent):
            items.append(_node(inner, events, path, depth - 1, left))
        return Node(items, line)
    members: dict[str, Node] = {}
    while not isinstance(inner := next(events), yaml.MappingEndEvent):
        name = _node(inner, events, path, depth - 1, left)
        if not isinstance(inner, yaml.ScalarEvent):
            raise Invalid(f"{path}:{name.line}: a member's name is no text")
        text = inner.value  # also where it looks like a number: `1: x` names "1"
        if text in members:
            raise Invalid(f"{path}:{name.line}: {shown(text)} occurs twice", hint=f"first at line {members[text].line}")
        members[text] = _node(next(events), events, path, depth - 1, left)
    return Node(members, line)


def _scalar(event: Any, path: str) -> str | int | bool | None:
    text: str = event.value
    if _SURROGATE.search(text):
        raise Invalid(f"{path}:{_line(event)}: text with a lone surrogate")
    if not event.implicit[0]:
        return text  # quoted, or a block
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise Invalid(f"{path}:{_line(event)}: a number of more than {MAX_DIGITS} digits", hint="quote it as text")
        return int(text)
    return text


def _refused(path: str, event: Any, what: str) -> Invalid:
    return Invalid(f"{path}:{_line(event)}: {what} is not allowed", hint="write every value where it belongs")


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1
