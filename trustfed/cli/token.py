"""trustfed token: who may use the hub's HTTPS API, and as what."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import HubSocket, Output, OutputOption, WriteOption, examples, leave_secret, noun

app = noun()


@app.command(
    epilog=examples(
        "trustfed token create grafana --role viewer --write grafana.token",
        "trustfed token create ci --role operator --ttl 12h",
    ),
)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom it is for.")],
    role: Annotated[str, typer.Option("--role", help="viewer, auditor, operator or admin.")],
    ttl: Annotated[str, typer.Option("--ttl", help="How long it may be used.")] = "30d",
    write: WriteOption = None,
    socket: HubSocket = None,
) -> None:
    """Make a bearer token: it goes to standard output, or into a file, and is kept nowhere else."""
    order = {"name": name, "role": role, "ttl": ttl}
    leave_secret(client.hub(socket).post("/tokens", order)["token"], write, "token")


@app.command("list", epilog=examples("trustfed token list"))
def list_(socket: HubSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the bearer tokens, without what opens the door."""
    columns = {"ID": "id", "NAME": "name", "ROLE": "role", "MADE BY": "made_by"}
    columns |= {"EXPIRES": "expires_at", "REVOKED": "revoked"}
    output.listing(client.members(client.hub(socket).get("/tokens"), "tokens"), columns, output_as)


@app.command(epilog=examples("trustfed token revoke 3c1f"))
def revoke(
    token: Annotated[str, typer.Argument(metavar="ID", help="The token's id, as `trustfed token list` shows it.")],
    socket: HubSocket = None,
) -> None:
    """End a bearer token, the tokens that were made with it, and the logins whose links they made."""
    found = client.hub(socket).delete(f"/tokens/{client.segment(token)}")
    output.line(f"token {token} is revoked")
    for also in found["also"]:
        output.line(f"token {also}, which was made with it, is revoked")
