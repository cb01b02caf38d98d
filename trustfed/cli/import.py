"""trustfed import: the services of other clusters that this one wants to call."""

from __future__ import annotations

from typing import Annotated

import typer

from trustfed.cli import client, meshitems, output
from trustfed.cli.meshitems import LocalAnswers, LocalPorts, LocalRules, OwnerOption, Sidecars, TakeOver
from trustfed.cli.options import ClusterSocket, Output, OutputOption, ReasonOption, examples, noun
from trustfed.errors import Invalid

app = noun()
Name = Annotated[str, typer.Argument(metavar="NAME", help="The import.")]
COLUMNS = {
    "NAME": "name",
    "FROM": "exporter",
    "HOST": "host",
    "NAMESPACE": "namespace",
    "GROUP": "group",
    "OWNER": "owner",
    "SOURCE": "source",
}


@app.command(
    epilog=examples(
        "trustfed import add payments --from prod-us-west --host payments.shop.svc.cluster.local --local absent"
        ' --owner team-shop --reason "checkout charges cards there"',
        "trustfed import add stock --from prod-us-west --host stock.shop.svc.cluster.local --local all"
        " --local-answers spiffe://prod-eu-central/ns/shop/sa/stock --local-ports 8080:http",
        "trustfed import add shop --from prod-us-west --group shop",
    ),
)
def add(
    name: Name,
    exporter: Annotated[str, typer.Option("--from", metavar="TRUST_DOMAIN", help="Whose services they are.")],
    host: Annotated[str, typer.Option("--host", help="One service: NAME.NAMESPACE.svc.cluster.local.")] = "",
    namespace: Annotated[str, typer.Option("--namespace", help="All that it exports of a namespace.")] = "",
    group: Annotated[str, typer.Option("--group", help="All that it exports under this name.")] = "",
    local: Annotated[
        Sidecars | None,
        typer.Option("--local", help="Whether that host is here too, and which of its endpoints have a sidecar."),
    ] = None,
    local_answers: LocalAnswers = None,
    local_rules: LocalRules = None,
    local_ports: LocalPorts = None,
    owner: OwnerOption = "",
    reason: ReasonOption = "",
    take_over: TakeOver = False,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Want one host, all of a namespace or all of a group; the command is the import's whole setting.

    Nothing is rendered for a host before it is known whether it is here too: --local says so for --host, `trustfed mesh
    local` for any host, and Kubernetes where the cluster reads it.
    """
    if local is None and (local_answers or local_rules or local_ports):
        raise Invalid(
            "--local-answers, --local-rules and --local-ports say more of --local, which is missing", hint="--local all"
        )
    item = meshitems.given(exporter=exporter, host=host, namespace=namespace, group=group, owner=owner)
    body: dict[str, object] = {"item": item, "reason": reason, "take_over": take_over}
    if local is not None:
        body["local"] = meshitems.local_body(local, local_answers, local_rules, local_ports, "")
    output.listing([client.cluster(socket).put(meshitems.path_of("import", name), body)], COLUMNS, output_as)


@app.command("list", epilog=examples("trustfed import list", "trustfed import list --output json"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List what this cluster wants of others."""
    output.listing(list(meshitems.pages(client.cluster(socket), "/mesh/imports", "imports")), COLUMNS, output_as)


@app.command(epilog=examples('trustfed import remove payments --reason "charged at home again"'))
def remove(name: Name, reason: ReasonOption = "", socket: ClusterSocket = None) -> None:
    """Want it no longer: what was rendered for it alone goes."""
    meshitems.remove(client.cluster(socket), "import", name, reason)
