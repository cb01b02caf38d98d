"""Each control can be satisfied and can fail, by what the report holds and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.fakes.compliance_report import AT, report
from trustfed.evidence.compliance.controls import CONTROLS, FRAMEWORKS, judged
from trustfed.evidence.compliance.data import Change, Figure, Proof, Uptime
from trustfed.evidence.compliance.judgements import Status

GOOD, PROOF = report(), report().proofs[0]
BELOW = Figure("prod-us-west", "leaf", {"due": 1_000, "on_time": 998, "late": 2}, 0.998, 0.99, 0.999, 0.998, 1.0)
WITHHELD = Figure(
    "prod-us-west", "leaf", {"due": 10, "on_time": 5}, None, None, None, None, 0.5, "coverage is below 0.95"
)
ALONE = Change("prod-us-west", 9, AT, "authority.activated", "uid:0", "", "in a hurry")
FAULTS: dict[str, dict[str, Any]] = {
    "4.2.1.1": {"unknown": 1},
    "12.3.3": {"endpoints": (replace(GOOD.endpoints[0], versions="SSL 3"),)},
    "3.7.4": {"figures": (BELOW,)},
    "3.7.5": {"changes": (Change("p", 1, AT, "authority.retired", "cluster", "", ""),)},
    "10.2.2": {"changes": (Change("p", 1, AT, "authority.retired", "", "", "x"),)},
    "10.3": {"proofs": (replace(PROOF, problem="fork at 300"),)},
    "10.5.1": {"proofs": (replace(PROOF, first_kept_ms=GOOD.as_of_ms - 86_400_000),), "parameters": {"trimmed": "yes"}},
    "IPE": {"rows": {}},
    "CM": {"changes": (ALONE,)},
    "SC-12": {"figures": (WITHHELD,)},
    "SC-17": {"anchors": (replace(GOOD.anchors[0], approved_by=""),)},
    "IA-5(2)": {"assets": (replace(GOOD.assets[0], custodian=""),)},
    "AU-3": {"changes": (Change("p", 1, 0, "authority.retired", "a", "", "x"),)},
    "AU-9": {"proofs": ()},
    "AU-10": {"proofs": (replace(PROOF, cosigned_by=()),)},
    "AU-11": {"proofs": (replace(PROOF, first_kept_ms=GOOD.as_of_ms - 86_400_000),), "parameters": {"trimmed": "yes"}},
    "SC-8(1)": {"endpoints": (replace(GOOD.endpoints[0], versions="none"),)},
    "KSI-SVC-06": {"rotations": (replace(GOOD.rotations[0], outcome="late"),)},
    "KSI-PIY-01": {"assets": (replace(GOOD.assets[0], algorithm=""),)},
    "KSI-MLA-01": {"proofs": (Proof("trustfed/p/journal", 1, "", AT, ("h",), AT, "shrunk"),)},
    "Art. 7(4)": {"unknown": 3},
    "Art. 7(1)": {"figures": (BELOW,)},
    "Art. 12": {"proofs": ()},
    "Art. 9": {"uptimes": (Uptime("p", "sign", 0.999, 0),)},
}


def test_all_is_well_where_it_is() -> None:
    for cell in judged(GOOD):
        expected = Status.NOT_ASSESSED if cell.control.id == "AC" else Status.SATISFIED
        assert cell.status is expected, (cell.control.id, cell.says)
        assert PROOF.root in cell.proof


@pytest.mark.parametrize("control", [one.id for one in CONTROLS if one.id != "AC"])
def test_each_control_can_fail(control: str) -> None:
    (cell,) = [cell for cell in judged(report(**FAULTS[control])) if cell.control.id == control]
    assert cell.status is Status.NOT_SATISFIED, cell.says


def test_what_nobody_did_is_not_a_success() -> None:
    empty = report(figures=(), assets=(), uptimes=(), endpoints=(), rotations=(), changes=())
    by_id = {cell.control.id: cell.status for cell in judged(empty)}
    for control in ("3.7.4", "3.7.5", "10.2.2", "CM", "4.2.1.1", "12.3.3", "Art. 9"):
        assert by_id[control] is Status.NOT_ASSESSED


def test_broken_glass_is_never_satisfied() -> None:
    broken = report(changes=(replace(ALONE, broken_glass=True),))
    (cell,) = [cell for cell in judged(broken, ["sox"]) if cell.control.id == "CM"]
    assert cell.status is Status.NOT_SATISFIED
    assert "glass" in cell.says


def test_every_framework_has_controls_and_none_is_named_twice() -> None:
    assert {one.framework for one in CONTROLS} == set(FRAMEWORKS)
    assert len({(one.framework, one.id) for one in CONTROLS}) == len(CONTROLS)
