"""A report as OSCAL 1.2 assessment-results: an observation (method TEST) and a finding for each control that could be judged.

Identifiers are UUIDs of version 5 over what they name, so the same report gives the same document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

from trustfed.evidence.compliance.controls import FRAMEWORKS, Cell
from trustfed.evidence.compliance.data import Report, moment
from trustfed.evidence.compliance.judgements import Status

VERSION = "1.2.1"
_SPACE = UUID("3b1f8a60-5a3d-5c86-9c0b-6f0f6a9d2a41")
_NAMESPACE = "https://trustfed.example/ns/oscal"


def assessment_results(report: Report, cells: Sequence[Cell]) -> dict[str, Any]:
    """The document, with one result for each framework."""
    return _document(report, _results(report, cells))


def fleet_results(heading: Report, of: Sequence[tuple[Report, Sequence[Cell]]]) -> dict[str, Any]:
    """The document of a fleet, with one result for each trust domain and framework."""
    return _document(heading, [one for report, cells in of for one in _results(report, cells, named=True)])


def _results(report: Report, cells: Sequence[Cell], *, named: bool = False) -> list[dict[str, Any]]:
    key, results = _key(report), []
    for name in dict.fromkeys(cell.control.framework for cell in cells):
        result = _result(key, name, report, [cell for cell in cells if cell.control.framework == name])
        if named:
            result["title"] = _line(f"{', '.join(report.scope)}: {result['title']}")
        results.append(result)
    return results


def _key(report: Report) -> str:
    return hashlib.sha256(repr((report.scope, report.from_ms, report.to_ms, report.as_of_ms)).encode()).hexdigest()


def _document(report: Report, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "assessment-results": {
            "uuid": _uuid(_key(report)),
            "metadata": {
                "title": f"Certificate rotation of {', '.join(report.scope)}"[:1_000],
                "last-modified": moment(report.as_of_ms),
                "version": moment(report.as_of_ms),
                "oscal-version": VERSION,
                "props": [_prop("definition", report.definition), _prop("ran-by", report.ran_by)],
            },
            "import-ap": {"href": "#", "remarks": "No assessment plan: the evidence is gathered all the time."},
            "results": results,
        }
    }


def _result(key: str, framework: str, report: Report, cells: Sequence[Cell]) -> dict[str, Any]:
    assessed = [cell for cell in cells if cell.status is not Status.NOT_ASSESSED]
    result: dict[str, Any] = {
        "uuid": _uuid(key, framework),
        "title": FRAMEWORKS[framework],
        "description": "What the ledger and the journal say of the window; each finding names the query and the checkpoint.",
        "start": moment(report.from_ms),
        "end": moment(report.to_ms),
        "reviewed-controls": {
            "control-selections": [
                {"include-controls": [{"control-id": _token(cell.control.id)} for cell in cells]}
                if cells
                else {"include-all": {}}
            ]
        },
        "observations": [_observation(key, cell, report) for cell in cells],
    }
    if assessed:
        result["findings"] = [_finding(key, cell) for cell in assessed]
    return result


def _observation(key: str, cell: Cell, report: Report) -> dict[str, Any]:
    return {
        "uuid": _uuid(key, cell.control.framework, cell.control.id, "observation"),
        "title": _line(f"{cell.control.id} {cell.control.title}"),
        "description": cell.says,
        "methods": ["TEST"],
        "types": ["control-objective"],
        "collected": moment(report.as_of_ms),
        "relevant-evidence": [{"description": f"{cell.control.query}; {cell.proof or 'no checkpoint'}"}],
        "props": [_prop("status", cell.status)],
    }


def _finding(key: str, cell: Cell) -> dict[str, Any]:
    return {
        "uuid": _uuid(key, cell.control.framework, cell.control.id, "finding"),
        "title": _line(f"{cell.control.id} {cell.control.title}"),
        "description": cell.control.asks,
        "target": {
            "type": "objective-id",
            "target-id": _token(cell.control.id),
            "status": {"state": str(cell.status), "reason": "pass" if cell.status is Status.SATISFIED else "fail"},
        },
        "related-observations": [
            {"observation-uuid": _uuid(key, cell.control.framework, cell.control.id, "observation")}
        ],
    }


def _uuid(*names: str) -> str:
    return str(uuid5(_SPACE, "\x00".join(names)))


def _prop(name: str, value: str) -> dict[str, str]:
    return {"name": name, "ns": _NAMESPACE, "value": _line(str(value)) or "none"}


def _line(text: str) -> str:
    """OSCAL's string: one line, no blanks at its ends."""
    return " ".join(text.split())


def _token(text: str) -> str:
    """OSCAL's token: a letter or underscore first, then letters, digits, dot and hyphen."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in text.lower()).strip("-.")
    return plain if plain[:1].isalpha() else f"c-{plain}"
