"""trustfed publication: how the published documents stand."""

from __future__ import annotations

from trustfed.cli import client, output
from trustfed.cli.options import HubSocket, Output, OutputOption, examples, noun

app = noun()


@app.command(epilog=examples("trustfed publication status", "trustfed publication status --output json"))
def status(socket: HubSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the documents at the publication target: when they were published, and what waits."""
    columns = {
        "DOCUMENT": "document",
        "PUBLISHED": "published_at",
        "WAITING SINCE": "waiting_since",
        "LAG (s)": "lag_seconds",
        "ATTEMPTS": "attempts",
        "ERROR": "error",
    }
    found = client.members(client.hub(socket).get("/publication"), "documents")
    output.listing(found, columns, output_as, empty="nothing is published to a directory")
