"""trustfed domain: who takes part in the federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trustfed.cli import client, output, proposed
from trustfed.cli.options import BreakGlassOption, HubSocket, Output, OutputOption, examples, leave_secret, noun

app = noun()
Name = Annotated[str, typer.Argument(metavar="NAME", help="The trust domain.")]


@app.command(
    epilog=examples(
        "trustfed domain add prod-us-west --owner team-payments --write prod-us-west.token",
        "trustfed domain add prod-us-west --owner team-payments --dns-suffix us-west.example --ttl 1h",
    ),
)
def add(
    name: Name,
    owner: Annotated[str, typer.Option("--owner", help="The team that it belongs to.")],
    dns_suffix: Annotated[
        list[str] | None, typer.Option("--dns-suffix", help="Its SVIDs may bear DNS names below this; may be repeated.")
    ] = None,
    ttl: Annotated[str, typer.Option("--ttl", help="How long the token may be used.")] = "24h",
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Leave the token in this file (0600).")
    ] = None,
    socket: HubSocket = None,
) -> None:
    """Invite a trust domain: the one-time token goes to standard output, or into a file."""
    order = {"name": name, "owner": owner, "dns_suffixes": dns_suffix or [], "ttl": ttl}
    leave_secret(client.hub(socket).post("/domains", order)["token"], write, "token")


@app.command("list", epilog=examples("trustfed domain list", "trustfed domain list --output json"))
def list_(socket: HubSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the trust domains."""
    columns = {
        "NAME": "name",
        "STATUS": "status",
        "OWNER": "owner",
        "LEVEL": "level",
        "CONNECTED": "connected",
        "PUBLICATION KEY": "fingerprint",
    }
    output.listing(client.members(client.hub(socket).get("/domains"), "domains"), columns, output_as)


@app.command(epilog=examples("trustfed domain show prod-us-west"))
def show(name: Name, socket: HubSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """Show one trust domain, its intermediates and its grants."""
    output.record(client.hub(socket).get(f"/domains/{client.segment(name)}"), output_as)


@app.command(
    epilog=examples(
        'trustfed domain remove prod-us-west --reason "cluster is gone"',
        'trustfed domain remove prod-us-west --reason "its keys are stolen" --break-glass',
    ),
)
def remove(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    break_glass: BreakGlassOption = False,
    socket: HubSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Take a trust domain out: its grants end, its intermediates are revoked. Takes two people."""
    admin, alone = client.hub(socket), {"break_glass": "true"} if break_glass else {}
    found = admin.delete(f"/domains/{client.segment(name)}", reason=reason, **alone)
    proposed.told(admin, found, f"trust domain {name} is removed", output_as)


@app.command(
    "revoke-intermediate",
    epilog=examples(
        "trustfed domain revoke-intermediate d9575f7c20af931bb5c86bac867595e2 --reason keyCompromise",
        "trustfed domain revoke-intermediate d9575f7c20af931bb5c86bac867595e2 --reason keyCompromise "
        '--why "seen at a stranger\'s" --break-glass',
    ),
)
def revoke_intermediate(
    serial: Annotated[
        str, typer.Argument(metavar="SERIAL", help="The intermediate, as `trustfed domain show` or openssl has it.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="One of RFC 5280 §5.3.1, such as keyCompromise.")],
    why: Annotated[str, typer.Option("--why", help="The same in words, for the journal.")] = "",
    break_glass: Annotated[
        bool,
        typer.Option("--break-glass", help="At once and alone, alarmed; --why of at least 10 characters says why."),
    ] = False,
    socket: HubSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Put an intermediate that a root signed onto the root's CRL. Takes two people."""
    admin = client.hub(socket)
    order = {"reason": reason, "why": why, "break_glass": break_glass}
    found = admin.post(f"/intermediates/{client.segment(serial)}/revoke", order)
    done = f"intermediate {serial} of {found.get('trust_domain')} is revoked: {found.get('revoked_reason')}"
    proposed.told(admin, found, done, output_as)
