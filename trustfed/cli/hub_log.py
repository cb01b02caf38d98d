"""trustfed evidence forget-hub-log: the hub was made anew, and its log begins anew at this cluster as its witness."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import ClusterSocket, examples


def add_to(app: typer.Typer) -> None:
    """Give the noun `evidence` this verb."""
    app.command("forget-hub-log", epilog=examples('trustfed evidence forget-hub-log --reason "the hub was made anew"'))(
        forget
    )


def forget(
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    socket: ClusterSocket = None,
) -> None:
    """Forget the hub's log, key and past: what it shows next is believed as it comes.

    It ends the alarms of another key, a fork or a shrunk log. Know first why the hub has another log: a fork is how it looks
    when somebody rewrote the hub's journal.
    """
    found = client.cluster(socket).post("/evidence/forget-hub-log", {"reason": reason})
    output.line("the hub's log is forgotten" if found["forgotten"] else "nothing of the hub's log was held")
