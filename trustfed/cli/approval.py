"""trustfed approval: what takes two people, and waits for the second one."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import AtHub, EitherSocket, Output, OutputOption, ReasonOption, examples, noun

app = noun()
ProposalId = Annotated[str, typer.Argument(metavar="ID", help="The proposal, as `trustfed approval list` shows it.")]
COLUMNS = {
    "ID": "id",
    "STATUS": "status",
    "WHAT": "what",
    "PROPOSED BY": "proposed_by",
    "REASON": "reason",
    "AT": "at",
    "EXPIRES": "expires_at",
    "DECIDED BY": "decided_by",
}


@app.command(
    "list",
    epilog=examples(
        "trustfed approval list",
        "trustfed approval list --hub --output json",
        "trustfed approval list --broken",
    ),
)
def list_(
    broken: Annotated[
        bool, typer.Option("--broken", help="What one person did alone, with --break-glass, instead.")
    ] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="Also what was approved, withdrawn, broken or has expired.")
    ] = False,
    socket: EitherSocket = None,
    hub: AtHub = False,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """List what waits for another person."""
    query = {name: "true" for name, wanted in (("broken", broken), ("all", all_)) if wanted}
    found = client.members(client.either(socket, hub).get("/approvals", **query), "approvals")
    output.listing(found, COLUMNS, output_as)


@app.command(
    epilog=examples("trustfed approval show 5f3a9c0e6b1d2a47", "trustfed approval show 5f3a9c0e6b1d2a47 --hub")
)
def show(
    proposal: ProposalId, socket: EitherSocket = None, hub: AtHub = False, output_as: OutputOption = Output.TABLE
) -> None:
    """Show one proposal: exactly what would be done, who wants it and why."""
    output.record(client.either(socket, hub).get(f"/approvals/{client.segment(proposal)}"), output_as)


@app.command(
    epilog=examples("trustfed approval approve 5f3a9c0e6b1d2a47", "trustfed approval approve 5f3a9c0e6b1d2a47 --hub"),
)
def approve(
    proposal: ProposalId, socket: EitherSocket = None, hub: AtHub = False, output_as: OutputOption = Output.TABLE
) -> None:
    """Let it happen, as another person than its proposer: it is done when this returns."""
    door, path = client.either(socket, hub), f"/approvals/{client.segment(proposal)}"
    wanted = door.get(path)
    found = door.post(f"{path}/approve", {"body_hash": wanted["body_hash"]})
    if output_as is Output.JSON:
        output.document(found)
        return
    output.line(
        f"approved and done: {found['what']} (proposed by {found['proposed_by']}: {output.cell(found['reason'])})"
    )


@app.command(
    epilog=examples(
        'trustfed approval withdraw 5f3a9c0e6b1d2a47 --reason "wrong authority"',
        "trustfed approval withdraw 5f3a9c0e6b1d2a47 --hub",
    ),
)
def withdraw(proposal: ProposalId, reason: ReasonOption = "", socket: EitherSocket = None, hub: AtHub = False) -> None:
    """Take a proposal back, or say no to another's."""
    path = f"/approvals/{client.segment(proposal)}/withdraw"
    found = client.either(socket, hub).post(path, {"reason": reason})
    output.line(f"withdrawn: {found['what']}")
