"""trustfed audit: who decided what, when and why, and whether the record is whole."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import client, output
from trustfed.cli.options import AtHub, EitherSocket, Output, OutputOption, examples, noun
from trustfed.errors import Invalid, NotFound, Unavailable
from trustfed.runtime.config import duration

app = noun()
PAGE = 1_000
MOST_PAGES = 50
"""Answers that one search asks for, each of which looked through up to 20,000 events."""
COLUMNS = {
    "POSITION": "position",
    "AT": "at",
    "KIND": "kind",
    "ACTOR": "actor",
    "FROM": "door",
    "OUTCOME": "outcome",
    "REASON": "reason",
    "FLAG": "flag",
}


@app.command(
    "list",
    epilog=examples(
        "trustfed audit list --last 20",
        "trustfed audit list --kind 'authority.*' --since 30d",
        "trustfed audit list --actor uid:1001 --contains 0b1c2d3e4f506172",
        "trustfed audit list --hub --outcome 'done alone' --output json",
        "trustfed audit list --hub --after 120 --limit 50",
    ),
)
def list_(
    actor: Annotated[str, typer.Option("--actor", help="Only what this actor did; * and ? stand for any.")] = "",
    kind: Annotated[str, typer.Option("--kind", help="Only events of this kind; * and ? stand for any.")] = "",
    since: Annotated[str, typer.Option("--since", help="From a time (RFC 3339), or so long ago (24h).")] = "",
    until: Annotated[str, typer.Option("--until", help="To a time (RFC 3339), or so long ago (1h).")] = "",
    contains: Annotated[str, typer.Option("--contains", help="Only what holds this text: an id, a word.")] = "",
    outcome: Annotated[
        str,
        typer.Option("--outcome", help="done, 'done alone', proposed, approved, withdrawn or refused."),
    ] = "",
    before: Annotated[int, typer.Option("--before", min=0, help="Only what lies before this position.")] = 0,
    after: Annotated[
        int | None, typer.Option("--after", min=0, help="All that follows this position, in order, instead.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=PAGE, help="At most this many.")] = 100,
    last: Annotated[int | None, typer.Option("--last", min=1, max=PAGE, help="The same as --limit.")] = None,
    socket: EitherSocket = None,
    hub: AtHub = False,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Search the journal, newest first: who did what, when, from where, and what became of it."""
    door, wanted = client.either(socket, hub), last or limit
    query = {
        "actor": actor,
        "kind": kind,
        "since": _moment(since),
        "until": _moment(until),
        "contains": contains,
        "outcome": outcome,
    }
    if after is not None:
        if any(query.values()) or before:
            raise Invalid("--after lists everything in order", hint="search without it, newest first")
        found = client.members(door.get("/events", after=after, limit=wanted), "events")
        output.listing(
            found, {name: at for name, at in COLUMNS.items() if at not in ("door", "outcome", "flag")}, output_as
        )
        return
    found, left = _search(door, {name: text for name, text in query.items() if text}, before, wanted)
    output.listing(found, COLUMNS, output_as)
    if left:
        sys.stderr.write(f"searched back to position {left}; --before {left} goes on\n")


@app.command(epilog=examples("trustfed audit show 42", "trustfed audit show 42 --hub --output json"))
def show(
    position: Annotated[int, typer.Argument(metavar="POSITION", min=1, help="As `trustfed audit list` shows it.")],
    socket: EitherSocket = None,
    hub: AtHub = False,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Show one event, whole."""
    output.record(client.either(socket, hub).get(f"/audit/{position}"), output_as)


def _search(
    door: client.Admin, query: dict[str, str | int], before: int, wanted: int
) -> tuple[list[dict[str, Any]], int | None]:
    """What fits, newest first, and where the search ended if it gave up before the journal's beginning."""
    found: list[dict[str, Any]] = []
    for _ in range(MOST_PAGES):
        answer = door.get("/audit", **query, before=before, limit=wanted - len(found))
        found += client.members(answer, "events")
        if not answer.get("next") or len(found) >= wanted:
            return found, None
        before = int(answer["next"])
    return found, before


def _moment(text: str) -> str:
    """A time (RFC 3339), or a duration back from now, as RFC 3339; "" stays. Raises Invalid."""
    if not text:
        return ""
    try:
        wanted = datetime.fromisoformat(text)
    except ValueError:
        wanted = datetime.now(UTC) - duration(text)
    if wanted.tzinfo is None:
        raise Invalid(f"{text} has no time zone", hint="for example 2027-01-31T12:00:00Z, or a duration such as 24h")
    return wanted.astimezone(UTC).isoformat().replace("+00:00", "Z")


@app.command(
    epilog=examples(
        "trustfed audit verify",
        "trustfed audit verify --store hub/store",
        "trustfed audit verify --checkpoint prod-us-west-2026-11-21.checkpoint --log-key prod-us-west.vkey",
    ),
)
def verify(
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="DIR", help="Verify these files, ledger too, while no process uses them."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="FILE", help="A signed checkpoint that you kept: the journal must lead to it."
        ),
    ] = None,
    log_key: Annotated[
        Path | None, typer.Option("--log-key", metavar="FILE", help="The log's key (a vkey line) as you know it.")
    ] = None,
    socket: EitherSocket = None,
    hub: AtHub = False,
) -> None:
    """Verify that the journal is whole: every record is there, and together they are what a signed checkpoint says.

    The process's own newest checkpoint shows damage. That nobody rewrote the whole of it, keys in hand, only a checkpoint
    shows that you kept, with the log's key as you know it.
    """
    if store is not None:
        events, facts = asyncio.run(_offline(store))
        output.line(f"{store}: {events} events and {facts} issuance facts, each follows from the one before it")
        return
    from trustfed.cli.journalcheck import Expected, Walk  # noqa: PLC0415  pyca takes time to load

    door = client.either(socket, hub)
    head = int(door.get("/status")["position"])
    wanted = Expected.held(checkpoint, log_key) if checkpoint else Expected.told(door, log_key)
    walk = Walk(wanted)
    while page := client.members(door.get("/events", after=walk.position, limit=PAGE), "events"):
        for event in page:
            walk.step(event)
    if walk.position < head:
        raise Unavailable(f"the journal ends at {walk.position}, but was at {head} before", hint="trustfed audit list")
    output.line(f"{walk.position} events, none is missing; {walk.end()}")


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
