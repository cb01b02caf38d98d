"""The bench's arithmetic and its bad input. What it measures is never a timed test."""

import json
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.figures import Report
from bench.procs import BenchError, Process, descendants, resident, run, wait_until
from bench.table import as_json, render


def report() -> Report:
    made = Report({"cpus": 2}, {"trustfed": "1", "SPIRE": "2"})
    for product, calls, p99 in (("trustfed", 3000.0, 2.0), ("trustfed", 1000.0, 4.0), ("SPIRE", 1000.0, 6.0)):
        made.add(product, "workload", "FetchX509SVID", "calls/s", calls, more=True)
        made.add(product, "workload", "FetchX509SVID", "p99 ms", p99)
    made.add("trustfed", "memory", "hub, idle", "MB", 80.0)
    return made


def test_ratio_is_above_one_where_ours_is_better() -> None:
    calls, p99, _ = report().figures
    assert calls.ratio("trustfed", "SPIRE") == 2.0
    assert p99.ratio("trustfed", "SPIRE") == 2.0


def test_no_ratio_where_one_product_has_no_sample() -> None:
    assert report().figures[2].ratio("trustfed", "SPIRE") is None


def test_the_table_has_one_row_per_name() -> None:
    made = report()
    made.failures.append("SPIRE: new entry: too late")
    text = render(made)
    (row,) = [line for line in text.splitlines() if "FetchX509SVID" in line]
    assert "2,000 calls/s  p99 3.000 ms" in row
    assert row.endswith("2.00  2.00")
    assert "FAILED  SPIRE: new entry: too late" in text


def test_json_has_every_sample() -> None:
    document = json.loads(json.dumps(as_json(report())))
    assert document["figures"][0]["samples"] == {"trustfed": [3000.0, 1000.0], "SPIRE": [1000.0]}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "speed"], "'speed' is none of"),
        (["--seconds", "0"], "between 0.1 and 60"),
        (["--rounds", "99"], "between 1 and 20"),
        (["--products", "spire"], "TRUSTFED_SPIRE_SERVER"),
    ],
)
def test_bad_options_are_named(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRUSTFED_SPIRE_SERVER", raising=False)
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_without_go_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert command.main([]) == 2
    assert "install Go" in capsys.readouterr().err


def test_a_process_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    process = Process("server", ["sh", "-c", "echo no such file >&2; exit 3"], tmp_path / "log")
    with pytest.raises(BenchError, match=r"server: its socket did not come before it ended.*no such file"):
        wait_until(lambda: False, "its socket", process)
    process.stop()


def test_memory_and_children_of_a_process(tmp_path: Path) -> None:
    process = Process("shell", ["sh", "-c", "sleep 60 & echo up; wait"], tmp_path / "log")
    try:
        wait_until(lambda: process.tail() == "up", "its word", process)
        assert 0 < resident(process.pid) < 100
        (child,) = descendants(process.pid)
    finally:
        run(["kill", child])
        process.stop()
    assert not process.running()


def test_a_command_that_fails_is_quoted() -> None:
    with pytest.raises(BenchError, match=r"exited with 4: bad luck"):
        run(["sh", "-c", "echo bad luck; exit 4"])
