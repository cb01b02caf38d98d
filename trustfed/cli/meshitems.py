"""What the nouns gateway, export, import and mesh share: their options, pages, and what is told of a local host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import client, output
from trustfed.errors import Invalid
from trustfed.runtime.files import read_bounded

PAGE = 1_000
MAX_RULES = 1 << 20
OwnerOption = Annotated[str, typer.Option("--owner", help="The team that it belongs to.")]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Also if the directory of desired state or Kubernetes put it.")
]
LocalAnswers = Annotated[
    list[str] | None,
    typer.Option("--local-answers", metavar="SPIFFE_ID", help="Who answers that host in this cluster."),
]
LocalRules = Annotated[
    Path | None,
    typer.Option(
        "--local-rules",
        metavar="FILE",
        help="The host's own DestinationRules: kubectl get destinationrules -n NS -o json.",
    ),
]

PORTS = {"metavar": "NUMBER:NAME", "help": "A port of its Service in this cluster, such as 8080:http."}
LocalPorts = Annotated[list[str] | None, typer.Option("--local-ports", **PORTS)]
Ports = Annotated[list[str] | None, typer.Option("--ports", **PORTS)]


class Sidecars(StrEnum):
    """What is known of a host inside this cluster."""

    ABSENT = "absent"
    ALL = "all"
    SOME = "some"
    NONE = "none"


def pages(cluster: client.Admin, path: str, name: str) -> Iterator[dict[str, Any]]:
    """All rows of a listing that comes in pages."""
    after = ""
    while True:
        answer = cluster.get(path, after=after, limit=PAGE)
        yield from client.members(answer, name)
        after = answer.get("next") or ""
        if not after:
            return


def path_of(kind: str, name: str) -> str:
    """The path of one item. Raises Invalid for what can be no name at all."""
    if not name or "/" in name:
        raise Invalid(f"{name[:80]!r} is no name of {'an' if kind[0] in 'ei' else 'a'} {kind}")
    return f"/mesh/{kind}s/{client.segment(name)}"


def remove(cluster: client.Admin, kind: str, name: str, reason: str) -> None:
    """Take one item back, and say so."""
    cluster.post(f"{path_of(kind, name)}/remove", {"reason": reason})
    output.line(f"{kind} {name} is removed")


def local_body(
    sidecars: Sidecars, answers: list[str] | None, rules: Path | None, ports: list[str] | None, reason: str
) -> dict[str, Any]:
    """What the cluster is told of a host inside it. Raises Invalid for a file that holds no rules."""
    found = _rules(rules) if rules is not None else []
    return {
        "sidecars": sidecars.value,
        "answers": answers or [],
        "rules": found,
        "ports": ports or [],
        "reason": reason,
    }


def given(**members: object) -> dict[str, object]:
    """The members that are said."""
    return {name: value for name, value in members.items() if value not in (None, "", [])}


def _rules(path: Path) -> list[Any]:
    """The objects in what kubectl wrote as JSON: one, or a List."""
    try:
        said = json.loads(read_bounded(path, MAX_RULES))
    except (ValueError, RecursionError):
        raise Invalid(f"{path} is not JSON", hint="kubectl get destinationrules -n NS -o json") from None
    found = said.get("items", [said]) if isinstance(said, dict) else said
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Invalid(f"{path} holds no Kubernetes objects", hint="kubectl get destinationrules -n NS -o json")
    return found
