"""trustfed node: who may be a node of this trust domain."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import (
    ClusterSocket,
    Output,
    OutputOption,
    WriteOption,
    examples,
    leave_secret,
    noun,
)
from trustfed.errors import Invalid

app = noun()


@app.command(
    epilog=examples(
        "trustfed node token node-1 --write node-1.token", "trustfed node token node-1 --group edge --ttl 1h"
    ),
)
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node.")],
    group: Annotated[
        list[str] | None, typer.Option("--group", help="A group it belongs to; may be repeated. Else: default.")
    ] = None,
    ttl: Annotated[str, typer.Option("--ttl", help="How long the token may be used.")] = "10m",
    write: WriteOption = None,
    socket: ClusterSocket = None,
) -> None:
    """Invite a node: the one-time token goes to standard output, or into a file."""
    order = {"name": name, "groups": group or [], "ttl": ttl}
    leave_secret(client.cluster(socket).post("/nodes/tokens", order)["token"], write, "token")


@app.command("list", epilog=examples("trustfed node list", "trustfed node list --output json"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the nodes."""
    columns = {
        "NAME": "name",
        "GROUPS": "groups",
        "CONNECTED": "connected",
        "ATTESTED": "attested_at",
        "LIVE UNTIL": "live_until",
        "BANNED": "banned",
    }
    output.listing(client.members(client.cluster(socket).get("/nodes"), "nodes"), columns, output_as)


@app.command(
    epilog=examples(
        'trustfed node reserve edge --ttl 7d --reason "ships are at sea for five days"',
        'trustfed node reserve edge --off --reason "back in port"',
    )
)
def reserve(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="The group of nodes.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    ttl: Annotated[
        str | None, typer.Option("--ttl", help="How long reserve SVIDs live; at most policy.reserve_ttl_max.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="These nodes keep none any longer.")] = False,
    socket: ClusterSocket = None,
) -> None:
    """Let the nodes of a group keep longer-lived reserve SVIDs for a long partition."""
    if off == (ttl is not None):
        raise Invalid("say either --ttl or --off", hint="--ttl 7d")
    path = f"/reserves/{client.segment(group)}"
    found = client.cluster(socket).post(path, {"ttl": ttl or "0s", "reason": reason})
    kept = found["ttl_seconds"]
    output.line(f"nodes of group {group} keep reserve SVIDs of {kept} s" if kept else f"group {group} keeps no reserve")


@app.command(epilog=examples('trustfed node ban node-1 --reason "stolen"'))
def ban(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    socket: ClusterSocket = None,
) -> None:
    """Ban a node: its agent stops serving at once, and it can renew nothing."""
    client.cluster(socket).post(f"/nodes/{client.segment(name)}/ban", {"reason": reason})
    output.line(f"node {name} is banned")
