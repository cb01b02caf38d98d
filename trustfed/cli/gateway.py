"""trustfed gateway: the east-west entry points that lead into this cluster's mesh."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, gateway_probe, meshitems, output
from trustfed.cli.meshitems import OwnerOption, TakeOver
from trustfed.cli.options import ClusterSocket, Output, OutputOption, ReasonOption, examples, noun

app = noun()
gateway_probe.add(app)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The gateway.")]
COLUMNS = {
    "NAME": "name",
    "ADDRESS": "address",
    "PORT": "port",
    "NETWORK": "network",
    "LOCALITY": "locality",
    "WEIGHT": "weight",
    "OWNER": "owner",
    "SOURCE": "source",
}
REMOTE = {
    "DOMAIN": "exporter",
    "GATEWAY": "gateway",
    "ADDRESS": "address",
    "PORT": "port",
    "UP": "up",
    "WEIGHT": "weight",
    "RTT US": "rtt_us",
    "FAILURES": "failures",
    "ERROR": "error",
}


@app.command(
    epilog=examples(
        "trustfed gateway add west-1 --address 203.0.113.20 --port 15443 --network prod-us-west"
        ' --locality us-west-2/us-west-2a --owner team-net --reason "first gateway of the west"',
        "trustfed gateway add west-1 --address 203.0.113.20 --port 15443 --network prod-us-west --weight 3",
    ),
)
def add(
    name: Name,
    address: Annotated[str, typer.Option("--address", help="Its IP address, as other clusters reach it.")],
    network: Annotated[str, typer.Option("--network", help="The Istio network behind it.")],
    port: Annotated[int, typer.Option("--port", help="The port that takes other clusters' traffic.")] = 15443,
    locality: Annotated[str, typer.Option("--locality", help="REGION, REGION/ZONE or REGION/ZONE/SUBZONE.")] = "",
    weight: Annotated[int, typer.Option("--weight", help="Its share beside others in its locality, 1 to 100.")] = 1,
    owner: OwnerOption = "",
    reason: ReasonOption = "",
    take_over: TakeOver = False,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Add a gateway, or change one: the command is its whole setting."""
    item = meshitems.given(address=address, port=port, network=network, locality=locality, weight=weight, owner=owner)
    body = {"item": item, "reason": reason, "take_over": take_over}
    output.listing([client.cluster(socket).put(meshitems.path_of("gateway", name), body)], COLUMNS, output_as)


@app.command(
    "list",
    epilog=examples("trustfed gateway list", "trustfed gateway list --output json", "trustfed gateway list --remote"),
)
def list_(
    remote: Annotated[
        bool, typer.Option("--remote", help="The gateways of other clusters, as this one's probes find them.")
    ] = False,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """List this cluster's own gateways, or those of others."""
    cluster = client.cluster(socket)
    if remote:
        output.listing(client.members(cluster.get("/mesh/probes"), "gateways"), REMOTE, output_as)
        return
    output.listing(list(meshitems.pages(cluster, "/mesh/gateways", "gateways")), COLUMNS, output_as)


@app.command(epilog=examples('trustfed gateway remove west-1 --reason "replaced by west-2"'))
def remove(name: Name, reason: ReasonOption = "", socket: ClusterSocket = None) -> None:
    """Remove a gateway: other clusters stop sending traffic to it."""
    meshitems.remove(client.cluster(socket), "gateway", name, reason)
