"""trustfed group: named groups of trust domains, for entries that federate with many."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import ClusterSocket, Output, OutputOption, examples, noun

app = noun()


@app.command(
    "set",
    epilog=examples("trustfed group set europe prod-eu-central prod-eu-west", "trustfed group set europe"),
)
def set_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The group; entries name it group:NAME.")],
    members: Annotated[
        list[str] | None, typer.Argument(metavar="TRUST_DOMAIN...", help="All its members; none removes the group.")
    ] = None,
    socket: ClusterSocket = None,
) -> None:
    """Say which trust domains belong to a group."""
    found = client.cluster(socket).put(f"/groups/{client.segment(name)}", {"members": members or []})
    output.line(f"group {name}: {output.cell(found['members'])}")


@app.command("list", epilog=examples("trustfed group list"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the groups."""
    columns = {"NAME": "name", "MEMBERS": "members"}
    output.listing(client.members(client.cluster(socket).get("/groups"), "groups"), columns, output_as)
