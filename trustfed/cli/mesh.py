"""trustfed mesh: desired state as a directory of YAML, local hosts, and how the cluster's mesh stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import client, mesh_hub, mesh_kubernetes, meshitems, output
from trustfed.cli.meshitems import LocalAnswers, LocalRules, Ports, Sidecars, TakeOver
from trustfed.cli.options import ClusterSocket, Output, OutputOption, ReasonOption, examples, noun
from trustfed.errors import Invalid

app = noun()
mesh_hub.add(app)
mesh_kubernetes.add(app)
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of YAML documents.")]
COLUMNS = {
    "DIFFERENCE": "action",
    "KIND": "kind",
    "NAME": "name",
    "MEMBERS": "members",
    "PUT BY": "held_by",
    "WHERE": "where",
}
LOCAL = {
    "HOST": "host",
    "SIDECARS": "sidecars",
    "ANSWERS": "answers",
    "RULES": "rules",
    "PORTS": "ports",
    "SOURCE": "source",
}


@app.command(
    epilog=examples(
        "trustfed mesh apply mesh/ --dry-run",
        'trustfed mesh apply mesh/ --prune --reason "change 4711"',
        "trustfed mesh apply mesh/ --take-over",
    ),
)
def apply(
    directory: Directory,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also drop what a directory put earlier and this one does not name.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Make what a command or Kubernetes put the directory's.")
    ] = False,
    reason: ReasonOption = "",
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Bring gateways, exports, imports and local hosts to what a directory says: all of it, or nothing on a fault."""
    found = _judged(directory, socket, dry_run=dry_run, prune=prune, take_over=take_over, reason=reason)
    rows = [one for one in found["differences"] if one["action"] != "drop" or prune]
    _print(found, rows, output_as)
    if output_as is Output.TABLE:
        left = len(found["differences"]) - len(rows)
        more = f"; {left} that no document names are left, --prune drops them" if left else ""
        verb = "would differ" if dry_run else "brought to what the documents say"
        output.line(f"{found['documents']} documents: {len(rows)} {verb}, {found['unchanged']} unchanged{more}")


@app.command(epilog=examples("trustfed mesh diff mesh/", "trustfed mesh diff mesh/ --output json"))
def diff(directory: Directory, socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """Show the drift: what differs between a directory and the cluster. Exit code 1 if anything does."""
    found = _judged(directory, socket, dry_run=True, prune=True)
    _print(found, found["differences"], output_as)
    if output_as is Output.TABLE:
        output.line(f"{found['documents']} documents: {len(found['differences'])} differ")
    raise typer.Exit(1 if found["differences"] else 0)


@app.command(epilog=examples("trustfed mesh status", "trustfed mesh status --output json"))
def status(socket: ClusterSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """Show how this cluster's mesh stands: what it says and holds, and the directory that it applies by itself."""
    output.record(client.cluster(socket).get("/mesh/status"), output_as)


@app.command(
    epilog=examples(
        "trustfed mesh local",
        "trustfed mesh local payments.shop.svc.cluster.local --sidecars absent",
        "trustfed mesh local stock.shop.svc.cluster.local --sidecars all"
        " --local-answers spiffe://prod-eu-central/ns/shop/sa/stock --local-rules stock-rules.json"
        " --ports 8080:http",
        "trustfed mesh local stock.shop.svc.cluster.local --forget",
    ),
)
def local(
    host: Annotated[str, typer.Argument(metavar="[HOST]", help="A host; without it all that are known.")] = "",
    sidecars: Annotated[
        Sidecars | None, typer.Option("--sidecars", help="Whether it is here, and which endpoints have a sidecar.")
    ] = None,
    local_answers: LocalAnswers = None,
    local_rules: LocalRules = None,
    ports: Ports = None,
    forget: Annotated[bool, typer.Option("--forget", help="Know nothing of it any more: its imports wait.")] = False,
    reason: ReasonOption = "",
    take_over: TakeOver = False,
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """List what is known of hosts inside this cluster, or say it of one: an import waits until it is known."""
    cluster = client.cluster(socket)
    if not host:
        if sidecars is not None or forget or local_answers or local_rules or ports:
            raise Invalid("no host is named", hint="trustfed mesh local HOST --sidecars absent")
        held = list(meshitems.pages(cluster, "/mesh/local", "local"))
        output.listing([_counted(one) for one in held] if output_as is Output.TABLE else held, LOCAL, output_as)
        return
    if "/" in host:
        raise Invalid(f"{host[:80]!r} is no host", hint="NAME.NAMESPACE.svc.cluster.local")
    path = f"/mesh/local/{client.segment(host)}"
    if forget:
        cluster.post(f"{path}/remove", {"reason": reason})
        output.line(f"nothing is known of {host} any more")
        return
    if sidecars is None:
        raise Invalid(f"nothing is said of {host}", hint="--sidecars absent|all|some|none, or --forget")
    body = {**meshitems.local_body(sidecars, local_answers, local_rules, ports, reason), "take_over": take_over}
    found = cluster.put(path, body)
    output.listing([_counted(found) if output_as is Output.TABLE else found], LOCAL, output_as)


def _judged(directory: Path, socket: Path | None, **how: Any) -> dict[str, Any]:
    """The files as they are, judged by the cluster."""
    from trustfed.cluster.mesh.desired.files import read_directory  # noqa: PLC0415  with the noun only

    files = [{"path": file.path, "text": file.text} for file in read_directory(directory)]
    found: dict[str, Any] = client.cluster(socket).post("/mesh/apply", {"files": files, **how})
    return found


def _print(found: dict[str, Any], rows: list[dict[str, Any]], output_as: Output) -> None:
    if output_as is Output.JSON:
        output.document({**found, "differences": rows})
    elif rows:
        output.listing(rows, COLUMNS, output_as)


def _counted(row: dict[str, Any]) -> dict[str, Any]:
    """A row for a table: of the rules only their names."""
    named = [f"{rule['metadata']['namespace']}/{rule['metadata']['name']}" for rule in row["rules"]]
    return {**row, "rules": named}
