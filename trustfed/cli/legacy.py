"""trustfed legacy: a mesh moves from its old trust domain (cluster.local) to this one, and believes the old for a while."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import client, output, proposed
from trustfed.cli.options import (
    BreakGlassOption,
    ClusterSocket,
    Output,
    OutputOption,
    ReasonOption,
    examples,
    moment,
    noun,
)
from trustfed.runtime.files import read_bounded

app = noun()
Name = Annotated[str, typer.Argument(metavar="TRUST_DOMAIN", help="The trust domain that the mesh moves away from.")]
MAX_FILE = 64 * 1024


@app.command(
    epilog=examples(
        'trustfed legacy add cluster.local --anchor old-root.pem --until 30d --reason "the mesh moves to this domain"',
    ),
)
def add(
    name: Name,
    anchor: Annotated[
        Path, typer.Option("--anchor", metavar="FILE", help="The old CA's root certificates (PEM), as root-cert.pem.")
    ],
    until: Annotated[str, typer.Option("--until", help="When that ends: a time, or from now (30d); at most 90d.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the journal.")],
    break_glass: BreakGlassOption = False,
    socket: ClusterSocket = None,
) -> None:
    """Believe the old domain's anchor for a limited time, and print what meshConfig says meanwhile. Takes two people.

    Whoever has the anchor's key can be every workload of the mesh, for the alias makes the old domain's identities equal to ours.
    """
    from trustfed.cli.keyfiles import certificates  # noqa: PLC0415  pyca takes time to load

    anchors = certificates(read_bounded(anchor, MAX_FILE), str(anchor))
    body = {
        "anchors": [base64.b64encode(der).decode() for der in anchors],
        "until": moment(until),
        "reason": reason,
        "break_glass": break_glass,
    }
    admin = client.cluster(socket)
    found = admin.put(f"/legacy/{client.segment(name)}", body)
    if proposed.waits(found):
        output.line(proposed.proposed(admin, found))
    else:
        _meanwhile(found)


@app.command("list", epilog=examples("trustfed legacy list", "trustfed legacy list --output json"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the old domains that are believed, and until when."""
    columns = {"TRUST DOMAIN": "trust_domain", "UNTIL": "until", "GRANT": "grant", "REASON": "reason"}
    output.listing(client.members(client.cluster(socket).get("/legacy"), "legacy"), columns, output_as)


@app.command("mesh-config", epilog=examples("trustfed legacy mesh-config"))
def mesh_config(socket: ClusterSocket = None) -> None:
    """Print what meshConfig says now: the domain, and aliases for the old ones that are believed."""
    output.text(client.cluster(socket).get("/legacy")["mesh_config"])


@app.command(epilog=examples('trustfed legacy end cluster.local --reason "every workload has moved"'))
def end(name: Name, reason: ReasonOption = "", socket: ClusterSocket = None) -> None:
    """Believe it no longer: every agent drops its anchor at once."""
    _meanwhile(client.cluster(socket).post(f"/legacy/{client.segment(name)}/end", {"reason": reason}))


def _meanwhile(found: dict[str, Any]) -> None:
    output.line("# meshConfig from now on; the aliases go when the last old domain is no longer believed:")
    output.text(found["mesh_config"])
