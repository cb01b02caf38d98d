"""The cover sheet of a report: one page or two that a person signs for, with the hash of all that it stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from trustfed.evidence.compliance.controls import FRAMEWORKS, Cell
from trustfed.evidence.compliance.data import Report
from trustfed.evidence.compliance.judgements import Status
from trustfed.evidence.compliance.tables import heading, interval, share
from trustfed.evidence.model import FEW

_MAX_LINES = 60


def cover(report: Report, cells: Sequence[Cell], sha256: str) -> bytes:
    """A PDF; `sha256` is of the JSON form of the same report. The same report gives the same bytes."""
    pdf = FPDF(format="A4")
    pdf.set_creation_date(datetime.fromtimestamp(report.as_of_ms / 1000, UTC))
    pdf.set_title(_plain(f"Evidence of {', '.join(report.scope)}"))
    pdf.set_margins(20, 20)
    pdf.add_page()
    _line(pdf, f"Evidence of {', '.join(report.scope)}", 17, "B")
    for name, value in heading(report):
        _pair(pdf, name, value)
    _line(pdf, "Rotation success", 12, "B", above=6)
    shown = [one for one in report.figures if one.class_ not in FEW and one.counts.get("due")]
    for one in shown[:_MAX_LINES]:
        figure = f"{share(one.headline)}  ({interval(one)})" if one.headline is not None else f"no figure: {one.why}"
        due = f"{one.counts.get('on_time', 0):,} on time of {one.counts['due']:,} due"
        _pair(pdf, f"{one.trust_domain} {one.class_}", f"{figure}   {due}")
    if not shown:
        _line(pdf, "Nothing was due in this window.", 10)
    _line(pdf, "Controls", 12, "B", above=6)
    for framework in dict.fromkeys(cell.control.framework for cell in cells):
        counted = Counter(cell.status for cell in cells if cell.control.framework == framework)
        _pair(
            pdf, FRAMEWORKS[framework], ", ".join(f"{counted[status]} {status}" for status in Status if counted[status])
        )
    for cell in [cell for cell in cells if cell.status is Status.NOT_SATISFIED][:_MAX_LINES]:
        _pair(pdf, f"{cell.control.framework} {cell.control.id}", cell.says)
    _line(pdf, "What it stands for", 12, "B", above=6)
    _pair(pdf, "SHA-256 of the JSON", sha256)
    for proof in report.proofs[:_MAX_LINES]:
        _pair(pdf, proof.origin, f"{proof.size:,} entries, root {proof.root}, {_cosigned(proof.cosigned_by)}")
    _line(
        pdf,
        "Run again: trustfed evidence report, export and verify; the pack carries a verifier of its own.",
        9,
        above=6,
    )
    return bytes(pdf.output())


def _cosigned(names: Sequence[str]) -> str:
    return f"cosigned by {', '.join(names)}" if names else "not cosigned"


def _line(pdf: FPDF, text: str, size: int, style: str = "", above: int = 0) -> None:
    if above:
        pdf.ln(above)
    pdf.set_font("helvetica", style, size)
    pdf.multi_cell(0, size * 0.5, _plain(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _pair(pdf: FPDF, name: str, value: str) -> None:
    pdf.set_font("helvetica", "B", 9)
    pdf.multi_cell(58, 5, _plain(name)[:120], new_x=XPos.RIGHT, new_y=YPos.TOP, max_line_height=5)
    pdf.set_font("helvetica", "", 9)
    pdf.multi_cell(0, 5, _plain(value) or "-", new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _plain(text: str) -> str:
    """The PDF's own fonts hold Latin 1; whatever else a name has is shown as an escape."""
    return "".join(c if c.isprintable() and ord(c) < 256 else ascii(c)[1:-1] for c in text)[:2_048]
