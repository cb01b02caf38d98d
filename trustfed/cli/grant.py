"""trustfed grant: offered by the hub, accepted by the owner of the importing trust domain, ended by either."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

import typer

from trustfed.cli import client, output
from trustfed.cli.options import (
    AtHub,
    ClusterSocket,
    EitherSocket,
    HubSocket,
    Output,
    OutputOption,
    ReasonOption,
    examples,
    moment,
    noun,
)
from trustfed.runtime.files import read_bounded

app = noun()
GrantId = Annotated[str, typer.Argument(metavar="ID", help="The grant, as `trustfed grant list` shows it.")]
Fingerprint = Annotated[
    str, typer.Option("--fingerprint", help="The exporter's publication key, as its owner told you (sha256:...).")
]
COLUMNS = {
    "ID": "id",
    "IMPORTER": "importer",
    "EXPORTER": "exporter",
    "STATE": "state",
    "UNTIL": "until",
    "REASON": "reason",
    "EXPORTER'S KEY": "fingerprint",
}


@app.command(
    epilog=examples(
        'trustfed grant offer prod-us-west prod-eu-central --until 90d --reason "checkout calls stock"',
        "trustfed grant offer prod-us-west prod-eu-central --until 2027-01-31T12:00:00Z --reason trial --both",
    ),
)
def offer(
    importer: Annotated[str, typer.Argument(metavar="IMPORTER", help="The trust domain that will accept identities.")],
    exporter: Annotated[str, typer.Argument(metavar="EXPORTER", help="The trust domain whose identities they are.")],
    until: Annotated[str, typer.Option("--until", help="When it ends: a time (RFC 3339), or from now (90d).")],
    reason: Annotated[str, typer.Option("--reason", help="Why; both owners see it.")],
    start: Annotated[str | None, typer.Option("--from", help="When it begins; at once if left out.")] = None,
    both: Annotated[
        bool, typer.Option("--both", help="Offer the other direction too: an agreement is two grants.")
    ] = False,
    socket: HubSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Offer a grant: its importing owner decides."""
    sides = [(importer, exporter), (exporter, importer)] if both else [(importer, exporter)]
    terms = {"until": moment(until), "reason": reason, **({"start": moment(start)} if start else {})}
    hub = client.hub(socket)
    offered = [hub.post("/grants", {"importer": one, "exporter": other, **terms}) for one, other in sides]
    output.listing([_shown(grant) for grant in offered], COLUMNS, output_as)


@app.command(
    epilog=examples(
        "trustfed grant accept 5f3a9c0e6b1d2a47 --fingerprint sha256:9a0b --reason agreed",
    ),
)
def accept(
    grant: GrantId,
    fingerprint: Fingerprint,
    reason: ReasonOption = "",
    socket: ClusterSocket = None,
) -> None:
    """Accept a grant as the importing owner, and pin the exporter's publication key."""
    body = {"fingerprint": fingerprint, "reason": reason}
    found = client.cluster(socket).post(f"/grants/{client.segment(grant)}/accept", body)
    output.line(f"{found['importer']} accepts identities of {found['exporter']} until {found['until']}")


@app.command(
    "list",
    epilog=examples("trustfed grant list", "trustfed grant list --hub --output json"),
)
def list_(socket: EitherSocket = None, hub: AtHub = False, output_as: OutputOption = Output.TABLE) -> None:
    """List the grants that a cluster, or the hub, knows."""
    found = client.members(client.either(socket, hub).get("/grants"), "grants")
    output.listing([_shown(grant) for grant in found] if output_as is Output.TABLE else found, COLUMNS, output_as)


@app.command(
    epilog=examples(
        'trustfed grant end 5f3a9c0e6b1d2a47 --reason "the trial is over"',
        'trustfed grant end 5f3a9c0e6b1d2a47 --reason "the trial is over" --hub',
    ),
)
def end(
    grant: GrantId,
    reason: ReasonOption = "",
    socket: EitherSocket = None,
    hub: AtHub = False,
) -> None:
    """End a grant: new connections are refused from now on."""
    found = client.either(socket, hub).post(f"/grants/{client.segment(grant)}/end", {"reason": reason})
    output.line(f"{found['importer']} accepts identities of {found['exporter']} no longer")


@app.command(
    epilog=examples(
        "trustfed grant limit 5f3a9c0e6b1d2a47 --stale-limit 7d --reason 'payments must not run on old trust'",
    ),
)
def limit(
    grant: GrantId,
    stale_limit: Annotated[
        str, typer.Option("--stale-limit", help="How long after its last confirmation; 0s: as policy.stale_limit says.")
    ],
    reason: ReasonOption = "",
    socket: ClusterSocket = None,
) -> None:
    """Say how long the exporter's bundle is used while nobody can confirm that it is the newest."""
    body = {"stale_limit": stale_limit, "reason": reason}
    found = client.cluster(socket).post(f"/grants/{client.segment(grant)}/limit", body)
    kept = found["stale_limit_seconds"]
    output.line(
        f"the bundle of {found['exporter']} is used {f'{kept} s' if kept else 'as long as policy says'} unconfirmed"
    )


@app.command(
    epilog=examples(
        "trustfed grant repin 5f3a9c0e6b1d2a47 --key prod-us-west.pub --fingerprint sha256:9a0b --reason restored",
    ),
)
def repin(
    grant: GrantId,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The new publication key (PEM or DER).")],
    fingerprint: Fingerprint,
    reason: ReasonOption = "",
    socket: ClusterSocket = None,
) -> None:
    """Pin another publication key of the exporter, after its owner replaced it."""
    from trustfed.cli.keyfiles import public_key  # noqa: PLC0415  pyca takes time to load

    spki = public_key(read_bounded(key, 65_536), str(key))
    body = {"publication_key": base64.b64encode(spki).decode(), "fingerprint": fingerprint, "reason": reason}
    found = client.cluster(socket).post(f"/grants/{client.segment(grant)}/repin", body)
    output.line(f"{found['exporter']} is pinned to {found['pinned_fingerprint']}")


def _shown(grant: dict[str, object]) -> dict[str, object]:
    """With one fingerprint: the pinned key's, else the one that the hub knows."""
    known = grant.get("pinned_fingerprint") or grant.get("exporter_fingerprint")
    return {**grant, "fingerprint": known}
