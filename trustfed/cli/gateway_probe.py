"""trustfed gateway probe: which imported services do not answer behind which gateway."""

from __future__ import annotations

from typing import Any

import typer

from trustfed.cli import client, output
from trustfed.cli.options import ClusterSocket, Output, OutputOption, examples

SERVICES = {"DOMAIN": "exporter", "HOST": "host", "GATEWAY": "gateway", "USED": "up", "ERROR": "error"}


def add(app: typer.Typer) -> None:
    """Make `probe` a verb of this noun."""
    app.command("probe", epilog=examples("trustfed gateway probe", "trustfed gateway probe --output json"))(probe)


def probe(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """Show the imported services whose TLS probe fails at a gateway; `list --remote` shows the gateways themselves."""
    found: dict[str, Any] = client.cluster(socket).get("/mesh/probes")["services"]
    if output_as is Output.JSON:
        output.document(found)
        return
    output.listing(found["failing"], SERVICES, output_as, empty="every service that was asked answers")
    more = f"; {found['not_asked']} more are never asked" if found["not_asked"] else ""
    output.line(f"{found['asked']} services are asked, each at each gateway of its domain{more}")
