"""trustfed evidence figures, rotations, alarms, log-keys, accept-log-key, accept-logs: what stands now, and whose logs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from trustfed.cli import client, output
from trustfed.cli.evidence_window import Begin, End, window
from trustfed.cli.options import (
    AtHub,
    EitherSocket,
    HubSocket,
    Output,
    OutputOption,
    ReasonOption,
    examples,
)
from trustfed.errors import Invalid

DomainOption = Annotated[str, typer.Option("--domain", metavar="DOMAIN", help="At the hub: only of this trust domain.")]
DomainArgument = Annotated[str, typer.Argument(metavar="DOMAIN", help="The trust domain whose logs are meant.")]
_FLEET = {
    "TRUST DOMAIN": "trust_domain",
    "OWNER": "owner",
    "NEWS": "news",
    "LOWEST": "lowest",
    "FAILED": "failed",
    "OPEN": "open_obligations",
    "OVERDUE": "overdue",
    "COVERAGE": "coverage",
    "SAYS": "says",
}
_CLASSES = {
    "CLASS": "class_",
    "SUCCESS": "success",
    "INTERVAL": "interval",
    "DUE": "counts.due",
    "ON TIME": "counts.on_time",
    "LATE": "counts.late",
    "EXPIRED": "counts.expired",
    "UNKNOWN": "counts.unknown",
    "WHY": "why",
}
_ROTATIONS = {
    "CLASS": "class_",
    "OF": "predecessor",
    "TO": "successor",
    "OUTCOME": "outcome",
    "ON TIME UNTIL": "on_time",
    "AT": "at",
    "WHY": "why",
}
_ALARMS = {
    "SEVERITY": "severity",
    "TRUST DOMAIN": "trust_domain",
    "ALARM": "code",
    "SUBJECT": "subject",
    "SAYS": "says",
    "HINT": "hint",
}
_KEYS = {"TRUST DOMAIN": "trust_domain", "PINNED": "vkey", "SINCE": "pinned_at", "SHOWN INSTEAD": "shown"}


def add_to(app: typer.Typer) -> None:
    """Give the noun `evidence` these verbs."""
    app.command(
        epilog=examples(
            "trustfed evidence figures",
            "trustfed evidence figures --hub",
            "trustfed evidence figures --hub --domain prod-us-west --from 7d --output json",
        )
    )(figures)
    app.command(
        epilog=examples(
            "trustfed evidence rotations --class jwt_key",
            "trustfed evidence rotations --authority 3b1c9d2e5f607182",
            "trustfed evidence rotations --hub --domain hub.example --class root --output json",
        )
    )(rotations)
    app.command(
        epilog=examples(
            "trustfed evidence alarms",
            "trustfed evidence alarms --hub --check",
            "trustfed evidence alarms --output json",
        )
    )(alarms)
    app.command("log-keys", epilog=examples("trustfed evidence log-keys", "trustfed evidence log-keys --output json"))(
        log_keys
    )
    app.command(
        "accept-log-key",
        epilog=examples(
            "trustfed evidence accept-log-key prod-us-west trustfed/prod-us-west/journal+3b1c9d2e+AQIDBA== "
            "--reason 'its key store was made anew'"
        ),
    )(accept_log_key)
    app.command(
        "accept-logs",
        epilog=examples("trustfed evidence accept-logs prod-us-west --reason 'restored from the backup of Monday'"),
    )(accept_logs)


def figures(
    domain: DomainOption = "",
    from_: Begin = "30d",
    to: End = "0s",
    socket: EitherSocket = None,
    hub: AtHub = False,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """Show rotation success: of a cluster by class; at the hub of every trust domain, or of one by class.

    What is withheld, few or not due has no figure, and says why. A domain that is away is as old as its news.
    """
    door = _door(socket, hub, domain)
    if door.kind == "cluster":
        found = door.get("/evidence/figures", **window(from_, to))
        rows = [{"class_": name, **of} for name, of in found["classes"].items()]
        _classes(found, rows, output_as)
    elif domain:
        said = {f"{name}_ms": at for name, at in window(from_, to).items()}
        found = door.get("/evidence/figures", domain=domain, **said)
        rows = [{**one, "interval": _pair(one["low"], one["high"])} for one in found["figures"]]
        _classes(found, rows, output_as)
    else:
        found = door.get("/evidence/status")
        if output_as is Output.JSON:
            output.document(found)
            return
        rows = [
            {**one, "news": _news(one["age"]), "lowest": _share(one["worst"]), "coverage": _share(one["coverage"])}
            for one in found["domains"]
        ]
        output.listing(rows, _FLEET, output_as, "no trust domain is enrolled")


def rotations(
    class_: Annotated[str, typer.Option("--class", help="intermediate, jwt_key, root or bundle; all without it.")] = "",
    authority: Annotated[
        str, typer.Option("--authority", metavar="ID", help="Only of this authority or key, and the steps of its life.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="At most this many, the newest.")] = 50,
    domain: DomainOption = "",
    socket: EitherSocket = None,
    hub: AtHub = False,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """List the rotations of authorities, token keys, roots and bundles: too few for a percentage, so each by itself.

    With --authority also what happened to it, with the place in the ledger that proves it. At a hub --domain says whose.
    """
    door = _door(socket, hub, domain)
    asked = {"class": class_, "authority": authority, "limit": limit}
    if door.kind == "cluster":
        found = door.post("/evidence/query", {"kind": "rotations", "body": asked})
    elif not domain:
        raise Invalid("whose rotations?", hint="--domain NAME; the hub's own has its roots")
    else:
        said = door.post("/evidence/ask", {"kind": "rotations", "domain": domain, "body": asked})
        found = said["answers"][0]["json"]
    if output_as is Output.JSON:
        output.document(found)
        return
    rows = [
        {**one, "on_time": _time(one["on_time_ms"]), "at": _time(one["ended_ms"] or one["reached_ms"])}
        for one in found["rotations"]
    ]
    output.listing(rows, _ROTATIONS, output_as, "nothing was rotated yet")
    if found.get("steps"):
        output.text("\n")
        steps = [
            {**one, "at": _time(one["at_ms"]), "step": one["body"].get("step", one["kind"]), "says": _step(one["body"])}
            for one in found["steps"]
        ]
        output.listing(steps, {"POSITION": "position", "AT": "at", "STEP": "step", "SAYS": "says"}, output_as)


def alarms(
    domain: DomainOption = "",
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 while a page stands, with 0 otherwise.")] = False,
    socket: EitherSocket = None,
    hub: AtHub = False,
    output_as: OutputOption = Output.TABLE,
) -> None:
    """List what somebody has to look at now, pages first: a cluster's own, or at the hub the fleet's."""
    door = _door(socket, hub, domain)
    if door.kind == "cluster":
        said = door.get("/evidence/standing")
        found = [{"trust_domain": said["trust_domain"], **one} for one in said["alarms"]]
    else:
        query = {"domain": domain} if domain else {}
        raised = client.members(door.get("/evidence/alarms", **query), "alarms")
        found = [{"trust_domain": one["trust_domain"], **one["what"], "source": one["source"]} for one in raised]
    output.listing(found, _ALARMS, output_as, "no alarm stands")
    if check and any(one["severity"] == "page" for one in found):
        raise typer.Exit(1)


def log_keys(socket: HubSocket = None, output_as: OutputOption = Output.TABLE) -> None:
    """List the log key that the hub has pinned of each trust domain, and the other one that its cluster shows, if so."""
    found = client.members(client.hub(socket).get("/evidence/log-keys"), "log_keys")
    output.listing(found, _KEYS, output_as, "no cluster has shown a log key yet")


def accept_log_key(
    domain: DomainArgument,
    vkey: Annotated[
        str,
        typer.Argument(metavar="KEY", help="The key that its cluster shows, as `trustfed evidence keys` has it there."),
    ],
    reason: ReasonOption,
    socket: HubSocket = None,
) -> None:
    """Pin the other log key that a cluster shows: its logs begin anew at the hub. Compare the key at the cluster first."""
    path = f"/evidence/log-keys/{client.segment(domain)}/accept"
    said = client.hub(socket).post(path, {"vkey": vkey, "reason": reason})
    output.line(f"the log key of {domain} is {said['vkey']}")


def accept_logs(domain: DomainArgument, reason: ReasonOption, socket: HubSocket = None) -> None:
    """Let the logs of a trust domain that was restored from a backup begin anew: what the hub holds of them is forgotten.

    Not restored? Then its past was changed: keep what the hub holds, and compare it with the auditor's copy.
    """
    client.hub(socket).post(f"/evidence/logs/{client.segment(domain)}/accept", {"reason": reason})
    output.line(f"the logs of {domain} begin anew")


def _door(socket: Path | None, hub: bool, domain: str) -> client.Admin:
    door = client.either(socket, hub)
    if domain and door.kind == "cluster":
        raise Invalid("--domain is for the hub: a cluster knows its own", hint="--hub asks the hub")
    return door


def _classes(found: Any, rows: list[dict[str, Any]], output_as: Output) -> None:
    if output_as is Output.JSON:
        output.document(found)
        return
    shown = [
        {
            **one,
            "success": _share(one["headline"]),
            "interval": one["interval"]
            if isinstance(one["interval"], str)
            else _pair(*(one["interval"] or (None, None))),
        }
        for one in rows
    ]
    output.listing(shown, _CLASSES, output_as, "nothing was due in this window")


def _time(at_ms: int) -> str:
    if not at_ms:
        return ""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _step(body: dict[str, Any]) -> str:
    """What a step says besides its name: whom it retires, who was missing, where it was decided."""
    said = [f"retires {body['retires']}"] if body.get("retires") else []
    said += ["forced"] if body.get("forced") else []
    said += [f"missing: {', '.join(map(str, body['missing']))}"] if body.get("missing") else []
    said += [f"journal {body['journal']}"] if body.get("journal") else []
    return "; ".join(said)


def _news(age: dict[str, Any]) -> str:
    if age["age_ms"] is None:
        return str(age["state"])
    return f"{age['state']}, {age['age_ms'] // 1000} s old"


def _share(value: float | None) -> str:
    """A percentage that is never rounded up to what it is not."""
    return "" if value is None else f"{int(value * 100_000 + 1e-9) / 1000:.3f} %"


def _pair(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_share(low)} to {_share(high)}"
