"""trustfed peer: SPIFFE trust domains that are no members of this federation, by the bundle endpoint of each."""

from __future__ import annotations

import base64
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import client, output
from trustfed.cli.options import ClusterSocket, Output, OutputOption, ReasonOption, examples, moment, noun
from trustfed.errors import Invalid
from trustfed.runtime.files import read_bounded

app = noun()
Name = Annotated[str, typer.Argument(metavar="TRUST_DOMAIN", help="The foreign trust domain.")]
MAX_FILE = 128 * 1024
COLUMNS = {
    "TRUST DOMAIN": "trust_domain",
    "PROFILE": "profile",
    "CONDITION": "condition",
    "SEQUENCE": "sequence",
    "ROLLBACK": "rollback",
    "LAST FETCH": "fetched_at",
    "READS OURS": "reads_ours",
    "UNTIL": "until",
    "FAULT": "fault",
}


class Profile(StrEnum):
    """How the endpoint is known (SPIFFE Federation §5.2)."""

    WEB = "https_web"
    SPIFFE = "https_spiffe"


@app.command(
    epilog=examples(
        "trustfed peer add example.org --profile https_web --url https://trust.example.org/bundle"
        ' --until 90d --reason "their billing calls ours"',
        "trustfed peer add spire.example --profile https_spiffe --url https://spire.example:8443/"
        " --endpoint-id spiffe://spire.example/spire/server --bundle spire.json --until 90d"
        ' --reason "their billing calls ours" --reader 198.51.100.0/24',
    ),
)
def add(
    name: Name,
    profile: Annotated[Profile, typer.Option("--profile", help="How its endpoint is known.")],
    url: Annotated[str, typer.Option("--url", help="Its bundle endpoint, https://...")],
    until: Annotated[str, typer.Option("--until", help="When the grant ends: a time (RFC 3339), or from now (90d).")],
    reason: Annotated[str, typer.Option("--reason", help="Why it is trusted; kept in the journal.")],
    endpoint_id: Annotated[
        str, typer.Option("--endpoint-id", help="https_spiffe: the SPIFFE ID that must answer.")
    ] = "",
    bundle: Annotated[
        str,
        typer.Option("--bundle", metavar="FILE", help="https_spiffe: its first bundle (JSON or PEM); - pastes it."),
    ] = "",
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="https_web below these roots (PEM), not the system's.")
    ] = None,
    reader: Annotated[
        list[str] | None,
        typer.Option("--reader", metavar="CIDR", help="From where it reads our bundle; alarms when it no longer does."),
    ] = None,
    socket: ClusterSocket = None,
) -> None:
    """Trust a foreign domain, or change how: the command is its whole setting."""
    body = {
        "profile": profile.value,
        "url": url,
        "until": moment(until),
        "reason": reason,
        "endpoint_id": endpoint_id,
        "bundle": _first_bundle(bundle, endpoint_id) if bundle else "",
        "ca": _ca(ca) if ca else [],
        "readers": reader or [],
    }
    found = client.cluster(socket).put(f"/foreign/{client.segment(name)}", body)
    output.line(f"identities of {found['trust_domain']} are accepted until {found['until']}, grant {found['grant']}")


@app.command("list", epilog=examples("trustfed peer list", "trustfed peer list --output json"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the foreign trust domains, and how each stands."""
    found = client.members(client.cluster(socket).get("/foreign"), "peers")
    output.listing([_row(peer) for peer in found] if output_as is Output.TABLE else found, COLUMNS, output_as)


@app.command(epilog=examples("trustfed peer show example.org", "trustfed peer show example.org --output json"))
def show(name: Name, socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """Show all that is known of one."""
    output.record(client.cluster(socket).get(f"/foreign/{client.segment(name)}"), output_as)


@app.command(epilog=examples("trustfed peer refresh example.org"))
def refresh(name: Name, socket: ClusterSocket = None) -> None:
    """Fetch its bundle now."""
    found = client.cluster(socket).post(f"/foreign/{client.segment(name)}/refresh")
    output.line(f"{found['trust_domain']}: sequence {output.cell(found['sequence'])}, {found['keys']}")


@app.command(
    epilog=examples(
        'trustfed peer accept example.org --reason "their owner restored its server, ticket 4711"',
        "trustfed peer accept example.org --reason restored --keys sha256:9a0b",
    ),
)
def accept(
    name: Name,
    reason: ReasonOption = "",
    keys: Annotated[
        str, typer.Option("--keys", help="Only if it serves this key set (refused keys, in `trustfed peer show`).")
    ] = "",
    socket: ClusterSocket = None,
) -> None:
    """Accept what its endpoint serves now, although it does not continue the bundle held."""
    body = {"reason": reason, "keys": keys}
    found = client.cluster(socket).post(f"/foreign/{client.segment(name)}/accept", body)
    output.line(f"{found['trust_domain']}: accepted sequence {output.cell(found['sequence'])}, {found['keys']}")


@app.command(epilog=examples('trustfed peer remove example.org --reason "the contract has ended"'))
def remove(name: Name, reason: ReasonOption = "", socket: ClusterSocket = None) -> None:
    """Trust it no longer: its grant ends, and every agent drops its bundle at once."""
    client.cluster(socket).post(f"/foreign/{client.segment(name)}/remove", {"reason": reason})
    output.line(f"identities of {name} are accepted no longer")


@app.command(epilog=examples("trustfed peer readers", "trustfed peer readers --output json"))
def readers(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List who reads this domain's own bundle, by address, and what each got last."""
    columns = {
        "ADDRESS": "address",
        "PROFILE": "profile",
        "DOCUMENT": "document",
        "LEVEL": "level",
        "LAST": "at",
        "TIMES": "count",
    }
    output.listing(client.members(client.cluster(socket).get("/readers"), "readers"), columns, output_as)


def _row(peer: dict[str, Any]) -> dict[str, Any]:
    overdue = peer.get("reader_overdue")
    reads = None if overdue is None else "NO LONGER" if overdue else "yes"
    protected = peer.get("rollback_protection")
    rollback = None if protected is None else "protected" if protected else "no rollback protection"
    return {**peer, "reads_ours": reads, "rollback": rollback}


def _first_bundle(source: str, endpoint_id: str) -> str:
    """A SPIFFE bundle document or PEM, from a file or from standard input, as base64 of the document."""
    from trustfed.cli.svidfiles import parse_bundle  # noqa: PLC0415  pyca takes time to load
    from trustfed.spiffe.ids import SpiffeId  # noqa: PLC0415

    if not endpoint_id:
        raise Invalid("--bundle is of the endpoint's trust domain", hint="--endpoint-id spiffe://NAME/spire/server")
    data = sys.stdin.buffer.read(MAX_FILE + 1) if source == "-" else read_bounded(Path(source), MAX_FILE)
    if len(data) > MAX_FILE:
        raise Invalid(f"the first bundle is larger than {MAX_FILE} bytes")
    found = parse_bundle(data, "standard input" if source == "-" else source, SpiffeId.parse(endpoint_id).trust_domain)
    return base64.b64encode(found.marshal()).decode()


def _ca(path: Path) -> list[str]:
    from trustfed.cli.keyfiles import certificates  # noqa: PLC0415

    return [base64.b64encode(der).decode() for der in certificates(read_bounded(path, MAX_FILE), str(path))]
