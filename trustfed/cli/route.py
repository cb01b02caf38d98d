"""trustfed route: what this cluster's istiods are told of other clusters' services, and why the rest is not."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trustfed.cli import client, output
from trustfed.cli.options import ClusterSocket, Output, OutputOption, examples, noun

app = noun()
Service = Annotated[str, typer.Argument(metavar="SERVICE", help="A full host, or NAME.NAMESPACE.")]
COLUMNS = {
    "HOST": "host",
    "FROM": "exporters",
    "STATE": "state",
    "WHY": "reasons",
    "EXPORT": "exported",
    "AGE": "age",
    "CONFIRMED": "confirmed_at",
}


@app.command("list", epilog=examples("trustfed route list", "trustfed route list --output json"))
def list_(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List every host that is imported, offered or exported here, and whether it is rendered."""
    output.listing(client.members(client.cluster(socket).get("/mesh/routes"), "routes"), COLUMNS, output_as)


@app.command(
    epilog=examples(
        "trustfed route explain payments.shop",
        "trustfed route explain payments.shop.svc.cluster.local --from prod-eu-central",
        "trustfed route explain payments.shop --output json",
    ),
)
def explain(
    service: Service,
    caller: Annotated[
        str,
        typer.Option("--from", metavar="TRUST_DOMAIN", help="Whose calls are meant; those of this cluster if not set."),
    ] = "",
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Say in words why calls from a cluster reach a service, or why they do not."""
    found = client.cluster(socket).get(
        f"/mesh/routes/{client.segment(service)}", **({"caller": caller} if caller else {})
    )
    if output_as is Output.JSON:
        output.document(found)
        return
    output.line(f"{found['host']} from {found['from']}: {found['state']}")
    for reason in client.members(found, "reasons"):
        output.line(f"- {reason['sentence']} ({reason['code']})")
        if hint := reason.get("hint"):
            output.line(f"  {hint}")
    for name in found.get("resources", ()):
        output.line(f"  {name}")
    if ask := found.get("ask"):
        output.line(str(ask))


@app.command(
    epilog=examples("trustfed route patch payments.shop", "trustfed route patch payments.shop > payments-rule.yaml")
)
def patch(service: Service, socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """Print as YAML what owners' DestinationRules have to become before a service is rendered."""
    import yaml  # noqa: PLC0415  takes time to load, and only this command writes YAML

    found: dict[str, Any] = client.cluster(socket).get(f"/mesh/routes/{client.segment(service)}/patch")
    if output_as is Output.JSON:
        output.document(found)
        return
    parts = []
    for one in client.members(found, "patches"):
        said = (
            "a rule of its own beside one that speaks of more hosts" if one["new"] else "the rule as it has to become"
        )
        parts.append(f"# {one['namespace']}/{one['name']}: {said}\n" + yaml.safe_dump(one["rule"], sort_keys=False))
    output.text("---\n".join(parts))
