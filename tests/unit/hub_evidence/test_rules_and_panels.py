"""The rules for Prometheus do what they say, by Prometheus' own checker; rules and panels name only metrics that exist."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "trustfed.rules.yaml"
PANELS = ROOT / "deploy" / "grafana" / "trustfed.json"
_NAME = re.compile(r"\btrustfed[_:][a-z0-9_:]+")
_COUNTED = re.compile(r"\.(?:gauge|counter)\(\s*\"([a-z0-9_]+)\"")
_SEVERITIES = {"page", "ticket"}


def promtool() -> str:
    found = shutil.which("promtool", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is not here: tests/parts.sh fetches it")
        pytest.skip("promtool is not here: make tools, or tests/parts.sh .venv")
    return found


@functools.cache
def existing() -> set[str]:
    """What the reference lists (another test holds it to the code), and what code spells out where it counts something."""
    listed = set(re.findall(r"^\| `(trustfed_\w+)`", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE))
    for path in (*(ROOT / "trustfed").rglob("*.py"), *(ROOT / "agent").rglob("*.py")):
        listed |= {f"trustfed_{name}" for name in _COUNTED.findall(path.read_text())}
    return listed


@pytest.mark.parametrize("arguments", [("check", "rules", RULES.name), ("test", "rules", "trustfed.test.yaml")])
def test_prometheus_takes_the_rules_and_they_alert_as_they_say(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [promtool(), *arguments], cwd=RULES.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_name_only_metrics_that_exist() -> None:
    text = RULES.read_text()
    recorded = set(re.findall(r"record: (\S+)", text))
    expressions = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    assert set(_NAME.findall(expressions)) - recorded <= existing()
    assert set(re.findall(r"severity: (\w+)", text)) == _SEVERITIES
    names = re.findall(r"alert: (\w+)", text)
    assert len(names) == len(set(names)) and all(name.startswith("Trustfed") for name in names)


def test_panels_query_only_metrics_that_exist() -> None:
    board = json.loads(PANELS.read_text())
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(asked) > 20
    for expression in asked:
        names = set(_NAME.findall(expression))
        assert names and names <= existing() | recorded, expression
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
