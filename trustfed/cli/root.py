"""trustfed root: the federation's root and its successor."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output, proposed
from trustfed.cli.options import BreakGlassOption, HubSocket, Output, OutputOption, ReasonOption, examples, noun

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


@app.command(
    epilog=examples(
        "trustfed root prepare --reason yearly",
        'trustfed root prepare --reason "yearly, one person on duty" --break-glass',
    ),
)
def prepare(
    reason: ReasonOption = "",
    break_glass: BreakGlassOption = False,
    socket: HubSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Put the next root into the root set; it signs nothing yet. Takes two people."""
    admin = client.hub(socket)
    found = admin.post("/roots/prepare", {"reason": reason, "break_glass": break_glass})
    proposed.told(admin, found, f"root set {found.get('version')} holds {len(found.get('roots', ()))} roots", output_as)


@app.command(
    epilog=examples(
        "trustfed root activate --reason yearly",
        'trustfed root activate --reason "yearly, one person on duty" --break-glass',
    ),
)
def activate(
    reason: ReasonOption = "",
    break_glass: BreakGlassOption = False,
    socket: HubSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Let the prepared root sign from now on. Takes two people."""
    admin = client.hub(socket)
    found = admin.post("/roots/activate", {"reason": reason, "break_glass": break_glass})
    active = [root["name"] for root in found.get("roots", ()) if root["status"] == "active"]
    proposed.told(admin, found, f"{output.cell(active)} signs from now on", output_as)


@app.command(
    epilog=examples(
        'trustfed root retire root-1 --reason "everything stands on root-2"',
        'trustfed root retire root-1 --reason "its key is stolen" --force --break-glass',
    ),
)
def retire(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The root, as `trustfed root list` shows it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    force: Annotated[bool, typer.Option("--force", help="Also while trust domains still stand on it.")] = False,
    break_glass: BreakGlassOption = False,
    socket: HubSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Take a replaced root out of the root set: what it signed is believed no more. Takes two people."""
    admin = client.hub(socket)
    order = {"name": name, "reason": reason, "force": force, "break_glass": break_glass}
    found = admin.post("/roots/retire", order)
    proposed.told(admin, found, f"{name} is retired; root set {found.get('version')} is without it", output_as)
