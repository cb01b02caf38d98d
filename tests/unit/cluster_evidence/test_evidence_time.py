"""When something happened on a node: as it claims within what can be true, else when it was heard."""

from __future__ import annotations

from typing import Any

import pytest

from trustfed.cluster.evidence.evidence_time import DRIFT_MS, Judged, Known, time_of
from trustfed.proto import evidence_pb2 as pb

NOW, BOOT = 1_000_000_000, b"b" * 8
TOLD, HEARD = NOW - 100_000, 5_000_000


def claim(ago: int = 40_000, **changed: Any) -> pb.AgentFact:
    given = {"anchor_ms": TOLD, "anchor_elapsed_ms": HEARD, "elapsed_ms": HEARD + 100_000 - ago, "boot": BOOT}
    return pb.AgentFact(**{**given, **changed})


def known(**changed: Any) -> Known:
    given = {"told": {TOLD}, "reached_ms": 0, "boot": BOOT, "elapsed_ms": HEARD + 100_000, "received_ms": NOW}
    return Known(**{**given, **changed})


def test_it_is_what_the_cluster_told_and_what_passed_since() -> None:
    assert time_of(claim(), known()) == Judged(NOW - 40_000)


@pytest.mark.parametrize(
    ("said", "more", "flag"),
    [
        (claim(boot=b"another!"), {}, ""),  # before a reboot
        (claim(boot=b""), {}, ""),  # no boot is named
        (claim(anchor_ms=TOLD - 1), {}, ""),  # the cluster never told that
        (claim(anchor_ms=0), {}, ""),
        (claim(anchor_elapsed_ms=HEARD + 99_999), {}, "impossible time"),
        (claim(ago=-1), {}, "impossible time"),  # after it was reported
        (claim(), {"issued_ms": NOW + 1 - 40_000 + DRIFT_MS}, "backdated"),  # long before the serial existed
        (claim(ago=90_000), {"earlier_ms": NOW - 20_000}, "backdated"),  # it reported since, and said nothing
    ],
)
def test_what_cannot_be_believed_counts_when_it_was_heard(said: pb.AgentFact, more: dict[str, int], flag: str) -> None:
    heard = known(boot=said.boot and BOOT)
    assert time_of(said, heard, **more) == Judged(max(NOW, more.get("issued_ms", 0)), late=True, flag=flag)


def test_a_partition_keeps_the_time_by_what_was_told_before_it() -> None:
    hours = 6 * 3_600_000
    said = claim(anchor_ms=NOW - hours, elapsed_ms=HEARD + 3_600_000)
    heard = known(told={NOW - hours}, elapsed_ms=HEARD + hours)
    assert time_of(said, heard) == Judged(NOW - hours + 3_600_000)


def test_what_an_earlier_process_told_counts_up_to_the_ledgers_end() -> None:
    assert time_of(claim(), known(told=set(), reached_ms=TOLD)).at == NOW - 40_000
    assert time_of(claim(), known(told=set(), reached_ms=TOLD - 1)).late


def test_never_later_than_the_receipt_nor_before_the_issue() -> None:
    fast = known(received_ms=NOW - 50_000)
    assert time_of(claim(), fast) == Judged(NOW - 50_000)
    assert time_of(claim(), known(), issued_ms=NOW - 30_000) == Judged(NOW - 30_000)


def test_a_node_whose_clock_stands_nearly_still_is_counted_back_from_the_receipt() -> None:
    slow = known(received_ms=NOW + 600_000)
    assert time_of(claim(), slow) == Judged(NOW + 560_000, late=True)


def test_no_claim_makes_evidence_earlier_than_it_says() -> None:
    for ago in range(0, 100_000, 7_919):
        for received in range(NOW - 20_000, NOW + 90_000, 9_973):
            judged = time_of(claim(ago=ago), known(received_ms=received))
            assert min(NOW - ago, received) <= judged.at <= max(received, 0)
