"""Options that several nouns share, and the few ways in which values come in and secrets go out."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trustfed.errors import Invalid
from trustfed.runtime.config import duration
from trustfed.runtime.files import read_private, write_atomic

MAX_SECRET = 16_384


class Output(StrEnum):
    """How a listing is printed."""

    TABLE = "table"
    JSON = "json"


def examples(*lines: str) -> str:
    """An epilog: one example a line. A test runs the parser over each."""
    return "Examples:\n\n" + "\n\n".join(lines)


def noun() -> typer.Typer:
    """The application of one noun."""
    return typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="A table for people, or the exact JSON.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="The TOML file of this process.")
]
CheckOption = Annotated[bool, typer.Option("--check", help="Only check the configuration, and say what would listen.")]
PrintConfigOption = Annotated[bool, typer.Option("--print-config", help="Print a commented example and exit.")]
WriteOption = Annotated[
    Path | None, typer.Option("--write", "-w", metavar="FILE", help="Leave the result in this file (0600).")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")]
BreakGlassOption = Annotated[
    bool,
    typer.Option("--break-glass", help="At once and alone, alarmed; --reason of at least 10 characters says why."),
]
HubSocket = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", envvar="TRUSTFED_HUB_SOCKET", help="The hub's admin socket."),
]
ClusterSocket = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", envvar="TRUSTFED_CLUSTER_SOCKET", help="The cluster's admin socket."),
]
AgentSocket = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", envvar="TRUSTFED_AGENT_SOCKET", help="The agent's admin socket."),
]
FeedSocket = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", envvar="TRUSTFED_FEED_SOCKET", help="The feed's admin socket."),
]
# For nouns that both know: no environment variable here, for client.either reads both.
EitherSocket = Annotated[
    Path | None, typer.Option("--socket", metavar="PATH", help="The admin socket of a hub or a cluster.")
]
AtHub = Annotated[bool, typer.Option("--hub", help="Ask the hub, when both sockets are set in the environment.")]


def configuration(config: Path | None) -> Path:
    """The configuration file, which must be named. Raises Invalid."""
    if config is None:
        raise Invalid("no configuration was named", hint="--config FILE; --print-config prints an example")
    return config


def secret_argument(text: str, what: str) -> str:
    """The content of @FILE or, for "-", of standard input. Raises Invalid for anything else, which is not repeated."""
    if text == "-":
        found = sys.stdin.read(MAX_SECRET + 1)
    elif text.startswith("@") and len(text) > 1:
        found = read_private(Path(text[1:]), MAX_SECRET).decode("utf-8", "replace")
    else:
        raise Invalid(
            f"the {what} must not stand in the command line, where every process can read it",
            hint="@FILE reads it from a file, - from standard input",
        )
    if len(found) > MAX_SECRET:
        raise Invalid(f"the {what} is longer than {MAX_SECRET} characters")
    if not found.strip():
        raise Invalid(f"the {what} is empty")
    return found.strip()


def leave_secret(secret: str, write: Path | None, what: str) -> None:
    """Write a secret to a file 0600 and say so on standard error, or print it alone on standard output."""
    if write is None:
        sys.stdout.write(secret + "\n")
        return
    write_atomic(write, secret.encode() + b"\n")
    sys.stderr.write(f"{what} written to {write}\n")


def moment(text: str) -> str:
    """A duration from now ("90d") or a time (RFC 3339) as RFC 3339 in UTC. Raises Invalid."""
    try:
        wanted = datetime.fromisoformat(text)
    except ValueError:
        wanted = datetime.now(UTC).replace(microsecond=0) + duration(text)
    if wanted.tzinfo is None:
        raise Invalid(f"{text} has no time zone", hint="for example 2027-01-31T12:00:00Z, or a duration such as 90d")
    return wanted.astimezone(UTC).isoformat().replace("+00:00", "Z")


def seconds(text: str) -> int:
    """A duration in whole seconds. Raises Invalid."""
    return int(duration(text) / timedelta(seconds=1))


def coloured(stream: object) -> bool:
    """Whether colour belongs on this stream."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and not os.environ.get("NO_COLOR")
