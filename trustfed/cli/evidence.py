"""trustfed evidence: how certificates were rotated, by control; packs that prove it, and their verification."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import client, evidence_hub, hub_log, output
from trustfed.cli.evidence_window import Begin, End, window
from trustfed.cli.options import AtHub, ClusterSocket, EitherSocket, Output, OutputOption, coloured, examples, noun
from trustfed.errors import Conflict, Invalid
from trustfed.runtime.files import write_atomic

app = noun()
EXITS = {"verified": 0, "failed": 1, "consistent; origin not established": 3}


@app.command(
    epilog=examples(
        "trustfed evidence report",
        "trustfed evidence report --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z --framework pci --framework sox",
        "trustfed evidence report --format html --write november.html",
        "trustfed evidence report --format csv --table inventory",
        "trustfed evidence report --format oscal --write assessment-results.json",
        "trustfed evidence report --hub --from 7d --table controls",
        "trustfed evidence report --hub --domain prod-us-west --domain prod-eu --format html --write fleet.html",
    ),
)
def report(
    from_: Begin = "30d",
    to: End = "0s",
    framework: Annotated[
        list[str] | None, typer.Option("--framework", help="pci, sox, nist, fedramp or dora; repeatable. Default: all.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="text, json, csv, html, pdf (a cover sheet), oscal or cyclonedx.")
    ] = "text",
    table: Annotated[str, typer.Option("--table", help="Of text and csv only this table, such as inventory.")] = "",
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Leave the report in this file (0600).")
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option("--domain", metavar="DOMAIN", help="At the hub: only these; repeatable.")
    ] = None,
    socket: EitherSocket = None,
    hub: AtHub = False,
) -> None:
    """Judge what the evidence of a window says of each control, and show the rows behind it.

    At the hub: for each trust domain by itself. Its cluster is asked; who does not answer is reported as last heard.
    """
    # Here, not above: other commands do without all of this.
    import msgspec  # noqa: PLC0415

    from trustfed.evidence.compliance.controls import FRAMEWORKS  # noqa: PLC0415
    from trustfed.evidence.compliance.data import FleetReport, Report  # noqa: PLC0415
    from trustfed.evidence.compliance.fleet import render_fleet  # noqa: PLC0415
    from trustfed.evidence.compliance.render import render  # noqa: PLC0415

    door, frameworks = client.either(socket, hub), framework or tuple(FRAMEWORKS)
    if door.kind == "hub":
        said = door.read("/evidence/report", **window(from_, to), domain=",".join(domain or ()))
        made = render_fleet(msgspec.json.decode(said, type=FleetReport), form, frameworks, table)
    elif domain:
        raise Invalid("--domain is for the hub: a cluster reports its own", hint="--hub asks the hub")
    else:
        said = door.read("/evidence/report", **window(from_, to))
        made = render(msgspec.json.decode(said, type=Report), form, frameworks, table)
    if write is not None:
        write_atomic(write, made)
        sys.stderr.write(f"report written to {write}\n")
    elif form == "pdf":
        raise Invalid("a PDF is not for a terminal", hint="--write FILE")
    else:
        output.text(made.decode())


@app.command(
    epilog=examples(
        "trustfed evidence export --write november.pack --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z",
        "trustfed evidence export --write last-week.pack --from 7d --scope prod-us-west",
    ),
)
def export(
    write: Annotated[Path, typer.Option("--write", "-w", metavar="FILE", help="The pack; a file that does not exist.")],
    from_: Begin = "30d",
    to: End = "0s",
    scope: Annotated[
        str, typer.Option("--scope", metavar="DOMAIN", help="The trust domain that is meant; another one is refused.")
    ] = "",
    socket: ClusterSocket = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Make an evidence pack: the whole journal, the ledger of the window, and what proves that neither was rewritten.

    It holds every fact of the window, chosen ones never: names of workloads and nodes among them, and no secret.
    """
    door = client.cluster(socket)
    if scope:
        domain = door.get("/status")["trust_domain"]
        if domain != scope:
            raise Conflict(f"this is the cluster of {domain}, not of {scope}", hint="--socket names another one")
    if sys.stderr.isatty():
        sys.stderr.write("making the pack ...")
        sys.stderr.flush()
    size = door.save("/evidence/pack", write, **window(from_, to))
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    made = {"pack": str(write), "bytes": size, "verify": f"trustfed evidence verify {write} --trust FILE"}
    output.record(made, output_as)


@app.command(
    epilog=examples(
        "trustfed evidence events --after 0 --limit 1000 > events.ndjson",
    ),
)
def events(
    after: Annotated[int, typer.Option("--after", min=0, help="Only what was recorded after this position.")] = 0,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1_000_000, help="Look at no more facts than this.")
    ] = 100_000,
    socket: ClusterSocket = None,
) -> None:
    """Print issued identities and the steps of keys as OCSF 1.8 events, one JSON object a line, for a SIEM."""
    import json  # noqa: PLC0415

    from trustfed.evidence.compliance import ocsf  # noqa: PLC0415
    from trustfed.journal.events import Fact  # noqa: PLC0415
    from trustfed.runtime.version import SOFTWARE  # noqa: PLC0415

    door = client.cluster(socket)
    domain = str(door.get("/status")["trust_domain"])
    while limit > 0:
        page = client.members(door.get("/issued", after=after, limit=min(limit, 1_000)), "issued")
        if not page:
            return
        facts = [
            (one["position"], Fact(_milliseconds(one["at"]), one["kind"], one["key"], one["body"])) for one in page
        ]
        for event in ocsf.events(domain, facts, SOFTWARE):
            sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
        after, limit = page[-1]["position"], limit - len(page)


@app.command(
    epilog=examples(
        "trustfed evidence keys",
        "trustfed evidence keys > auditor/prod-us-west.txt",
        "trustfed evidence keys --hub",
    ),
)
def keys(socket: EitherSocket = None, hub: AtHub = False) -> None:
    """Print what an auditor needs to hold, as --trust takes it: the log's key and its cosigner's, the hub's.

    Give it on another way than the packs: who could change both could make anything look whole. Of a hub: its own log's key.
    """
    door = client.either(socket, hub)
    if door.kind == "hub":
        output.line(str(door.get("/evidence/checkpoint")["vkey"]))
        return
    status = door.get("/evidence/status")
    for name in ("log_key", "cosigner_key"):
        if status[name]:
            output.line(str(status[name]))


@app.command(
    epilog=examples(
        "trustfed evidence checkpoint",
        "trustfed evidence checkpoint --write kept/today.checkpoint",
        "trustfed evidence checkpoint --hub --write kept/hub.checkpoint",
    ),
)
def checkpoint(
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Leave the checkpoint in this file.")
    ] = None,
    socket: EitherSocket = None,
    hub: AtHub = False,
) -> None:
    """Cut a checkpoint of both logs now, and print it as an auditor keeps it (C2SP tlog-checkpoint); of a hub its newest."""
    door = client.either(socket, hub)
    if door.kind == "hub":
        said = door.get("/evidence/checkpoint")
        said["size"] = str(said["note"]).split("\n")[1]  # C2SP tlog-checkpoint: its second line
    else:
        said = door.post("/evidence/checkpoint", {})
    if write is None:
        output.text(said["note"])
        return
    write_atomic(write, said["note"].encode())
    sys.stderr.write(f"checkpoint of {said['size']} events written to {write}\n")


@app.command(
    epilog=examples(
        "trustfed evidence verify 2026-03.pack --trust auditor/keys.txt",
        "trustfed evidence verify 2026-03.pack --trust auditor/prod-us-west-2026-02-28.checkpoint",
        "trustfed evidence verify 2026-03.pack --output json",
    ),
)
def verify(
    pack: Annotated[Path, typer.Argument(help="The pack's file.")],
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            "--trust", metavar="FILE", help="Verifier keys, fingerprints or a checkpoint that you hold; repeatable."
        ),
    ] = None,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Verify an evidence pack offline, and compute its figures anew.

    Exit code 0: verified. 1: something does not hold, and is named. 3: consistent, but without --trust nothing says whose it is.
    """
    # Here, not above: other commands do without all of this.
    import msgspec  # noqa: PLC0415

    from trustfed.evidence.pack_verify import verify as verified  # noqa: PLC0415
    from trustfed.evidence.trust import read_trust  # noqa: PLC0415

    believed = read_trust([(str(path), _read(path)) for path in trust or []])
    if not pack.is_file():
        raise Invalid(f"{pack} is no file", hint="trustfed evidence export --write FILE makes one")
    verdict = verified(pack, believed, _progress if sys.stderr.isatty() else _silent)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    if output_as is Output.JSON:
        output.document(
            {
                "outcome": str(verdict.outcome),
                "trust_domain": verdict.trust_domain,
                "findings": [{"code": one.code, "holds": not one.fault, "says": one.says} for one in verdict.findings],
                "figures": msgspec.to_builtins(verdict.figures) if verdict.figures else None,
            }
        )
    else:
        for one in verdict.findings:
            output.line(f"{_mark(one.fault, one.doubt)} {one.code:<11} {one.says}")
        if verdict.figures is not None:
            _table(msgspec.to_builtins(verdict.figures))
        output.line(f"{pack.name}: {verdict.outcome}")
    raise typer.Exit(EXITS[str(verdict.outcome)])


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _table(figures: dict[str, Any]) -> None:
    columns = {
        "CLASS": "class",
        "RATE": "rate",
        "DUE": "due",
        "ON TIME": "on_time",
        "LATE": "late",
        "EXPIRED": "expired",
    }
    columns |= {
        "UNKNOWN": "unknown",
        "EXCUSED": "excused",
        "RECREATED": "recreated",
        "SUPERSEDED": "superseded",
        "UNUSED": "unused",
        "OPEN": "open",
    }
    rows = [
        {**dict.fromkeys(columns.values(), 0), **of, "class": name, "rate": figures["rates"][name]}
        for name, of in figures["counts"].items()
    ]
    output.listing(rows, columns, Output.TABLE, "nothing was due in this scope")


def _mark(fault: bool, doubt: bool) -> str:
    word, colour = ("FAILS", 31) if fault else ("doubt", 33) if doubt else ("holds", 32)
    return f"\x1b[{colour}m{word}\x1b[0m" if coloured(sys.stdout) else word


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {(error.strerror or str(error)).lower()}", hint="--trust FILE") from None


def _progress(what: str, done: int, of: int) -> None:
    sys.stderr.write(f"\r{what}: {done:,} of {of:,} entries")
    sys.stderr.flush()


def _silent(_what: str, _done: int, _of: int) -> None:
    pass


evidence_hub.add_to(app)
hub_log.add_to(app)
