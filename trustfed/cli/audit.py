"""trustfed audit: who decided what, when and why, and whether the record is whole."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import client, output
from trustfed.cli.options import AtHub, EitherSocket, Output, OutputOption, examples, noun
from trustfed.errors import NotFound, Unavailable

app = noun()
PAGE = 1_000


@app.command(
    "list",
    epilog=examples(
        "trustfed audit list --last 20",
        "trustfed audit list --hub --after 120 --limit 50",
        "trustfed audit list --output json",
    ),
)
def list_(
    after: Annotated[int, typer.Option("--after", min=0, help="Only what was recorded after this position.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=PAGE, help="At most this many.")] = 100,
    last: Annotated[int | None, typer.Option("--last", min=1, max=PAGE, help="The newest so many instead.")] = None,
    socket: EitherSocket = None,
    hub: AtHub = False,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """List the journal's events in order."""
    door = client.either(socket, hub)
    if last is not None:
        after, limit = max(door.get("/status")["position"] - last, 0), last
    found = client.members(door.get("/events", after=after, limit=limit), "events")
    columns = {"POSITION": "position", "AT": "at", "KIND": "kind", "ACTOR": "actor", "REASON": "reason"}
    output.listing(found, columns, output_as)


@app.command(
    epilog=examples("trustfed audit verify", "trustfed audit verify --store hub/store"),
)
def verify(
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="DIR", help="Verify these files, ledger too, while no process uses them."),
    ] = None,
    socket: EitherSocket = None,
    hub: AtHub = False,
) -> None:
    """Verify that the journal is whole: every record follows from the one before it, none is missing.

    It shows damage; that nobody rewrote the whole of it takes the signed checkpoints of a later version.
    """
    if store is not None:
        events, facts = asyncio.run(_offline(store))
        output.line(f"{store}: {events} events and {facts} issuance facts, each follows from the one before it")
        return
    door = client.either(socket, hub)
    head = int(door.get("/status")["position"])
    seen: set[str] = set()
    position = 0
    while page := client.members(door.get("/events", after=position, limit=PAGE), "events"):
        for event in page:
            position = _next(event, position, seen)
    if position < head:
        raise Unavailable(f"the journal ends at {position}, but was at {head} before", hint="trustfed audit list")
    output.line(f"{position} events, each verified against the one before it; none is missing")


def _next(event: dict[str, Any], position: int, seen: set[str]) -> int:
    if event["position"] != position + 1:
        raise Unavailable(f"event {position + 1} is missing: {event['position']} follows {position}")
    if event["id"] in seen:
        raise Unavailable(f"event {event['position']} repeats the id {event['id']}")
    seen.add(event["id"])
    return position + 1


async def _offline(directory: Path) -> tuple[int, int]:
    from trustfed.journal.sqlite import open_store  # noqa: PLC0415

    if not (directory / "journal.db").is_file():
        raise NotFound(f"{directory} holds no journal", hint="the folder with journal.db in it")
    store = await asyncio.to_thread(open_store, directory)
    try:
        found = await store.verify()
    finally:
        await store.close()
    return found.events, found.facts
