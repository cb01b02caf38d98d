"""trustfed peers: several trust domains under one name, for entries that federate with many."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import ClusterSocket, Output, OutputOption, examples, noun

app = noun()


@app.command(
    "set",
    epilog=examples("trustfed peers set europe prod-eu-central prod-eu-west", "trustfed peers set europe"),
)
def set_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Their name; entries say peers:NAME.")],
    members: Annotated[
        list[str] | None, typer.Argument(metavar="TRUST_DOMAIN...", help="All its members; none removes the name.")
    ] = None,
    socket: ClusterSocket = None,
) -> None:
    """Give several trust domains a name."""
    found = client.cluster(socket).put(f"/peers/{client.segment(name)}", {"members": members or []})
    output.line(f"peers:{name}: {output.cell(found['members'])}")


@app.command("list", epilog=examples("trustfed peers list"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the names, and the trust domains that each stands for."""
    columns = {"NAME": "name", "MEMBERS": "members"}
    output.listing(client.members(client.cluster(socket).get("/peers"), "peers"), columns, output_as)
