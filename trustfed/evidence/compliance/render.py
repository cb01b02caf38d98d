"""A report in the format that somebody asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import msgspec

from trustfed.errors import Invalid
from trustfed.evidence.compliance.controls import FRAMEWORKS, Cell, judged
from trustfed.evidence.compliance.data import Report
from trustfed.evidence.compliance.judgements import Status
from trustfed.evidence.compliance.tables import Table, comma_separated, heading, named, plain, tables

FORMATS = ("text", "json", "csv", "html", "pdf", "oscal", "cyclonedx")


def render(report: Report, form: str, frameworks: Sequence[str] = tuple(FRAMEWORKS), table: str = "") -> bytes:
    """The report's bytes. `table` names one table, for text and csv. Raises Invalid."""
    for name in frameworks:
        if name not in FRAMEWORKS:
            raise Invalid(f"there is no framework {name[:40]!r}", hint=", ".join(FRAMEWORKS))
    cells = judged(report, frameworks)
    found = tables(report, cells)
    if table:
        found = [named(found, table)]
    match form:
        case "text":
            return plain(report, found).encode()
        case "json":
            return as_json(report, cells)
        case "csv":
            return comma_separated(found[0]).encode()
        case "html":
            return page(report, found)
        case "pdf":
            # Here, not above: who wants no PDF does without its library.
            from trustfed.evidence.compliance.pdf import cover  # noqa: PLC0415

            return cover(report, cells, hashlib.sha256(as_json(report, cells)).hexdigest())
        case "oscal":
            from trustfed.evidence.compliance.oscal import assessment_results  # noqa: PLC0415

            return document(assessment_results(report, cells))
        case "cyclonedx":
            from trustfed.evidence.compliance.cyclonedx import cbom  # noqa: PLC0415

            return document(cbom(report))
    raise Invalid(f"there is no format {form[:40]!r}", hint=", ".join(FORMATS))


def as_json(report: Report, cells: Sequence[Cell]) -> bytes:
    """Everything, and the judgements."""
    return document({**msgspec.to_builtins(report), "controls": matrix(cells)})


def matrix(cells: Sequence[Cell]) -> list[dict[str, str]]:
    """The judgements as JSON."""
    return [
        {
            "framework": one.control.framework,
            "control": one.control.id,
            "title": one.control.title,
            "status": str(one.status),
            "says": one.says,
            "query": one.control.query,
            "proof": one.proof,
        }
        for one in cells
    ]


def page(report: Report, found: Sequence[Table]) -> bytes:
    """One HTML file that needs nothing else, and runs nothing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("trustfed.evidence.compliance", "."), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("report.html.jinja")
    shown = template.render(report=report, heading=heading(report), tables=found, statuses=set(Status))
    return shown.encode()


def document(value: object) -> bytes:
    """JSON for people and programs."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
