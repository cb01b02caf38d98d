"""trustfed authority: the keys that sign a trust domain's SVIDs."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output, proposed
from trustfed.cli.options import BreakGlassOption, ClusterSocket, Output, OutputOption, ReasonOption, examples, noun

app = noun()
AuthorityId = Annotated[str, typer.Argument(metavar="ID", help="The authority, as `trustfed authority list` shows it.")]


@app.command("list", epilog=examples("trustfed authority list", "trustfed authority list --output json"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the authorities, and whom a prepared one still waits for."""
    columns = {
        "ID": "id",
        "KIND": "kind",
        "STATUS": "status",
        "TAINTED": "tainted",
        "CERTIFIED": "certified",
        "ISSUED": "issued",
        "NOT AFTER": "not_after",
        "WAITING FOR": "waiting_for",
    }
    found = client.members(client.cluster(socket).get("/authorities"), "authorities")
    if output_as is Output.TABLE:
        # The root signs X.509 authorities only.
        found = [{**one, "certified": one["certified"] if one["kind"] == "x509" else None} for one in found]
        # What an external authority signs stands in no ledger of ours (trustfed cacerts).
        found = [{**one, "issued": "issued outside" if one.get("issues") == "outside" else "here"} for one in found]
    output.listing(found, columns, output_as)


@app.command(
    epilog=examples(
        "trustfed authority prepare --reason yearly",
        "trustfed authority prepare --kind jwt",
        'trustfed authority prepare --reason "yearly drill, one person on duty" --break-glass',
    ),
)
def prepare(
    kind: Annotated[str, typer.Option("--kind", help="x509 or jwt.")] = "x509",
    reason: ReasonOption = "",
    break_glass: BreakGlassOption = False,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Prepare the successor of the active authority; it signs once every live consumer holds the bundle. Takes two people."""
    admin = client.cluster(socket)
    found = admin.post("/authorities/prepare", {"kind": kind, "reason": reason, "break_glass": break_glass})
    done = f"a successor of the active {kind} authority is being prepared; `trustfed authority list` follows it"
    proposed.told(admin, found, done, output_as)


@app.command(
    epilog=examples(
        'trustfed authority activate 0b1c2d3e4f506172 --reason "peer is lost for good"',
        'trustfed authority activate 0b1c2d3e4f506172 --reason "peer is lost, nobody else is awake" --break-glass',
    ),
)
def activate(
    authority: AuthorityId,
    reason: ReasonOption = "",
    break_glass: BreakGlassOption = False,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Activate a prepared authority now, whoever has not got it; the journal names them. Takes two people."""
    admin = client.cluster(socket)
    body = {"reason": reason, "break_glass": break_glass}
    found = admin.post(f"/authorities/{client.segment(authority)}/activate", body)
    missing = f"; it was missing at {output.cell(found['missing'])}" if found.get("missing") else ""
    proposed.told(admin, found, f"authority {authority} is active{missing}", output_as)


@app.command(
    epilog=examples(
        'trustfed authority taint 0b1c2d3e4f506172 --reason "disk was sold"',
        'trustfed authority taint 0b1c2d3e4f506172 --reason "key is stolen" --remove-first --break-glass',
    ),
)
def taint(
    authority: AuthorityId,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    remove_first: Annotated[
        bool,
        typer.Option("--remove-first", help="The key is stolen: out of the bundle first, also where that breaks."),
    ] = False,
    break_glass: BreakGlassOption = False,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Trust an authority no longer: a successor signs, what it signed is replaced, it leaves the bundle. Takes two people."""
    admin = client.cluster(socket)
    body = {"reason": reason, "remove_first": remove_first, "break_glass": break_glass}
    found = admin.post(f"/authorities/{client.segment(authority)}/taint", body)
    done = f"authority {authority} is tainted; `trustfed authority list` follows it"
    proposed.told(admin, found, done, output_as)


@app.command(
    epilog=examples(
        'trustfed authority revoke 0b1c2d3e4f506172 --reason "key is stolen"',
        'trustfed authority revoke 0b1c2d3e4f506172 --reason "key is stolen" --break-glass',
    ),
)
def revoke(
    authority: AuthorityId,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    break_glass: BreakGlassOption = False,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Take an authority out of the bundle at once, also where that breaks; what it signed is replaced. Takes two people."""
    admin = client.cluster(socket)
    body = {"reason": reason, "break_glass": break_glass}
    found = admin.post(f"/authorities/{client.segment(authority)}/revoke", body)
    done = f"authority {authority} leaves the bundle; `trustfed authority list` follows it"
    proposed.told(admin, found, done, output_as)
