"""trustfed export: the services that this cluster offers to others."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from trustfed.cli import client, meshitems, output
from trustfed.cli.meshitems import OwnerOption, TakeOver
from trustfed.cli.options import ClusterSocket, Output, OutputOption, ReasonOption, examples, noun
from trustfed.errors import Invalid

app = noun()
Host = Annotated[str, typer.Argument(metavar="HOST", help="NAME.NAMESPACE.svc.cluster.local.")]
COLUMNS = {
    "HOST": "host",
    "PORTS": "ports",
    "ANSWERS": "answers",
    "CALLERS": "callers",
    "GROUPS": "groups",
    "OWNER": "owner",
    "SOURCE": "source",
}
_PORT = re.compile(r"(?P<number>[0-9]{1,5}):(?P<name>[^:=]{1,63}):(?P<protocol>[A-Za-z0-9]{1,10})", re.ASCII)


@app.command(
    epilog=examples(
        "trustfed export add payments.shop.svc.cluster.local --port 8080:http:HTTP"
        " --answer spiffe://prod-us-west/ns/shop/sa/payments --caller spiffe://prod-eu-central/ns/shop/sa/checkout"
        ' --workload app=payments --owner team-pay --reason "checkout in the east charges cards here"',
        "trustfed export add stock.shop.svc.cluster.local --port 8080:http:HTTP --port 9090:grpc:GRPC"
        " --answer spiffe://prod-us-west/ns/shop/sa/stock --caller spiffe://prod-eu-central --workload app=stock"
        " --subset v1 --group shop --locality us-west-2",
    ),
)
def add(
    host: Host,
    port: Annotated[
        list[str],
        typer.Option("--port", metavar="NUMBER:NAME:PROTOCOL", help="As its Service has it; may be repeated."),
    ],
    answer: Annotated[
        list[str], typer.Option("--answer", metavar="SPIFFE_ID", help="Who answers: exact IDs of this trust domain.")
    ],
    workload: Annotated[
        list[str], typer.Option("--workload", metavar="KEY=VALUE", help="The labels of the pods behind it.")
    ],
    caller: Annotated[
        list[str] | None,
        typer.Option(
            "--caller", metavar="SPIFFE_ID", help="Who may call: exact IDs, or spiffe://DOMAIN for all of one."
        ),
    ] = None,
    subset: Annotated[
        list[str] | None, typer.Option("--subset", help="A subset that its DestinationRule defines here.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", help="A name under which several are imported at once.")
    ] = None,
    locality: Annotated[str, typer.Option("--locality", help="REGION, REGION/ZONE or REGION/ZONE/SUBZONE.")] = "",
    owner: OwnerOption = "",
    reason: ReasonOption = "",
    take_over: TakeOver = False,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Offer a service, or change the offer: the command is its whole setting."""
    item = meshitems.given(
        ports=[_port(text) for text in port],
        answers=answer,
        callers=caller,
        workload=_labels(workload),
        subsets=subset,
        groups=group,
        locality=locality,
        owner=owner,
    )
    body = {"item": item, "reason": reason, "take_over": take_over}
    found = client.cluster(socket).put(meshitems.path_of("export", host), body)
    output.listing(_shown([found], output_as), COLUMNS, output_as)


@app.command("list", epilog=examples("trustfed export list", "trustfed export list --output json"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List what this cluster offers."""
    found = list(meshitems.pages(client.cluster(socket), "/mesh/exports", "exports"))
    output.listing(_shown(found, output_as), COLUMNS, output_as)


@app.command(epilog=examples('trustfed export remove payments.shop.svc.cluster.local --reason "moved to the east"'))
def remove(host: Host, reason: ReasonOption = "", socket: ClusterSocket = None) -> None:
    """Offer a service no longer: other clusters lose their route to it."""
    meshitems.remove(client.cluster(socket), "export", host, reason)


def _shown(rows: list[dict[str, Any]], output_as: Output) -> list[dict[str, Any]]:
    if output_as is Output.JSON:
        return rows
    return [{**row, "ports": [f"{p['number']}:{p['name']}:{p['protocol']}" for p in row["ports"]]} for row in rows]


def _port(text: str) -> dict[str, object]:
    match = _PORT.fullmatch(text)
    if match is None:
        raise Invalid(f"the port {text[:80]!r} is malformed", hint="NUMBER:NAME:PROTOCOL such as 8080:http:HTTP")
    return {"number": int(match["number"]), "name": match["name"], "protocol": match["protocol"].upper()}


def _labels(texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name in found:
            raise Invalid(f"the label {text[:80]!r} is malformed or given twice", hint="KEY=VALUE such as app=payments")
        found[name] = value
    return found
