"""trustfed agent: run the agent of one node (a process of its own, which loads nothing of this command), look at it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from trustfed.cli import client, output, templates
from trustfed.cli.options import (
    AgentSocket,
    CheckOption,
    ConfigOption,
    Output,
    PrintConfigOption,
    configuration,
    examples,
    noun,
)
from trustfed.errors import Invalid

app = noun()
time = noun()
app.add_typer(time, name="time", help="Say what time it is, where this node cannot know.")


@app.command(
    epilog=examples(
        "trustfed agent serve --print-config > agent.toml",
        "trustfed agent serve --config agent.toml --join @node-1.token",
        "trustfed agent serve --config agent.toml --check",
    ),
)
def serve(
    config: ConfigOption = None,
    join: Annotated[
        str | None, typer.Option("--join", metavar="TOKEN", help="The node's token: @FILE, or - for standard input.")
    ] = None,
    check: CheckOption = False,
    print_config: PrintConfigOption = False,
) -> None:
    """Run the agent until it is stopped; a token is ignored once the node is enrolled."""
    if print_config:
        output.text(templates.AGENT)
        return
    if join is not None and join != "-" and not join.startswith("@"):
        raise Invalid(
            "the token must not stand in the command line, where every process can read it",
            hint="--join @FILE reads it from a file, --join - from standard input",
        )
    argv = [sys.executable, "-P", "-m", "agent", "serve", "--config", str(configuration(config))]
    argv += ["--join", join] if join is not None else []
    argv += ["--check"] if check else []
    # The process becomes the agent, so that nothing of typer stays resident.
    os.execv(sys.executable, argv)  # noqa: S606


@app.command(
    epilog=examples("trustfed agent status", "trustfed agent status --of svids --output json"),
)
def status(
    socket: AgentSocket = None,
    of: Annotated[
        str, typer.Option("--of", metavar="WHAT", help="status, or one of its lists: entries, svids, bundles.")
    ] = "status",
    output_as: Annotated[Output, typer.Option("--output", "-o", help="Lines for people, or JSON.")] = Output.TABLE,
) -> None:
    """Show the agent at a glance, or what it holds."""
    if of not in ("status", "entries", "svids", "bundles"):
        raise Invalid(f"--of {of} is unknown", hint="one of: status, entries, svids, bundles")
    found = client.Admin("agent", socket).get(f"/{of}")
    if isinstance(found, dict) and of in found:
        found = found[of]
    if isinstance(found, list):
        columns = {name.upper().replace("_", " "): name for name in (found[0] if found else {})}
        output.listing(found, columns, output_as)
    else:
        output.record(found, output_as)


@time.command(epilog=examples("trustfed agent time reset", "trustfed agent time reset --to-cluster"))
def reset(
    socket: AgentSocket = None,
    to_cluster: Annotated[
        bool, typer.Option("--to-cluster", help="Take the time that the cluster claims (agent status: time.claimed).")
    ] = False,
    output_as: Annotated[Output, typer.Option("--output", "-o", help="Lines for people, or JSON.")] = Output.TABLE,
) -> None:
    """Take the machine's clock, or the cluster's, for the truth, and forget what was known of time."""
    order = {"to": "cluster" if to_cluster else "wall"}
    output.record(client.Admin("agent", socket).post("/time/reset", order), output_as)
