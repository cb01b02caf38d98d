"""trustfed entry: which SPIFFE IDs exist, on which nodes, for which processes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trustfed.cli import client, output
from trustfed.cli.options import ClusterSocket, Output, OutputOption, examples, moment, noun, seconds

app = noun()
EntryId = Annotated[str, typer.Argument(metavar="ID", help="The entry.")]
Parent = Annotated[str | None, typer.Option("--parent", help="Where it may be served: node/NAME or group/NAME.")]
Selector = Annotated[
    list[str] | None,
    typer.Option("--selector", help="What a process must be, such as unix:uid:1000; all that are given must match."),
]
X509Ttl = Annotated[str | None, typer.Option("--ttl", help="How long its X509-SVIDs live (1h); else the domain's own.")]
JwtTtl = Annotated[str | None, typer.Option("--jwt-ttl", help="How long its JWT-SVIDs live (5m); else the domain's.")]
DnsName = Annotated[list[str] | None, typer.Option("--dns-name", help="A DNS name in its SVIDs; may be repeated.")]
FederatesWith = Annotated[
    list[str] | None,
    typer.Option("--federates-with", help="A trust domain whose bundle it gets, peers:NAME, or '*' for all granted."),
]
Hint = Annotated[str | None, typer.Option("--hint", help="Tells a workload with several SVIDs which one this is.")]
Chain = Annotated[str | None, typer.Option("--chain", help="leaf, or root for peers that anchor at the root.")]
ExpiresAt = Annotated[str | None, typer.Option("--expires", help="When it ends: a time (RFC 3339), or from now (30d).")]
Owner = Annotated[str | None, typer.Option("--owner", help="The team that it belongs to.")]
AdminFlag = Annotated[bool | None, typer.Option("--admin/--no-admin", help="Mark it as an administrator's.")]
COLUMNS = {
    "ID": "id",
    "SPIFFE ID": "spiffe_id",
    "PARENT": "parent",
    "SELECTORS": "selectors",
    "TTL": "x509_ttl",
    "FEDERATES WITH": "federates_with",
    "EXPIRES": "expires_at",
}
_SETTABLE = (
    "spiffe_id",
    "parent",
    "selectors",
    "x509_ttl",
    "jwt_ttl",
    "dns_names",
    "federates_with",
    "hint",
    "admin",
    "chain",
    "expires_at",
    "owner",
)


@app.command(
    epilog=examples(
        "trustfed entry create spiffe://prod-us-west/shop/stock --parent node/node-1 --selector unix:uid:1000",
        "trustfed entry create spiffe://prod-us-west/shop/stock --parent group/default --selector unix:user:stock"
        " --ttl 1h --federates-with prod-eu-central --dns-name stock.us-west.example",
    ),
)
def create(
    spiffe_id: Annotated[str, typer.Argument(metavar="SPIFFE_ID", help="The identity.")],
    parent: Annotated[str, typer.Option("--parent", help="Where it may be served: node/NAME or group/NAME.")],
    selector: Annotated[
        list[str], typer.Option("--selector", help="What a process must be, such as unix:uid:1000; all must match.")
    ],
    id_: Annotated[str | None, typer.Option("--id", help="Its id; else one is chosen.")] = None,
    ttl: X509Ttl = None,
    jwt_ttl: JwtTtl = None,
    dns_name: DnsName = None,
    federates_with: FederatesWith = None,
    hint: Hint = None,
    admin: AdminFlag = None,
    chain: Chain = None,
    expires: ExpiresAt = None,
    owner: Owner = None,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Create an entry: its workloads have their SVID at once."""
    given = _given(ttl, jwt_ttl, dns_name, federates_with, hint=hint, admin=admin, chain=chain, expires=expires)
    body = {"spiffe_id": spiffe_id, "parent": parent, "selectors": selector, **given}
    body |= {"id": id_} if id_ else {}
    body |= {"owner": owner} if owner else {}
    output.listing([client.cluster(socket).post("/entries", body)], COLUMNS, output_as)


@app.command("list", epilog=examples("trustfed entry list", "trustfed entry list --output json"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the entries of the trust domain."""
    output.listing(client.members(client.cluster(socket).get("/entries"), "entries"), COLUMNS, output_as)


@app.command(epilog=examples("trustfed entry show 1f2e3d4c5b6a7988"))
def show(entry: EntryId, socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """Show one entry."""
    output.record(client.cluster(socket).get(f"/entries/{client.segment(entry)}"), output_as)


@app.command(epilog=examples("trustfed entry update 1f2e3d4c5b6a7988 --ttl 30m --federates-with '*'"))
def update(
    entry: EntryId,
    parent: Parent = None,
    selector: Selector = None,
    ttl: X509Ttl = None,
    jwt_ttl: JwtTtl = None,
    dns_name: DnsName = None,
    federates_with: FederatesWith = None,
    hint: Hint = None,
    admin: AdminFlag = None,
    chain: Chain = None,
    expires: ExpiresAt = None,
    owner: Owner = None,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Change what is given, and leave the rest of an entry as it is."""
    cluster, path = client.cluster(socket), f"/entries/{client.segment(entry)}"
    held = cluster.get(path)
    body = {name: held[name] for name in _SETTABLE if name in held}
    body |= _given(ttl, jwt_ttl, dns_name, federates_with, hint=hint, admin=admin, chain=chain, expires=expires)
    body |= {"parent": parent} if parent else {}
    body |= {"selectors": selector} if selector else {}
    body |= {"owner": owner} if owner is not None else {}
    output.listing([cluster.put(path, body)], COLUMNS, output_as)


@app.command(epilog=examples("trustfed entry delete 1f2e3d4c5b6a7988"))
def delete(entry: EntryId, socket: ClusterSocket = None) -> None:
    """Delete an entry: its workloads lose their SVID at once."""
    client.cluster(socket).delete(f"/entries/{client.segment(entry)}")
    output.line(f"entry {entry} is deleted")


def _given(
    ttl: str | None,
    jwt_ttl: str | None,
    dns_name: list[str] | None,
    federates_with: list[str] | None,
    *,
    hint: str | None,
    admin: bool | None,
    chain: str | None,
    expires: str | None,
) -> dict[str, Any]:
    """The members of an entry that the command line sets."""
    values = {
        "x509_ttl": seconds(ttl) if ttl else None,
        "jwt_ttl": seconds(jwt_ttl) if jwt_ttl else None,
        "dns_names": dns_name or None,
        "federates_with": federates_with or None,
        "hint": hint,
        "admin": admin,
        "chain": chain,
        "expires_at": moment(expires) if expires else None,
    }
    return {name: value for name, value in values.items() if value is not None}
