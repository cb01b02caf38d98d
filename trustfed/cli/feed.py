"""trustfed feed: run the feed beside an istiod (a process of its own), look at it, and say who may be one."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from trustfed.cli import client, output, templates
from trustfed.cli.options import (
    CheckOption,
    ClusterSocket,
    ConfigOption,
    FeedSocket,
    Output,
    OutputOption,
    PrintConfigOption,
    ReasonOption,
    configuration,
    examples,
    noun,
)
from trustfed.errors import Invalid

app = noun()
FeedId = Annotated[str, typer.Argument(metavar="SPIFFE_ID", help="The ID of the feed's own registration entry.")]
COLUMNS = {
    "SPIFFE ID": "spiffe_id",
    "CONNECTED": "connected",
    "CURRENT": "current",
    "OUTPUT": "output",
    "ISTIODS": "readers",
    "REJECTED": "rejected",
    "HEARD": "heard_at",
}


@app.command(
    epilog=examples(
        "trustfed feed serve --print-config > feed.toml",
        "trustfed feed serve --config feed.toml",
        "trustfed feed serve --config feed.toml --check",
    ),
)
def serve(config: ConfigOption = None, check: CheckOption = False, print_config: PrintConfigOption = False) -> None:
    """Run the feed until it is stopped."""
    if print_config:
        output.text(templates.FEED)
        return
    argv = [sys.executable, "-P", "-m", "trustfed.feed", "serve", "--config", str(configuration(config))]
    argv += ["--check"] if check else []
    # The process becomes the feed, so that nothing of typer stays resident.
    os.execv(sys.executable, argv)  # noqa: S606


@app.command(epilog=examples("trustfed feed status", "trustfed feed status --of resources --output json"))
def status(
    socket: FeedSocket = None,
    of: Annotated[str, typer.Option("--of", metavar="WHAT", help="status, or the resources it holds.")] = "status",
    output_as: Annotated[Output, typer.Option("--output", "-o", help="Lines for people, or JSON.")] = Output.TABLE,
) -> None:
    """Show one feed at a glance: its identity, its cluster, how old its routes are, what was left out."""
    feed = client.Admin("feed", socket)
    if of == "resources":
        columns = {"RESOURCE": "resource", "VERSION": "version"}
        output.listing(client.members(feed.get("/resources"), "resources"), columns, output_as)
    elif of == "status":
        output.record(feed.get("/status"), output_as)
    else:
        raise Invalid(f"--of {of} is unknown", hint="one of: status, resources")


@app.command(
    epilog=examples(
        'trustfed feed allow spiffe://prod-us-west/ns/istio-system/sa/trustfed-feed --reason "beside istiod-0"'
    )
)
def allow(spiffe_id: FeedId, reason: ReasonOption = "", socket: ClusterSocket = None) -> None:
    """Let the workload with this ID pull the routes of its cluster."""
    client.cluster(socket).post("/mesh/feeds/allow", {"spiffe_id": spiffe_id, "reason": reason})
    output.line(f"{spiffe_id} may pull the routes")


@app.command("list", epilog=examples("trustfed feed list", "trustfed feed list --output json"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the feeds that are allowed, and how far each is."""
    output.listing(client.members(client.cluster(socket).get("/mesh/feeds"), "feeds"), COLUMNS, output_as)


@app.command(
    epilog=examples('trustfed feed forbid spiffe://prod-us-west/ns/istio-system/sa/trustfed-feed --reason "moved"')
)
def forbid(spiffe_id: FeedId, reason: ReasonOption = "", socket: ClusterSocket = None) -> None:
    """Let it no longer: its stream ends at once; what its istiod holds stays."""
    client.cluster(socket).post("/mesh/feeds/forbid", {"spiffe_id": spiffe_id, "reason": reason})
    output.line(f"{spiffe_id} may not pull the routes any more")
