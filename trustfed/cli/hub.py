"""trustfed hub: set it up once, run it, look at it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from trustfed.cli import client, hub_login, output, templates
from trustfed.cli.options import (
    CheckOption,
    ConfigOption,
    HubSocket,
    Output,
    PrintConfigOption,
    configuration,
    examples,
    noun,
)

app = noun()


@app.command(
    epilog=examples("trustfed hub init --print-config > hub.toml", "trustfed hub init --config hub.toml"),
)
def init(
    config: ConfigOption = None,
    print_config: PrintConfigOption = False,
) -> None:
    """Make the root, the root set and the hub's own authority: once."""
    if print_config:
        output.text(templates.HUB)
        return
    from trustfed.hub import compose  # noqa: PLC0415  the whole control plane: only for who runs it
    from trustfed.hub.config import HubConfig  # noqa: PLC0415
    from trustfed.runtime import logs, process  # noqa: PLC0415
    from trustfed.runtime.config import load  # noqa: PLC0415

    settings = load(configuration(config), HubConfig)
    process.harden()
    logs.configure("warning")
    root_set = asyncio.run(compose.init(settings))
    output.line(f"hub of {settings.trust_domain} is set up in {settings.data_dir}")
    output.line(f"root set {root_set.version}: {root_set.hash}")


@app.command(
    epilog=examples("trustfed hub serve --config hub.toml", "trustfed hub serve --config hub.toml --check"),
)
def serve(
    config: ConfigOption = None,
    check: CheckOption = False,
) -> None:
    """Run the hub until it is stopped."""
    from trustfed.hub import compose  # noqa: PLC0415
    from trustfed.hub.config import HubConfig  # noqa: PLC0415
    from trustfed.runtime import logs, process  # noqa: PLC0415
    from trustfed.runtime.config import load  # noqa: PLC0415

    settings = load(configuration(config), HubConfig)
    if check:
        doors = {"grpc": settings.grpc.listen, "https": settings.https.listen, "admin": settings.admin_path}
        if settings.web:
            doors["https with a Web PKI certificate"] = settings.web.listen
        if settings.health:
            doors["health"] = settings.health
        output.checked(f"hub of {settings.trust_domain}", doors)
        return
    logs.configure(settings.log.level)
    raise typer.Exit(process.run(lambda stop: compose.serve(settings, stop)))


@app.command(
    epilog=examples("trustfed hub status", "trustfed hub status --socket hub/admin.sock --output json"),
)
def status(
    socket: HubSocket = None,
    output_as: Annotated[Output, typer.Option("--output", "-o", help="Lines for people, or JSON.")] = Output.TABLE,
    clusters: Annotated[bool, typer.Option("--clusters", help="Each cluster: connection, levels, laggards.")] = False,
) -> None:
    """Show the hub at a glance, or its clusters."""
    hub = client.hub(socket)
    if not clusters:
        output.record(hub.get("/status"), output_as)
        return
    columns = {
        "TRUST DOMAIN": "trust_domain",
        "CONNECTED": "connected",
        "SINCE": "connected_since",
        "ROOT SET": "root_version",
        "SVID UNTIL": "svid_not_after",
        "IMPORTS": "imports",
    }
    found = client.members(hub.get("/clusters"), "clusters")
    if output_as is Output.TABLE:
        found = [{**one, "imports": [_import(held) for held in one["imports"]]} for one in found]
    output.listing(found, columns, output_as)


def _import(held: dict[str, Any]) -> str:
    """ "prod-us-west 1.4", or who lacks what."""
    level = output.cell(held["level"])
    if held["current"]:
        return f"{held['exporter']} {level}"
    laggards = f", missing at {output.cell(held['laggards'])}" if held["laggards"] else ""
    return f"{held['exporter']} behind at {level}{laggards}"


hub_login.add_to(app)
