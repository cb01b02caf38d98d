"""trustfed evidence at a hub and at a cluster: what is asked, what is printed, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.fakes.compliance_report import AT, report
from tests.unit.cli.test_cli_doors import Door, door, run
from trustfed.evidence.compliance.data import FleetReport, Heard

__all__ = ["door"]

WINDOW = ("--from", "2026-03-01T00:00:00Z", "--to", "2026-03-08T00:00:00Z")
DAY_MS = 86_400_000
ROW = {
    "trust_domain": "west",
    "owner": "shop\x1b[31m",
    "age": {"state": "away", "as_of_ms": AT, "age_ms": 61_000},
    "worst": 0.998996,
    "failed": 3,
    "open_obligations": 2,
    "overdue": 1,
    "coverage": 0.97,
    "says": "not heard",
}
PAGE = {
    "code": "rollover_stuck",
    "severity": "page",
    "subject": "x509-2",
    "says": "it waits",
    "since_ms": 1,
    "hint": "look",
}
CLASS = {"headline": 0.9995, "interval": [0.99, 1.0], "why": "", "counts": {"due": 2_000, "on_time": 1_999, "late": 1}}


def fleet_report() -> FleetReport:
    west = replace(report(), scope=("west",), figures=(), assets=(), changes=(), absent=("assets", "changes"))
    heard = (Heard("prod-us-west", "shop", "live", AT, True), Heard("west", "shop", "away", AT, False, "not connected"))
    return FleetReport("hub", AT, AT + 7 * DAY_MS, AT + 8 * DAY_MS, "uid:0", "trustfed", heard, (report(), west))


def test_a_fleets_report_is_asked_of_the_hub(door: Door, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    door.answer("GET", "/evidence/report", msgspec.json.encode(fleet_report()))
    door.open()
    at = ("--socket", str(door.path), "--hub")
    code, out, _ = run(capsys, "evidence", "report", *at, *WINDOW, "--domain", "west", "--domain", "prod-us-west")
    assert code == 0 and "not heard since 2026-03-01T00:00:00Z" in out
    ((_, _, query),) = door.asked
    assert query == {"from": str(AT), "to": str(AT + 7 * DAY_MS), "domain": "west,prod-us-west"}
    code, out, _ = run(capsys, "evidence", "report", *at, *WINDOW, "--format", "csv", "--table", "controls")
    assert code == 0 and {one["trust domain"] for one in csv.DictReader(io.StringIO(out))} == {"west", "prod-us-west"}
    file = tmp_path / "fleet.html"
    code, out, err = run(capsys, "evidence", "report", *at, *WINDOW, "--format", "html", "--write", str(file))
    assert (code, out) == (0, "") and "written" in err and file.stat().st_mode & 0o777 == 0o600


def test_a_cluster_reports_itself_alone(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.answer("GET", "/evidence/report", msgspec.json.encode(report()))
    door.open()
    code, out, _ = run(capsys, "evidence", "report", "--socket", str(door.path), *WINDOW)
    assert code == 0 and out.startswith("Evidence of prod-us-west")
    for verb in ("report", "figures", "alarms"):
        code, _, err = run(capsys, "evidence", verb, "--socket", str(door.path), "--domain", "west")
        assert code == 2 and "--domain is for the hub" in err and "hint: --hub" in err


def test_the_figures_of_a_fleet_of_one_domain_and_of_a_cluster(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"class_": "leaf", **CLASS, "low": 0.99, "high": None}
    door.answer("GET", "/evidence/status", {"totals": {}, "domains": [ROW]})
    door.answer(
        "GET", "/evidence/figures", {"figures": [one], "classes": {"leaf": CLASS, "agent": {**CLASS, "headline": None}}}
    )
    door.open()
    at = ("--socket", str(door.path))
    code, out, _ = run(capsys, "evidence", "figures", *at, "--hub")
    assert code == 0 and "away, 61 s old" in out and "99.899 %" in out and "\x1b" not in out  # never rounded up
    code, out, _ = run(capsys, "evidence", "figures", *at, "--hub", "--output", "json")
    assert json.loads(out)["domains"][0]["worst"] == 0.998996
    code, out, _ = run(capsys, "evidence", "figures", *at, "--hub", "--domain", "west", *WINDOW)
    assert code == 0 and "99.950 %" in out and "1999" in out
    assert door.asked[-1][2] == {"domain": "west", "from_ms": str(AT), "to_ms": str(AT + 7 * DAY_MS)}
    code, out, _ = run(capsys, "evidence", "figures", *at, *WINDOW)
    assert code == 0 and "99.000 % to 100.000 %" in out and "agent" in out


@pytest.mark.parametrize(("alarms", "code"), [([PAGE], 1), ([{**PAGE, "severity": "ticket"}], 0), ([], 0)])
def test_alarms_are_listed_and_checked(
    door: Door, capsys: pytest.CaptureFixture[str], alarms: list[dict[str, Any]], code: int
) -> None:
    raised = [{"trust_domain": "west", "what": one, "as_of_ms": 1, "source": "hub"} for one in alarms]
    door.answer("GET", "/evidence/alarms", {"alarms": raised})
    door.answer("GET", "/evidence/standing", {"trust_domain": "west", "alarms": alarms})
    door.open()
    for at_hub in ((), ("--hub",)):
        at = ("--socket", str(door.path), *at_hub)
        found, out, _ = run(capsys, "evidence", "alarms", *at, "--check")
        assert found == code and ("rollover_stuck" in out if alarms else out == "no alarm stands\n")
        assert run(capsys, "evidence", "alarms", *at)[0] == 0
        _, out, _ = run(capsys, "evidence", "alarms", *at, "--output", "json")
        assert [one["trust_domain"] for one in json.loads(out)] == ["west"] * len(alarms)


def test_each_rotation_of_a_token_key_is_listed_with_its_steps(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    of = {"class_": "jwt_key", "predecessor": "k1", "successor": "k2", "outcome": "on_time", "why": ""}
    step = {
        "position": 9,
        "at_ms": AT,
        "kind": "authority.step",
        "body": {"step": "activated", "retires": "k1", "journal": 4},
    }
    found = {"rotations": [{**of, "on_time_ms": AT, "ended_ms": 0, "reached_ms": AT}], "steps": [step]}
    door.answer("POST", "/evidence/query", found)
    door.answer("POST", "/evidence/ask", {"answers": [{"trust_domain": "hub", "json": found, "as_of_ms": 1}]})
    door.open()
    at = ("--socket", str(door.path))
    code, out, _ = run(capsys, "evidence", "rotations", *at, "--authority", "k2")
    assert code == 0 and "k1" in out and "activated" in out and "retires k1; journal 4" in out
    assert door.asked[-1][2] == {"kind": "rotations", "body": {"class": "", "authority": "k2", "limit": 50}}
    code, out, _ = run(
        capsys, "evidence", "rotations", *at, "--hub", "--domain", "hub", "--class", "root", "-o", "json"
    )
    assert json.loads(out) == found and door.asked[-1][2]["domain"] == "hub"
    code, _, err = run(capsys, "evidence", "rotations", *at, "--hub")
    assert code == 2 and "whose rotations?" in err


def test_the_log_keys_of_a_hub(door: Door, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    listed = {"trust_domain": "west", "vkey": "k1", "pinned_at": "2026-03-01T00:00:00Z", "shown": "k2"}
    door.answer("GET", "/evidence/log-keys", {"log_keys": [listed]})
    door.answer(
        "GET", "/evidence/checkpoint", {"vkey": "hub+k", "note": "trustfed/hub/journal\n7\nroot\n\n\u2014 x y\n"}
    )
    door.answer("POST", "/evidence/log-keys/west/accept", {"trust_domain": "west", "vkey": "k2"})
    door.answer("POST", "/evidence/logs/west/accept", {"trust_domain": "west"})
    door.open()
    at = ("--socket", str(door.path))
    code, out, _ = run(capsys, "evidence", "log-keys", *at)
    assert code == 0 and "k1" in out and "k2" in out
    assert run(capsys, "evidence", "keys", *at, "--hub")[1] == "hub+k\n"
    kept = tmp_path / "kept"
    assert "of 7 events" in run(capsys, "evidence", "checkpoint", *at, "--hub", "--write", str(kept))[2]
    assert kept.read_text().startswith("trustfed/hub/journal\n7\n")
    code, out, _ = run(capsys, "evidence", "accept-log-key", "west", "k2", "--reason", "made anew", *at)
    assert code == 0 and door.asked[-1][2] == {"vkey": "k2", "reason": "made anew"}
    code, out, _ = run(capsys, "evidence", "accept-logs", "west", "--reason", "restored", *at)
    assert (code, out) == (0, "the logs of west begin anew\n") and door.asked[-1][2] == {"reason": "restored"}
