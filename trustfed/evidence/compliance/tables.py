"""The tables of a report: names, columns and rows, for every format that shows tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trustfed.errors import Invalid
from trustfed.evidence.compliance.controls import FRAMEWORKS, Cell
from trustfed.evidence.compliance.data import Figure, Report, moment

_COUNTED = ("due", "on_time", "late", "expired", "unknown", "excused", "recreated", "superseded", "unused")
_UNTOLD = {"recreated": ""}
"""What stands for a count that is not there: a hub that reports for a cluster does not hold this one. All others: none."""
# At the beginning, and where a spreadsheet that separates by semicolons would begin another cell; also in full width.
_STEERS = re.compile("(^|;)(?=\\s*[=+@\\-\uff1d\uff0b\uff20\uff0d])")
TABLES = (
    "controls",
    "figures",
    "failures",
    "rotations",
    "inventory",
    "changes",
    "accesses",
    "anchors",
    "endpoints",
    "uptimes",
    "exceptions",
    "proofs",
)


@dataclass(frozen=True)
class Table:
    """Rows of text under their columns."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report, cells: Sequence[Cell]) -> list[Table]:
    """Every table, in order; empty ones too."""
    # fmt: off
    return [
        _table("controls", "Controls", ("framework", "control", "status", "what it says", "query"), [
            (FRAMEWORKS[one.control.framework], f"{one.control.id} {one.control.title}", one.status, one.says, one.control.query)
            for one in cells
        ]),
        _table("figures", "Rotation success", ("trust domain", "class", "success", "95 % interval", "due", "on time", "late",
               "expired", "unknown", "excused", "recreated", "superseded", "unused", "coverage", "why there is no figure"), [
            (one.trust_domain, one.class_, share(one.headline), interval(one),
             *(one.counts.get(name, _UNTOLD.get(name, 0)) for name in _COUNTED),
             share(one.coverage), one.why)
            for one in report.figures
        ]),
        _table("failures", "Rotations that failed", ("trust domain", "class", "SPIFFE ID", "instance", "outcome", "why",
               "was due by"), [
            (one.trust_domain, one.class_, one.spiffe_id, one.instance, one.outcome, one.why, moment(one.on_time_ms))
            for one in report.failures
        ]),
        _table("rotations", "Rotations of authorities, token keys and bundles", ("trust domain", "class", "of", "to",
               "outcome", "at", "why"), [
            (one.trust_domain, one.class_, one.predecessor, one.successor, one.outcome, moment(one.at_ms), one.why)
            for one in report.rotations
        ]),
        _table("inventory", "Keys and certificates", ("trust domain", "purpose", "name", "serial", "SHA-256", "issuer",
               "algorithm", "strength", "quantum safe", "from", "until", "custodian", "owner", "state"), [
            (one.trust_domain, one.purpose, one.name, one.serial, one.sha256, one.issuer, one.algorithm, one.strength,
             "yes" if one.quantum_safe else "no", moment(one.not_before_ms), moment(one.not_after_ms), one.custodian, one.owner,
             one.state)
            for one in report.assets
        ]),
        _table("changes", "Decisions about keys and access", ("trust domain", "position", "at", "what", "who", "approved by",
               "glass broken", "why"), [
            (one.trust_domain, one.position, moment(one.at_ms), one.kind, one.actor, one.approved_by,
             "yes" if one.broken_glass else "", one.reason)
            for one in report.changes
        ]),
        _table("accesses", "Access", ("who", "role", "by", "until"),
               [(one.name, one.role, one.via, moment(one.until_ms)) for one in report.accesses]),
        _table("anchors", "Trust anchors", ("importer", "trust domain", "epoch", "sequence", "SHA-256", "accepted by"), [
            (one.importer, one.trust_domain, one.epoch, one.sequence, one.sha256, one.approved_by) for one in report.anchors
        ]),
        _table("endpoints", "Doors", ("place", "protocol", "versions", "ciphers", "purpose"),
               [(one.place, one.protocol, one.versions, one.ciphers, one.purpose) for one in report.endpoints]),
        _table("uptimes", "Availability", ("trust domain", "probe", "up", "of it unknown, s"),
               [(one.trust_domain, one.probe, share(one.up_share), one.unknown_ms // 1000) for one in report.uptimes]),
        _table("exceptions", "Exceptions", ("trust domain", "what", "why", "approved by", "until"), [
            (one.trust_domain, one.subject, one.reason, one.approved_by, moment(one.until_ms)) for one in report.exceptions
        ]),
        _table("proofs", "Logs", ("origin", "entries", "root", "at", "cosigned by", "kept since", "problem"), [
            (one.origin, one.size, one.root, moment(one.at_ms), ", ".join(one.cosigned_by), moment(one.first_kept_ms),
             one.problem)
            for one in report.proofs
        ]),
    ]
    # fmt: on


def named(found: Sequence[Table], name: str) -> Table:
    """One of them. Raises Invalid."""
    for one in found:
        if one.name == name:
            return one
    raise Invalid(f"there is no table {name[:40]!r}", hint=", ".join(TABLES))


def comma_separated(table: Table) -> str:
    """RFC 4180. What a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(table.columns)
    writer.writerows([[_STEERS.sub(r"\1'", cell) for cell in row] for row in table.rows])
    return out.getvalue()


def plain(report: Report, found: Sequence[Table], widest: int = 60) -> str:
    """For a terminal or a mail: what matters first, then the tables that hold anything."""
    lines = [f"Evidence of {', '.join(report.scope)}", *(f"  {name}: {value}" for name, value in heading(report)), ""]
    for table in found:
        if not table.rows:
            continue
        shown = [[_cut(cell, widest) for cell in row] for row in table.rows[:1_000]]
        wide = [max(len(row[at]) for row in [list(table.columns), *shown]) for at in range(len(table.columns))]
        lines += [
            table.title,
            "  ".join(name.upper().ljust(wide[at]) for at, name in enumerate(table.columns)).rstrip(),
        ]
        lines += ["  ".join(cell.ljust(wide[at]) for at, cell in enumerate(row)).rstrip() for row in shown]
        if len(table.rows) > len(shown):
            lines.append(f"... and {len(table.rows) - len(shown):,} more")
        lines.append("")
    return "\n".join(lines)


def heading(report: Report) -> list[tuple[str, str]]:
    """What stands above every report."""
    rows = ", ".join(f"{count:,} {name}" for name, count in sorted(report.rows.items()))
    return [
        ("window", f"{moment(report.from_ms)} to {moment(report.to_ms)}"),
        ("as of", moment(report.as_of_ms)),
        ("run by", report.ran_by),
        ("source", f"{report.source}, {report.software}"),
        ("definition", f"version {report.definition_version}, {report.definition}"),
        ("parameters", ", ".join(f"{name} {value}" for name, value in sorted(report.parameters.items())) or "none"),
        ("rows read", rows or "none"),
        *([("note", "simulated: these clusters are none")] if report.simulated else []),
    ]


def share(value: float | None) -> str:
    """A share as a percentage with three places: never rounded up to what it is not."""
    if value is None:
        return ""
    thousandths = int(value * 100_000 + 1e-9)
    return f"{thousandths / 1000:.3f} %"


def interval(one: Figure) -> str:
    """The interval of a figure."""
    return f"{share(one.low)} to {share(one.high)}" if one.low is not None and one.high is not None else ""


def _table(name: str, title: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> Table:
    return Table(name, title, columns, tuple(tuple(inert(str(cell)) for cell in row) for row in rows))


def inert(text: str) -> str:
    """Nothing in a name steers a terminal, a page or the direction of writing."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:4_096]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}...{text[-(most // 2 - 2) :]}"
