"""trustfed cluster: enrol the control plane of one trust domain, run it, look at it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from trustfed.cli import client, output, templates
from trustfed.cli.options import (
    CheckOption,
    ClusterSocket,
    ConfigOption,
    Output,
    PrintConfigOption,
    ReasonOption,
    configuration,
    examples,
    noun,
    secret_argument,
)

app = noun()


@app.command(
    epilog=examples(
        "trustfed cluster init --print-config > cluster.toml",
        "trustfed cluster init --config cluster.toml @prod-us-west.token",
        "trustfed cluster init --config cluster.toml - < prod-us-west.token",
    ),
)
def init(
    token: Annotated[
        str | None, typer.Argument(metavar="TOKEN", help="The hub's enrolment token: @FILE, or - for standard input.")
    ] = None,
    config: ConfigOption = None,
    print_config: PrintConfigOption = False,
) -> None:
    """Enrol this cluster at its hub; once it is enrolled a token is ignored."""
    if print_config:
        output.text(templates.CLUSTER)
        return
    text = secret_argument(token, "token") if token is not None else None
    from trustfed.cluster import compose  # noqa: PLC0415  the whole control plane: only for who runs it
    from trustfed.cluster.config import ClusterConfig  # noqa: PLC0415
    from trustfed.runtime import process  # noqa: PLC0415
    from trustfed.runtime.config import load  # noqa: PLC0415

    settings = load(configuration(config), ClusterConfig)
    process.harden()
    found = asyncio.run(compose.init(settings, text))
    how = "is enrolled" if found["new"] else "was enrolled before"
    output.line(f"trust domain {found['trust_domain']} {how}")


@app.command(
    epilog=examples(
        "trustfed cluster serve --config cluster.toml", "trustfed cluster serve --config cluster.toml --check"
    ),
)
def serve(
    config: ConfigOption = None,
    check: CheckOption = False,
) -> None:
    """Run the control plane until it is stopped."""
    from trustfed.cluster import compose  # noqa: PLC0415
    from trustfed.cluster.config import ClusterConfig  # noqa: PLC0415
    from trustfed.runtime import process  # noqa: PLC0415
    from trustfed.runtime.config import load  # noqa: PLC0415

    settings = load(configuration(config), ClusterConfig)
    if check:
        doors = {"grpc": settings.grpc.listen, "https_spiffe": settings.bundle_spiffe.listen}
        if settings.bundle_web:
            doors["https_web"] = settings.bundle_web.listen
        doors["admin"] = str(settings.admin_path)
        if settings.health:
            doors["health"] = settings.health
        output.checked("cluster", doors)
        return
    raise typer.Exit(process.run(lambda stop: compose.serve(settings, stop)))


@app.command(
    epilog=examples("trustfed cluster status", "trustfed cluster status --output json"),
)
def status(
    socket: ClusterSocket = None,
    output_as: Annotated[Output, typer.Option("--output", "-o", help="Lines for people, or JSON.")] = Output.TABLE,
) -> None:
    """Show the cluster at a glance."""
    output.record(client.cluster(socket).get("/status"), output_as)


@app.command(
    epilog=examples(
        'trustfed cluster epoch --reason "restored from the backup of Monday"',
        'trustfed cluster epoch --epoch 7 --reason "restored, and no peer can be asked"',
    ),
)
def epoch(
    reason: ReasonOption,
    number: Annotated[
        int, typer.Option("--epoch", min=0, help="Its number, above every one that a peer has seen; 0: the next one.")
    ] = 0,
    socket: ClusterSocket = None,
) -> None:
    """Begin a new epoch after a restore from a backup, so that peers take this domain's bundle again."""
    found = client.cluster(socket).post("/epoch", {"reason": reason, "epoch": number})
    reported = output.cell(found["reported"])
    output.line(f"epoch {found['epoch']} begins; the highest level that peers reported is {reported}")
