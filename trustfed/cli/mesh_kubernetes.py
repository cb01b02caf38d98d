"""trustfed mesh kubernetes: what a cluster follows of its own Kubernetes, and what it cannot export or know."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trustfed.cli import client, output
from trustfed.cli.options import ClusterSocket, Output, OutputOption, examples

COLLECTIONS = {
    "COLLECTION": "collection",
    "COMPLETE": "complete",
    "OBJECTS": "objects",
    "AGE SECONDS": "age_seconds",
    "ERROR": "error",
}
REFUSED = {"SERVICE": "service", "ERROR": "error"}
UNKNOWN = {"HOST": "host", "WHY": "why"}


def add(app: typer.Typer) -> None:
    """Make `kubernetes` a verb of this noun."""
    app.command(
        "kubernetes",
        epilog=examples(
            "trustfed mesh kubernetes",
            "trustfed mesh kubernetes --refused",
            "trustfed mesh kubernetes --unknown",
            "trustfed mesh kubernetes --output json",
        ),
    )(kubernetes)


def kubernetes(
    refused: Annotated[bool, typer.Option("--refused", help="Only annotated Services that are refused.")] = False,
    unknown: Annotated[bool, typer.Option("--unknown", help="Only hosts of which it shows nothing, and why.")] = False,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Show what is followed of this cluster's Kubernetes, and what of it cannot be exported or known."""
    found: dict[str, Any] = client.cluster(socket).get("/mesh/kubernetes")
    if refused or unknown:
        member, columns = ("refused", REFUSED) if refused else ("unknown", UNKNOWN)
        output.listing(found.get(member, []), columns, output_as)
    elif output_as is Output.JSON:
        output.document(found)
    elif not found["configured"]:
        output.line("no API server is read: the table [mesh.kubernetes] of the cluster's configuration names one")
    else:
        output.listing(found["collections"], COLLECTIONS, output_as)
        output.line(f"{len(found['refused'])} annotated Services refused, {len(found['unknown'])} hosts unknown")
