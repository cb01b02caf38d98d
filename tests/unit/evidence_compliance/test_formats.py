"""What reports say is what the formats' own schemas allow, and no name in them does anything.

The validators take seconds to load: only where they are used, not wherever tests are collected.
"""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from tests.fakes.compliance_report import AT, HOSTILE, hostile, report
from trustfed.errors import Invalid
from trustfed.evidence.compliance.ocsf import VERSION, events
from trustfed.evidence.compliance.render import FORMATS, render
from trustfed.evidence.compliance.tables import TABLES, Table, comma_separated, share
from trustfed.journal.events import Fact


@pytest.mark.parametrize("made", [report(), hostile()], ids=["good", "hostile"])
def test_oscal_is_valid(made: object) -> None:
    from trestle.oscal.assessment_results import Model

    document = json.loads(render(made, "oscal"))  # type: ignore[arg-type]
    Model.model_validate(document)
    results = document["assessment-results"]["results"]
    assert [one["title"] for one in results][:2] == ["PCI DSS 4.0.1", "SOX IT general controls"]
    states = {one["target"]["status"]["state"] for result in results for one in result["findings"]}
    assert states <= {"satisfied", "not-satisfied"}
    assert render(made, "oscal") == render(made, "oscal")  # type: ignore[arg-type]


def cyclonedx_faults(document: str) -> object:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_7).validate_str(document)


@pytest.mark.parametrize("made", [report(), hostile()], ids=["good", "hostile"])
def test_cyclonedx_is_valid(made: object) -> None:
    document = render(made, "cyclonedx").decode()  # type: ignore[arg-type]
    assert cyclonedx_faults(document) is None
    certificate = next(one for one in json.loads(document)["components"] if "hashes" in one)
    assert certificate["cryptoProperties"]["assetType"] == "certificate"


def test_every_state_of_a_key_is_valid_in_cyclonedx() -> None:
    for state in ("prepared", "distributed", "active", "retiring", "tainted", "removed"):
        made = report(assets=tuple(replace(one, state=state) for one in report().assets))
        assert cyclonedx_faults(render(made, "cyclonedx").decode()) is None, state


def test_who_was_recreated_stands_beside_the_excused_where_it_is_known() -> None:
    held = report().figures[0]
    known = replace(held, counts={"due": 9, "excused": 3, "recreated": 2})
    said = render(report(figures=(known, held)), "csv", table="figures").decode()
    rows = [(one["excused"], one["recreated"], one["late"]) for one in csv.DictReader(io.StringIO(said))]
    assert rows == [("3", "2", "0"), ("0", "", "0")]


def test_ocsf_is_valid() -> None:
    from jsonschema import Draft202012Validator
    from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

    body = {"spiffe_id": "spiffe://p/a", "authority": "a", "not_before": 1, "not_after": 2}
    issued = Fact(AT, "x509.issued", "0f", {"serial": "0f", **body})
    token = Fact(AT, "jwt.issued", "j", {"jti": "j", **body})
    steps = [
        Fact(AT, "authority.step", "a", {"authority": "a", "kind": "x509", "step": step, "journal": 3})
        for step in (
            "prepared",
            "certified",
            "published",
            "activated",
            "retired",
            "reissued",
            "tainted",
            "removed",
            "odd",
        )
    ]
    other = Fact(AT, "agent.delivered", "0f", {})
    made = list(events("p", enumerate([issued, token, other, *steps], start=1), "0.1.0"))
    assert [one["class_uid"] for one in made] == [3002, 3002, *[3004] * len(steps)]
    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(VERSION))
    for one in made:
        name = "authentication" if one["class_uid"] == 3002 else "entity_management"
        validator = Draft202012Validator(schemas.get_class_schema(name))
        assert not [error.message for error in validator.iter_errors(one)]
        assert list(validator.iter_errors({**one, "time": "noon"}))
        assert one["type_uid"] == one["class_uid"] * 100 + one["activity_id"]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_hostile_names_do_nothing_in_html() -> None:
    page = render(hostile(), "html").decode()
    tags = _Tags()
    tags.feed(page)
    assert "script" not in tags.seen
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00-\x08\x0b-\x1f]", page)
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("name", TABLES)
def test_hostile_names_do_nothing_in_a_spreadsheet(name: str) -> None:
    rows = list(csv.reader(io.StringIO(render(hostile(), "csv", table=name).decode())))
    assert len({len(row) for row in rows}) == 1
    assert not [cell for row in rows[1:] for cell in row if cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_no_cell_is_a_formula_wherever_a_spreadsheet_cuts(delimiter: str) -> None:
    names = ("=1+1", " =1", "\uff1dcmd()", "team;=HYPERLINK(1)", "team; @sum(1)")
    text = comma_separated(Table("t", "T", ("name",), tuple((name,) for name in names)))
    cells = [cell for row in csv.reader(io.StringIO(text), delimiter=delimiter) for cell in row]
    assert not [cell for cell in cells if cell.strip().startswith(("=", "@", "\uff1d"))]


def test_hostile_names_do_nothing_in_a_terminal() -> None:
    shown = render(hostile(), "text").decode()
    assert not [c for c in shown if not c.isprintable() and c != "\n"]


def test_the_pdf_is_one_and_the_same() -> None:
    first = render(hostile(), "pdf")
    assert first.startswith(b"%PDF-")
    assert first == render(hostile(), "pdf")
    assert first != render(report(), "pdf")


def test_json_holds_everything_and_the_judgements() -> None:
    document = json.loads(render(hostile(), "json", ["pci"]))
    assert {one["framework"] for one in document["controls"]} == {"pci"}
    assert [one["spiffe_id"] for one in document["failures"]] == list(HOSTILE)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(Invalid, match="no format"):
        render(report(), "doc")
    with pytest.raises(Invalid, match="no framework"):
        render(report(), "json", ["iso"])
    with pytest.raises(Invalid, match="no table"):
        render(report(), "csv", table="secrets")
    assert "doc" not in FORMATS


def test_a_share_is_never_rounded_up() -> None:
    assert share(0.9999999) == "99.999 %"
    assert share(0.999) == "99.900 %"
    assert share(1.0) == "100.000 %"
    assert share(None) == ""
