"""The spool: every fact once, in order, whatever the disk does; and what is gone is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cache.disk import FolderDisk
from agent.cache.keys import MachineKey
from agent.evidence.shelf import KEY, Shelf
from agent.evidence.spool import IN_MEMORY_FACTS, Spool
from tests.fakes.disk import Platter, Step, crashes
from tests.fakes.evidence_intake import EvidenceIntake
from tests.unit.agent_evidence.spooled import NODE, drain, fact, facts, lost, moments, numbers, spool
from trustfed.errors import Denied, TrustfedError, Unavailable
from trustfed.proto import evidence_pb2 as pb
from trustfed.spiffe.ids import SpiffeId


def test_what_was_written_is_there_after_a_restart_in_order_and_once() -> None:
    platter = Platter()
    first = spool(platter)
    for start in range(1, 1200, 3):
        first.append(facts(start, start + 3))
    assert first.waiting == 1200 and not first.problem
    files = [name for folder, name in platter.files if folder == "evidence"]
    assert len(files) == 3, "small batches share a file"
    second = spool(platter)
    second.open()
    second.append(facts(1201, 1211))
    intake = drain(second, EvidenceIntake())
    assert numbers(intake.facts) == list(range(1, 1211)) and not intake.clones
    assert second.waiting == 0 and second.lost_total == 0
    assert not [name for folder, name in platter.files if folder == "evidence"]
    assert len({report.epoch for report in intake.reports}) == 2, "each start has an epoch of its own"


def test_an_acknowledged_prefix_is_not_sent_again_and_a_lost_answer_is_no_harm() -> None:
    held, intake = spool(Platter()), EvidenceIntake()
    held.append(facts(1, 11))
    report = held.head()
    assert report is not None
    assert held.acknowledge(report, 6) == 5 and held.waiting == 5
    held.append(facts(11, 13))
    again = held.head()
    assert again is not None and (again.first, numbers(list(again.facts))) == (6, list(range(6, 13)))
    assert not held.acknowledge(again, 6), "nothing was taken"
    drain(held, intake)
    assert numbers(intake.facts) == list(range(6, 13))


def test_a_loss_of_power_at_each_step_loses_nothing_that_was_durable_and_repeats_no_number() -> None:
    platter = Platter()
    held, durable = spool(platter), [(0, 0)]
    for start in range(1, 60, 10):
        held.append(facts(start, start + 10))
        durable.append((len(platter.log), start + 9))
    for cut in range(len(platter.log) + 1):
        safe = max(number for step, number in durable if step <= cut)
        for state in crashes(platter, cut, range(1)):
            again = spool(Platter(state, ("data",)))
            again.append([fact(1000)])
            intake = drain(again, EvidenceIntake())
            found = numbers(intake.facts)
            assert found[:safe] == list(range(1, safe + 1)) and found[-1] == 1000
            assert found == sorted(set(found)) and not intake.clones


def _damaged(data: bytes) -> Iterator[bytes]:
    for length in range(len(data)):
        yield data[:length]
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]


def test_a_file_cut_at_each_byte_or_with_a_flipped_bit_is_counted_as_lost_and_the_others_are_kept() -> None:
    platter = Platter()
    held = spool(platter)
    held.append(facts(1, 501))
    held.append(facts(501, 503))
    held.append(())
    place = ("evidence", "facts-1-501-502")
    for data in _damaged(platter.files[place]):
        again = spool(Platter({**platter.files, place: data}))
        again.open()
        assert (again.waiting, again.lost_total, again.problem) == (501, 2, "")
    again.append(facts(503, 504))
    intake = drain(again, EvidenceIntake())
    assert numbers(intake.facts) == [*range(1, 501), 503] and lost(intake.facts) == 2
    assert [one.kind for one in intake.facts[-1].lost] == ["unknown"]


def test_files_that_are_missing_swapped_or_of_another_node_are_lost() -> None:
    platter = Platter()
    held = spool(platter)
    for start in (1, 501, 1001):
        held.append(facts(start, start + 500))
    names = [f"facts-1-{start}-{start + 499}" for start in (1, 501, 1001)]
    first, second = (("evidence", name) for name in names[:2])
    missing = {place: data for place, data in platter.files.items() if place != second}
    swapped = {**platter.files, first: platter.files[second], second: platter.files[first]}
    for files, node, count in (
        (missing, NODE, 500),
        (swapped, NODE, 1000),
        (platter.files, SpiffeId.parse("spiffe://prod-a/trustfed/node/two"), 1500),
    ):
        again = spool(Platter(files), node)
        again.open()
        assert (again.lost_total, again.waiting) == (count, 1500 - count + 1)
    without_key = {place: data for place, data in platter.files.items() if place != ("data", KEY)}
    again = spool(Platter(without_key))
    again.append(facts(1, 2))
    assert (again.lost_total, again.problem) == (1500, "")
    assert lost(drain(again, EvidenceIntake()).facts) == 1500


def test_a_full_spool_gives_up_its_oldest_and_says_so_after_a_restart_too() -> None:
    platter = Platter()
    held = spool(platter, most=(200_000, 2_000))
    for start in range(1, 6001, 500):
        held.append(facts(start, start + 500))
    assert held.size <= 200_000 and held.lost_total >= 4000
    again = spool(platter, most=(200_000, 2_000))
    again.append([fact(6001)])
    intake = drain(again, EvidenceIntake())
    gone = again.lost_total
    assert numbers(intake.facts) == list(range(gone + 1, 6002))
    said = intake.facts[-1]
    assert said.kind == "lost" and [(one.kind, one.count) for one in said.lost] == [("delivered", gone)]
    assert not [name for folder, name in platter.files if folder == "evidence"]


def test_the_range_of_what_was_given_up_is_said_in_its_own_epoch() -> None:
    held = spool(Platter(), most=(10_000_000, 1_000))
    for start in range(1, 2001, 500):
        held.append(facts(start, start + 500))
    (said,) = drain(held, EvidenceIntake()).facts[-1].lost
    assert (said.kind, said.count, said.first, said.last) == ("delivered", 1000, 1, 1000)


@pytest.mark.parametrize(
    "error", [Unavailable("the disk is full"), Unavailable("input/output error"), Denied("read-only file system")]
)
def test_a_disk_that_cannot_be_written_leaves_the_newest_in_memory_bounded(error: TrustfedError) -> None:
    platter = Platter()
    held = spool(platter)
    held.append(facts(1, 11))
    platter.fault = lambda step: error
    for start in range(11, 2011, 100):
        held.append(facts(start, start + 100))
        assert held.problem
    kept = 10 + IN_MEMORY_FACTS
    assert held.waiting == kept + 1 and held.lost_total == 2000 - IN_MEMORY_FACTS
    report = held.head()
    assert report is not None and numbers(list(report.facts)) == list(range(1, 11)), "what was durable goes first"
    platter.fault = lambda step: None
    held.append(())
    assert not held.problem
    intake = drain(held, EvidenceIntake())
    assert numbers(intake.facts) == [*range(1, 11), *range(1011, 2011)] and lost(intake.facts) == 1000


def test_without_any_disk_facts_reach_the_cluster_from_memory() -> None:
    platter = Platter()
    platter.fault = lambda step: Denied("read-only file system")
    held = spool(platter)
    held.append(facts(1, 2001))
    intake = drain(held, EvidenceIntake())
    assert numbers(intake.facts) == list(range(1001, 2001)) and lost(intake.facts) == 1000


def test_what_a_disk_brings_back_late_is_not_sent_under_an_epoch_that_is_over() -> None:
    platter = Platter()
    spool(platter).append(facts(1, 11))
    platter.fault = lambda step: Unavailable("input/output error")
    read, held, intake = platter.files, spool(platter), EvidenceIntake()
    platter.files = {}
    held.append(facts(11, 21))
    report = held.head()
    assert report is not None and numbers(list(report.facts)) == list(range(11, 21))
    platter.files, platter.fault = read, lambda step: None
    held.append(facts(21, 31))
    drain(held, intake)
    assert sorted(numbers(intake.facts)) == list(range(1, 31)) and len(intake.wanted) == 1


@pytest.mark.parametrize("kind", ["write", "fsync", "rename", "sync", "create", "remove", "mkdir"])
@pytest.mark.parametrize("late", [False, True])
def test_one_failure_at_any_step_is_made_good_by_the_next_try(kind: str, late: bool) -> None:
    for nth in range(4):
        platter, seen = Platter(), 0

        def fault(step: Step, nth: int = nth) -> TrustfedError | None:
            nonlocal seen
            seen += step.kind == kind
            return Unavailable("input/output error") if step.kind == kind and seen == nth + 1 else None

        platter.fault, platter.late = fault, late
        held = spool(platter, most=(10_000_000, 1_000))
        for start in range(1, 1601, 100):
            held.append(facts(start, start + 100))
        held.append(())
        assert not held.problem
        intake = drain(spool(platter, most=(10_000_000, 1_000)), EvidenceIntake())
        found = numbers(intake.facts)
        assert found == list(range(found[0], 1601)) and len(found) + lost(intake.facts) >= 1600 and not intake.clones


@pytest.mark.parametrize("wanted", [1, 10_000])
def test_a_cluster_that_counts_otherwise_gets_all_that_waits_in_a_new_epoch(wanted: int) -> None:
    """It was put back to an older state, or another machine used these numbers."""
    platter = Platter()
    held, intake = spool(platter), EvidenceIntake()
    held.append(facts(1, 601))
    report = held.head()
    assert report is not None and held.acknowledge(report, 401)
    report, epoch = held.head(), held.epoch
    assert report is not None and report.first == 401 and held.acknowledge(report, wanted) == 0
    assert held.epoch != epoch and held.waiting == 200
    report = held.head()
    assert report is not None and report.first == 1 and report.epoch == held.epoch
    again = spool(platter)
    again.open()
    intake.strict = True
    drain(again, intake)
    assert numbers(intake.facts) == list(range(401, 601)) and not intake.clones


def test_a_strict_cluster_gets_everything_behind_a_gap() -> None:
    held, intake = spool(Platter(), most=(10_000_000, 1_000)), EvidenceIntake()
    intake.strict = True
    for start in range(1, 2001, 500):
        held.append(facts(start, start + 500))
    drain(held, intake)
    assert numbers(intake.facts) == list(range(1001, 2001)) and lost(intake.facts) == 1000


def test_facts_of_an_earlier_boot_keep_their_moment() -> None:
    platter = Platter()
    before = spool(platter)
    before.append([pb.AgentFact(kind="offset", elapsed_ms=9, boot=moments().boot)])
    assert before.head() is not None and before.oldest_ms == 9
    after = spool(platter, boot="boot-2")
    report = after.head()
    assert report is not None and (report.facts[0].boot, report.facts[0].elapsed_ms) == (moments().boot, 9)
    assert after.oldest_ms is None, "how long ago that was nobody knows"


def test_many_starts_without_a_cluster_gather_their_epochs() -> None:
    platter = Platter()
    for start in range(1, 81):
        spool(platter).append(facts(start, start + 1))
    files = [name for folder, name in platter.files if folder == "evidence"]
    assert len(files) <= 34
    intake = drain(spool(platter), EvidenceIntake())
    assert numbers(intake.facts) == list(range(1, 81)) and lost(intake.facts) == 0


def test_the_folder_is_private_and_holds_nothing_readable(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    held = _on_disk(tmp_path)
    held.append(facts(1, 100))
    (file,) = (tmp_path / "evidence").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600 and (tmp_path / "evidence").stat().st_mode & 0o777 == 0o700
    assert b"delivered" not in file.read_bytes() and b"0" * 20 not in file.read_bytes()
    (tmp_path / "evidence").chmod(0o755)
    again = _on_disk(tmp_path)
    again.append(facts(1, 2))
    assert "open to others" in again.problem and "chmod 700" in again.problem and again.waiting == 1


def _on_disk(folder: Path) -> Spool:
    key = MachineKey(FolderDisk(folder), os.urandom, KEY)
    return Spool(Shelf(FolderDisk(folder / "evidence"), key, NODE, os.urandom), moments(), os.urandom)


_WRITER = """
import sys
from pathlib import Path
from tests.unit.agent_evidence.spooled import facts
from tests.unit.agent_evidence.test_evidence_spool import _on_disk
held, start = _on_disk(Path(sys.argv[1])), int(sys.argv[2])
while True:
    held.append(facts(start, start + 37))
    start += 37
    print(start, flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_loses_at_most_its_last_batch(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    child = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), "1"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = int(child.stdout.readline())
    time.sleep(0.05)
    child.kill()
    rest = child.stdout.read().split()
    child.wait()
    said = (int(rest[-1]) if rest else said) - 1
    held = _on_disk(tmp_path)
    found = numbers(drain(held, EvidenceIntake()).facts)
    assert held.lost_total == 0 and found == list(range(1, found[-1] + 1))
    assert said <= found[-1] <= said + 37
