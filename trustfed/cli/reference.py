"""docs/reference/cli.md, written from the commands themselves: `python -m trustfed.cli.reference`."""

from __future__ import annotations

import sys
from typing import Any

from typer.core import TyperArgument, TyperGroup

from trustfed.cli.main import NOUNS, load

HEAD = """\
# The trustfed command

Written from the code: `python -m trustfed.cli.reference > docs/reference/cli.md`. A test compares.

Every command has `--help` with examples; `trustfed --install-completion` completes nouns, verbs and options in the shell.

* Admin commands talk to a Unix socket on the same machine, without a password: `--socket PATH`, else the environment
  (`TRUSTFED_HUB_SOCKET`, `TRUSTFED_CLUSTER_SOCKET`, `TRUSTFED_AGENT_SOCKET`), else `/run/trustfed/hub.sock`,
  `cluster.sock`, `agent-admin.sock`. Who may open the socket is an admin.
* `grant list`, `grant end`, `bundle` and `audit` are known to hub and cluster: they ask the one whose socket is named,
  the cluster when both are; `--hub` asks the hub.
* `svid` speaks the SPIFFE Workload API: `--socket`, else `SPIFFE_ENDPOINT_SOCKET`.
* Tokens come in as `@FILE` (0600) or `-` (standard input), never as an argument, and go out to standard output or, with
  `--write FILE`, into a file 0600.
* `--output json` prints the exact JSON and nothing else. Colour only on a terminal, and not with `NO_COLOR`.
* Durations are written 90s, 2m, 1h30m, 30d; times in RFC 3339.

| exit code | |
|---|---|
| 0 | done |
| 1 | an unexpected error, or a demo in which a step did not hold |
| 2 | the command or its input is wrong |
| 3 | denied |
| 4 | not found |
| 5 | conflict: the state is not what was assumed |
| 6 | unavailable: the same command may succeed later |
| 130 | Ctrl-C |
"""


def commands() -> list[tuple[str, Any]]:
    """(words, command) of every command that does something."""
    found: list[tuple[str, Any]] = []
    for noun in NOUNS:
        command = load(noun)
        if isinstance(command, TyperGroup):
            found += _verbs(noun, command)
        else:
            found.append((noun, command))
    return found


def _verbs(words: str, group: TyperGroup) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for verb, one in group.commands.items():
        found += _verbs(f"{words} {verb}", one) if isinstance(one, TyperGroup) else [(f"{words} {verb}", one)]
    return found


def examples_of(command: Any) -> list[str]:
    """The examples in a command's epilog."""
    lines = (command.epilog or "").split("\n\n")
    return [line.strip() for line in lines if line.strip().startswith("trustfed ")]


def reference() -> str:
    """The page."""
    parts, noun = [HEAD], ""
    for words, command in commands():
        if words.split()[0] != noun:
            noun = words.split()[0]
            parts.append(f"\n## {noun}\n\n{NOUNS[noun]}\n")
        parts.append(_section(words, command))
    return "".join(parts)


def _section(words: str, command: Any) -> str:
    arguments = [one for one in command.params if isinstance(one, TyperArgument)]
    options = [one for one in command.params if not isinstance(one, TyperArgument)]
    usage = " ".join(_argument(one) for one in arguments)
    # A docstring's first paragraph is one line; a second one says what must be known beside.
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    lines = [f"\n### trustfed {words}{' ' + usage if usage else ''}\n\n{text}\n\n"]
    for one in [*arguments, *options]:
        name = f"`{_argument(one)}`" if one in arguments else ", ".join(f"`{flag}`" for flag in _flags(one))
        required = " Required." if one in options and one.required else ""
        default = _default(one)
        lines.append(f"* {name}: {one.help}{required}{default}\n")
    lines.append("\n```sh\n" + "".join(f"{example}\n" for example in examples_of(command)) + "```\n")
    return "".join(lines)


def _argument(one: Any) -> str:
    name = str(one.metavar or one.name.upper()).strip("[]{}")
    return name if one.required else f"[{name}]"


def _flags(one: Any) -> list[str]:
    value = f" {one.metavar}" if one.metavar else ""
    return [f"{flag}{value}" for flag in [*one.opts, *one.secondary_opts]]


def _default(one: Any) -> str:
    value = one.default
    if value is None or value is False or value in ("", []) or callable(value):
        return ""
    return f" Default: {value}."


if __name__ == "__main__":
    sys.stdout.write(reference())
