"""trustfed root: the federation's root and its successor."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import HubSocket, Output, OutputOption, ReasonOption, examples, noun

app = noun()
COLUMNS = {"NAME": "name", "STATUS": "status", "NOT AFTER": "not_after", "FINGERPRINT": "fingerprint"}


@app.command("list", epilog=examples("trustfed root list", "trustfed root list --output json"))
def list_(socket: HubSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the roots; the table's last line says which root set is the newest, and which clusters lack it."""
    found = client.hub(socket).get("/roots")
    if output_as is Output.JSON:
        output.document(found)
        return
    output.listing(found["roots"], COLUMNS, output_as)
    behind = f"; behind: {output.cell(found['clusters_behind'])}" if found["clusters_behind"] else ""
    output.line(f"root set {found['version']}: {found['hash']}{behind}")


@app.command(epilog=examples("trustfed root prepare --reason yearly"))
def prepare(reason: ReasonOption = "", socket: HubSocket = None) -> None:
    """Put the next root into the root set; it signs nothing yet."""
    found = client.hub(socket).post("/roots/prepare", {"reason": reason})
    output.line(f"root set {found['version']} holds {len(found['roots'])} roots")


@app.command(epilog=examples("trustfed root activate --reason yearly"))
def activate(
    reason: ReasonOption = "",
    socket: HubSocket = None,
) -> None:
    """Let the prepared root sign from now on."""
    found = client.hub(socket).post("/roots/activate", {"reason": reason})
    active = [root["name"] for root in found["roots"] if root["status"] == "active"]
    output.line(f"{output.cell(active)} signs from now on")


@app.command(
    epilog=examples(
        'trustfed root retire root-1 --reason "everything stands on root-2"',
        'trustfed root retire root-1 --reason "its key is stolen" --force',
    ),
)
def retire(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The root, as `trustfed root list` shows it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    force: Annotated[bool, typer.Option("--force", help="Also while trust domains still stand on it.")] = False,
    socket: HubSocket = None,
) -> None:
    """Take a replaced root out of the root set: what it signed is believed no more."""
    found = client.hub(socket).post("/roots/retire", {"name": name, "reason": reason, "force": force})
    output.line(f"{name} is retired; root set {found['version']} is without it")
