"""Fenced blocks of Markdown documents, and console blocks as commands with the output that they promise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"^```(?P<language>\w*) ?(?P<about>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`(?P<name>[\w.-]+\.(?:toml|yaml))`:\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block: language and what follows it, text, and the file that the line before it names ("`hub.toml`:"), or ""."""

    language: str
    about: str
    body: str
    file: str
    line: int
    page: Path = Path()


@dataclass
class Command:
    """One command of a console block, and the lines of output that the document shows ("..." stands for anything)."""

    text: str
    line: int
    shown: list[str] = field(default_factory=list)
    page: Path = Path()


def blocks(document: str, page: Path = Path()) -> Iterator[Block]:
    """Every fenced block, in order; `page` is where the document stands."""
    for match in _FENCE.finditer(document):
        named = _FILE.search(document[: match.start()])
        line = document.count("\n", 0, match.start()) + 1
        yield Block(match["language"], match["about"], match["body"], named["name"] if named else "", line, page)


def commands(block: Block) -> list[Command]:
    """ "$ " begins a command, "> " goes on with it, everything else is its output."""
    found: list[Command] = []
    for number, line in enumerate(block.body.splitlines(), block.line + 1):
        if line.startswith("$ "):
            found.append(Command(line[2:], number, page=block.page))
        elif line.startswith("> ") and found:
            found[-1].text += "\n" + line[2:]
        elif line.strip():
            assert found, f"line {number} is no command, and there is none before it"
            found[-1].shown.append(line)
    return found


def unmatched(shown: list[str], output: str) -> list[str]:
    """The lines that a document shows and the output lacks, in this order."""
    lines, at, missing = output.splitlines(), 0, []
    for wanted in shown:
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.strip().split("...")))
        place = next((index for index in range(at, len(lines)) if pattern.fullmatch(lines[index].strip())), None)
        if place is None:
            missing.append(wanted)
        else:
            at = place + 1
    return missing
