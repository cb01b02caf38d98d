"""A report for the hub's people fits into one answer: what is cut is named, and no control is satisfied by it."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from tests.fakes.compliance_report import report
from trustfed.cluster.evidence.reporting import LEAST_ANSWER, within
from trustfed.errors import Invalid
from trustfed.evidence.compliance.controls import judged
from trustfed.evidence.compliance.data import Anchor, Report
from trustfed.evidence.compliance.judgements import Status


def test_a_short_report_is_whole() -> None:
    assert msgspec.json.decode(within(report(), LEAST_ANSWER), type=Report) == report()


def test_a_long_one_is_cut_and_says_so() -> None:
    assets = tuple(replace(report().assets[0], serial=f"{number:032x}") for number in range(1_000))
    data = within(report(assets=assets), LEAST_ANSWER)
    cut = msgspec.json.decode(data, type=Report)
    assert len(data) <= LEAST_ANSWER and cut.absent == ("assets",)
    assert cut.assets == assets[-len(cut.assets) :] and cut.changes == report().changes
    by_id = {cell.control.id: cell for cell in judged(cut)}
    assert by_id["4.2.1.1"].status is Status.NOT_ASSESSED and by_id["3.7.4"].status is Status.SATISFIED


def test_one_that_cannot_be_cut_is_refused() -> None:
    anchors = tuple(Anchor("prod-us-west", f"td-{number}", 1, 1, "ef" * 32, "grant") for number in range(1_000))
    with pytest.raises(Invalid, match="the report has"):
        within(report(anchors=anchors), LEAST_ANSWER)
