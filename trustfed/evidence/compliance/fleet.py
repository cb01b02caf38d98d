"""A fleet's report in the format that somebody asked for: trust domain by trust domain, those that are away among them.

The tables are those of one trust domain (trustfed.evidence.compliance.tables), under one another, with the trust domain in the
first column; before them stands how each domain was heard. Each control's cell names its query and its proof.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from trustfed.errors import Invalid
from trustfed.evidence.compliance.controls import FRAMEWORKS, Cell, judged
from trustfed.evidence.compliance.data import FleetReport, Heard, Report
from trustfed.evidence.compliance.judgements import Status
from trustfed.evidence.compliance.render import FORMATS, document, matrix, page
from trustfed.evidence.compliance.tables import TABLES, Table, comma_separated, inert, plain, share, tables
from trustfed.evidence.model import FEW

DOMAIN = "trust domain"
_REPORT = "trustfed evidence report"
_MERGED = ("figures", "failures", "rotations", "assets", "changes", "accesses", "anchors", "endpoints", "uptimes")


def render_fleet(fleet: FleetReport, form: str, frameworks: Sequence[str] = (), table: str = "") -> bytes:
    """The report's bytes. `table` names one table, for text and csv: "domains" or one of TABLES. Raises Invalid."""
    wanted = tuple(frameworks) or tuple(FRAMEWORKS)
    for name in wanted:
        if name not in FRAMEWORKS:
            raise Invalid(f"there is no framework {name[:40]!r}", hint=", ".join(FRAMEWORKS))
    if table not in ("", "domains", *TABLES):
        raise Invalid(f"there is no table {table[:40]!r}", hint=", ".join(("domains", *TABLES)))
    cells = [_cells(report, wanted, fleet.hub) for report in fleet.reports]
    if form in ("text", "csv", "html"):
        found = [one for one in _tables(fleet, cells) if not table or one.name == table]
        if form == "text":
            return plain(heading_of(fleet), found).encode()
        return comma_separated(found[0]).encode() if form == "csv" else page(heading_of(fleet), found)
    match form:
        case "json":
            return as_json(fleet, cells)
        case "pdf":
            # Here, not above: who wants no PDF does without its library.
            from trustfed.evidence.compliance.pdf import cover  # noqa: PLC0415

            every = [
                replace(one, says=f"{_of(report)}: {one.says}") for report, row in _pairs(fleet, cells) for one in row
            ]
            return cover(merged(fleet), every, hashlib.sha256(as_json(fleet, cells)).hexdigest())
        case "oscal":
            from trustfed.evidence.compliance.oscal import fleet_results  # noqa: PLC0415

            return document(fleet_results(heading_of(fleet), list(_pairs(fleet, cells))))
        case "cyclonedx":
            from trustfed.evidence.compliance.cyclonedx import cbom  # noqa: PLC0415

            return document(cbom(merged(fleet)))
    raise Invalid(f"there is no format {form[:40]!r}", hint=", ".join(FORMATS))


def as_json(fleet: FleetReport, cells: Sequence[Sequence[Cell]]) -> bytes:
    """Everything, and the judgements, domain by domain."""
    head = {name: getattr(fleet, name) for name in ("hub", "from_ms", "to_ms", "as_of_ms", "ran_by", "software")}
    domains = [
        {
            **msgspec.to_builtins(heard),
            "heard": heard.says,
            "controls": matrix(row),
            "report": msgspec.to_builtins(report),
        }
        for heard, report, row in zip(fleet.domains, fleet.reports, cells, strict=True)
    ]
    return document({**head, "domains": domains})


def heading_of(fleet: FleetReport) -> Report:
    """What stands above all of them."""
    away = [f"{one.trust_domain} ({one.says})" for one in fleet.domains if not one.answered]
    rows: Counter[str] = Counter()
    for report in fleet.reports:
        rows.update(report.rows)
    first = fleet.reports[0] if fleet.reports else None
    return Report(
        scope=tuple(one.trust_domain for one in fleet.domains),
        from_ms=fleet.from_ms,
        to_ms=fleet.to_ms,
        as_of_ms=fleet.as_of_ms,
        ran_by=fleet.ran_by,
        source=f"hub of {fleet.hub}: {len(fleet.domains) - len(away)} trust domains answered, {len(away)} are as held",
        software=fleet.software,
        definition=first.definition if first else "",
        definition_version=first.definition_version if first else 0,
        parameters={"as held by the hub": ", ".join(away)} if away else {},
        rows=dict(rows),
        simulated=bool(fleet.reports) and all(report.simulated for report in fleet.reports),
    )


def merged(fleet: FleetReport) -> Report:
    """The heading, with the rows of all domains; never judged as one."""
    rows: dict[str, Any] = {
        name: tuple(row for report in fleet.reports for row in getattr(report, name)) for name in (*_MERGED, "proofs")
    }
    return msgspec.structs.replace(heading_of(fleet), **rows)


def _cells(report: Report, frameworks: Iterable[str], hub: str) -> list[Cell]:
    """A domain's matrix; its queries say where they are asked."""
    domain = _of(report)
    at_hub, there = f"{_REPORT} --hub --domain {domain}", f"at the cluster of {domain}: "
    cells = []
    for one in judged(report, frameworks):
        query = one.control.query
        asked = query.replace(_REPORT, at_hub) if query.startswith(_REPORT) else f"{there}{query}"
        if domain == hub and query.startswith(("trustfed audit", "trustfed approval")):
            asked = f"{query} --hub"
        cells.append(replace(one, control=replace(one.control, query=asked)))
    return cells


def _tables(fleet: FleetReport, cells: Sequence[Sequence[Cell]]) -> list[Table]:
    found = [_domains(fleet, cells)]
    of = [(report, tables(report, row), row) for report, row in _pairs(fleet, cells)]
    for number, name in enumerate(TABLES):
        rows: list[tuple[str, ...]] = []
        columns: tuple[str, ...] = ()
        title = ""
        for report, made, row in of:
            one = made[number]
            title, columns, domain = one.title, one.columns, inert(_of(report))
            taken = one.rows
            if name == "controls":
                columns = (*columns, "proof")
                taken = tuple((*line, inert(cell.proof)) for line, cell in zip(one.rows, row, strict=True))
            if columns[0] != DOMAIN:
                columns = (DOMAIN, *columns)
                taken = tuple((domain, *line) for line in taken)
            rows += taken
        found.append(Table(name, title, columns, tuple(rows)))
    return found


def _domains(fleet: FleetReport, cells: Sequence[Sequence[Cell]]) -> Table:
    columns = (DOMAIN, "owner", "heard", *(str(status) for status in Status), "lowest success", "why it is as held")
    rows = []
    for heard, report, row in zip(fleet.domains, fleet.reports, cells, strict=True):
        counted = Counter(one.status for one in row)
        rows.append(
            tuple(
                inert(str(text))
                for text in (
                    heard.trust_domain,
                    heard.owner,
                    "the hub itself" if heard.trust_domain == fleet.hub and heard.answered else heard.says,
                    *(counted[status] for status in Status),
                    _lowest(heard, report),
                    heard.why,
                )
            )
        )
    return Table("domains", "Trust domains", columns, tuple(rows))


def _lowest(heard: Heard, report: Report) -> str:
    """The worst figure; where one is withheld that is worse than any."""
    due = [one for one in report.figures if one.class_ not in FEW and one.counts.get("due")]
    withheld = [one.why for one in due if one.headline is None]
    if withheld:
        return f"none: {withheld[0]}"
    worst = min((one.headline for one in due if one.headline is not None), default=None)
    return share(worst) or ("nothing was due" if heard.answered or heard.state == "live" else heard.says)


def _pairs(fleet: FleetReport, cells: Sequence[Sequence[Cell]]) -> Iterable[tuple[Report, Sequence[Cell]]]:
    return zip(fleet.reports, cells, strict=True)


def _of(report: Report) -> str:
    return ", ".join(report.scope)
