"""trustfed hub login, logins, logout: who may open the dashboard."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import HubSocket, Output, OutputOption, WriteOption, examples, leave_secret


def add_to(app: typer.Typer) -> None:
    """Give the noun `hub` these verbs."""
    app.command(
        epilog=examples(
            "trustfed hub login",
            "trustfed hub login --role operator --name alice",
            "trustfed hub login --role auditor --name kpmg --ttl 30m --write link.txt",
        )
    )(login)
    app.command(epilog=examples("trustfed hub logins", "trustfed hub logins --output json"))(logins)
    app.command(epilog=examples("trustfed hub logout 3c1f9a0b7d2e4f61"))(logout)


def login(
    role: Annotated[str, typer.Option("--role", help="viewer, auditor, operator or admin.")] = "viewer",
    name: Annotated[
        str, typer.Option("--name", help="What the journal calls whoever opens it, after your uid.")
    ] = "me",
    ttl: Annotated[str, typer.Option("--ttl", help="How long it may be opened: at most an hour.")] = "5m",
    write: WriteOption = None,
    socket: HubSocket = None,
) -> None:
    """Make a link that opens the dashboard, once: to standard output, or into a file, and kept nowhere else.

    Where two people are needed, whoever opens it counts as you.
    """
    order = {"name": name, "role": role, "ttl": ttl}
    leave_secret(client.hub(socket).post("/logins", order)["url"], write, "login link")


def logins(socket: HubSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the logins of the dashboard that are open."""
    columns = {"ID": "id", "ACTOR": "actor", "ROLE": "role", "HOW": "how", "USED": "used_at", "ENDS": "ends_at"}
    output.listing(client.members(client.hub(socket).get("/logins"), "logins"), columns, output_as)


def logout(
    session: Annotated[str, typer.Argument(metavar="ID", help="The id, as `trustfed hub logins` shows it.")],
    socket: HubSocket = None,
) -> None:
    """End a login of the dashboard at once."""
    client.hub(socket).delete(f"/logins/{client.segment(session)}")
    output.line(f"session {session} has ended")
