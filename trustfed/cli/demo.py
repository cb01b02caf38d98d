"""trustfed demo: the whole story, with real processes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trustfed.cli.options import examples
from trustfed.errors import Invalid
from trustfed.runtime.config import duration

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog=examples(
        "trustfed demo",
        "trustfed demo --once",
        "trustfed demo --fleet 40",
        "trustfed demo --directory ./story --svid-ttl 1m",
    ),
)
def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--directory", metavar="DIR", help="A new folder for everything; else a temporary one."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop after the story: 0 only if every step held.")] = False,
    svid_ttl: Annotated[
        str, typer.Option("--svid-ttl", help="How long SVIDs live; they rotate at half of it.")
    ] = "20s",
    brief: Annotated[
        bool, typer.Option("--brief", help="Only the beginning of the story: all is up in a fraction of the time.")
    ] = False,
    keys: Annotated[str, typer.Option("--keys", help="Where the keys lie: file or openbao.")] = "file",
    fleet: Annotated[
        int, typer.Option("--fleet", metavar="N", help="Simulated clusters on the dashboard, 0 to 500.")
    ] = 12,
) -> None:
    """Run the story: a root, two trust domains, their nodes and workloads; then stay up until Ctrl-C."""
    if keys not in ("file", "openbao"):
        raise Invalid(f"--keys {keys} is unknown", hint="file or openbao")
    from trustfed.demo import story  # noqa: PLC0415  it loads the whole house

    held = story.run(directory, once=once, svid_ttl=duration(svid_ttl), keys=keys, brief=brief, fleet=fleet)
    raise typer.Exit(0 if held else 1)
