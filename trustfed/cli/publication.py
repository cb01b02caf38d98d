"""trustfed publication: how the published documents stand, and the keys of the protected part of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import client, output, publication_root
from trustfed.cli.options import HubSocket, Output, OutputOption, examples, noun
from trustfed.runtime.files import write_atomic

app = noun()
app.add_typer(publication_root.app, name="root", help="Make, sign and install the protected publication's root.")


@app.command(epilog=examples("trustfed publication status", "trustfed publication status --output json"))
def status(socket: HubSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """Show the targets that are published to, and each document at each: when it got there, what waits, and why."""
    found = client.hub(socket).get("/publication")
    if output_as is Output.JSON:
        output.document(found)
        return
    targets = {
        "TARGET": "target",
        "DOCUMENTS": "documents",
        "WAITING": "waiting",
        "LAG (s)": "lag_seconds",
        "LAST SUCCESS": "last_success",
        "ERRORS": "errors",
        "NEXT TRY": "next_try",
        "ERROR": "error",
        "WHAT TO DO": "hint",
    }
    documents = {
        "TARGET": "target",
        "DOCUMENT": "document",
        "STATE": "state",
        "PUBLISHED": "published_at",
        "LAG (s)": "lag_seconds",
        "ATTEMPTS": "attempts",
        "ERROR": "error",
    }
    output.listing(client.members(found, "targets"), targets, output_as, empty="no target: [publication] names none")
    if held := client.members(found, "documents"):
        sys.stdout.write("\n")
        output.listing(held, documents, output_as)
    _protected(found.get("protected"))


@app.command(
    epilog=examples(
        "trustfed publication keys --write online.json",
        "trustfed publication keys --new --write online.json",
    ),
)
def keys(
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Leave them in this file, for the ceremony.")
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Make other ones: they sign once a root that names them is installed.")
    ] = False,
    socket: HubSocket = None,
) -> None:
    """Show the public online keys of the protected publication, which a root must name."""
    hub = client.hub(socket)
    found = hub.post("/publication/keys") if new else hub.get("/publication/keys")
    if write is None:
        output.document(found)
        return
    write_atomic(write, json.dumps(found, indent=2).encode() + b"\n", mode=0o644)
    output.line(f"public online keys written to {write}")


def _protected(found: dict[str, Any] | None) -> None:
    """What is there beside the plain documents, and which command comes next."""
    if not found:
        return
    sys.stdout.write("\n")
    if not found["root_version"]:
        output.line("protected publication: no root is installed, so plain documents only")
    else:
        output.line(
            f"protected publication: root version {found['root_version']} until {found['root_expires']}, "
            f"{found['domains']} domains, timestamp until {output.cell(found['timestamp_expires'])}"
        )
        if found["domains_without_role"]:
            output.line(f"  waiting for the role of: {output.cell(found['domains_without_role'])}")
        for domain, why in found["refused"].items():
            output.line(f"  refused from {domain}: {why}")
    if found["next"]:
        output.line(f"  next: {found['next']}")
