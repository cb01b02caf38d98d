"""The agent runs on every node: importing all of it loads nothing that only the control plane needs."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import agent

FORBIDDEN = [
    "ca",
    "bundle_publisher",
    "trustfed.journal",
    "fastapi",
    "boto3",
    "hvac",
    "sqlalchemy",
    "sqlite3",
    "grpc",
    "msgspec",
    "typer",
    "rich",
]


def test_every_agent_module_loads_nothing_heavy() -> None:
    modules = sorted(module.name for module in pkgutil.walk_packages(agent.__path__, "agent."))
    assert "agent.compose" in modules and "agent.attestors.unix" in modules
    program = (
        f"import importlib, json, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(done.stdout))
    assert not loaded & set(FORBIDDEN)
