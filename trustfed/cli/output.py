"""What commands print: tables for people, exact JSON for programs. Nothing else goes to standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from trustfed.cli.options import Output, coloured

Columns = Mapping[str, str]
"""Heading → member of the row; "a.b" goes into an object."""


def listing(rows: Sequence[Mapping[str, Any]], columns: Columns, output: Output, empty: str = "none") -> None:
    """Print rows as a table, or all they hold as a JSON list."""
    if output is Output.JSON:
        document(rows)
        return
    if not rows:
        sys.stdout.write(empty + "\n")
        return
    lines = [[*columns], *([cell(_member(row, path)) for path in columns.values()] for row in rows)]
    if not sys.stdout.isatty() and all(text.isascii() for line in lines for text in line):
        # Into a pipe or a file each row stays on one line, and letters are as wide as they are many.
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
            sys.stdout.write("  ".join(padded).rstrip() + "\n")
        return
    _drawn(lines)


def _drawn(lines: Sequence[Sequence[str]]) -> None:
    """A table as wide as the terminal is."""
    # Here, not above: all that is not for a person's eyes does without rich.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in lines[0]:
        table.add_column(heading, overflow="fold")
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    console = Console(file=sys.stdout, no_color=not coloured(sys.stdout), width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as capture:
        console.print(table)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def record(found: Mapping[str, Any], output: Output) -> None:
    """Print one object: a line for each member, or JSON."""
    if output is Output.JSON:
        document(found)
        return
    lines = list(_flat(found, ""))
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        sys.stdout.write(f"{name:<{width}}  {cell(value)}".rstrip() + "\n")


def document(value: Any) -> None:
    """Print JSON, as it came."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def line(text: str) -> None:
    """Print one line."""
    sys.stdout.write(cell(text) + "\n")


def cell(value: Any) -> str:
    """A value for people: nothing in it can steer the terminal."""
    if value is None or value in ("", []):
        text = "-"
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, list | tuple):
        text = ", ".join(cell(item) for item in value)
    elif isinstance(value, Mapping):
        if set(value) == {"epoch", "sequence"}:
            text = f"{value['epoch']}.{value['sequence']}"
        else:
            text = ", ".join(f"{name} {cell(item)}" for name, item in value.items()) or "-"
    else:
        text = str(value)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _member(row: Any, path: str) -> Any:
    for name in path.split("."):
        row = row.get(name) if isinstance(row, Mapping) else None
    return row


def _flat(value: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for name, item in value.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(item, Mapping) and item and set(item) != {"epoch", "sequence"}:
            lines += _flat(item, f"{label} ")
        elif isinstance(item, list) and item and all(isinstance(one, Mapping) for one in item):
            for at, one in enumerate(item, start=1):
                lines += _flat(one, f"{label} {at} ")
        else:
            lines.append((label, item))
    return lines


def text(content: str) -> None:
    """Print a document, as it is."""
    sys.stdout.write(content)


def checked(what: str, doors: Mapping[str, object]) -> None:
    """Say that a configuration is good, and what would listen where."""
    line(f"{what}: the configuration is good; it would listen at")
    for name, address in doors.items():
        sys.stdout.write(f"  {name}: {cell(str(address))}\n")
