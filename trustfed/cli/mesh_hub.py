"""trustfed mesh hub: what the hub holds of the domains' meshes."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import HubSocket, Output, OutputOption, examples

DOMAINS = {
    "DOMAIN": "trust_domain",
    "OWNER": "owner",
    "CONNECTED": "connected",
    "GATEWAYS": "gateways",
    "EXPORTS": "exports",
    "IMPORTS": "imports",
    "REFUSED": "refused",
    "IMPORTED BY": "importers",
}
ITEMS = {
    "KIND": "kind",
    "NAME": "name",
    "SEQUENCE": "sequence",
    "TOLD": "told_at",
    "IMPORTED BY": "importers",
}
REFUSALS = {"KIND": "kind", "NAME": "name", "WHY": "why"}
_PAGE = 500


def add(app: typer.Typer) -> None:
    """Make `hub` a verb of this noun."""
    app.command(
        "hub",
        epilog=examples(
            "trustfed mesh hub",
            "trustfed mesh hub prod-us-west",
            "trustfed mesh hub prod-us-west --refused",
            "trustfed mesh hub prod-us-west --output json",
        ),
    )(hub)


def hub(
    domain: Annotated[str | None, typer.Argument(metavar="DOMAIN", help="The trust domain; else all.")] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only what of it the hub refuses, and why.")] = False,
    socket: HubSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Show what the hub holds of the domains' meshes, and who imports it (hub)."""
    asked = client.hub(socket)
    if domain is None:
        output.listing(client.members(asked.get("/mesh"), "domains"), DOMAINS, output_as)
        return
    path = f"/mesh/{client.segment(domain)}"
    found = asked.get(path, limit=_PAGE)
    if refused:
        output.listing(client.members(found, "refusals"), REFUSALS, output_as)
        return
    items = client.members(found, "items")
    while found["next"]:
        found = asked.get(path, limit=_PAGE, after=found["next"])
        items = [*items, *client.members(found, "items")]
    output.listing(items, ITEMS, output_as)
