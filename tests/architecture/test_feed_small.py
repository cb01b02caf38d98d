"""The feed stands beside every istiod: importing all of it loads nothing that only the control plane needs."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

from trustfed import feed

FORBIDDEN = [
    "agent",
    "bundle_publisher",
    "ca",
    "fastapi",
    "grpc",
    "kubernetes",
    "msgspec",
    "rich",
    "sqlite3",
    "typer",
    "yaml",
]


def test_every_module_of_the_feed_loads_nothing_heavy() -> None:
    modules = sorted(module.name for module in pkgutil.walk_packages(feed.__path__, "trustfed.feed."))
    assert "trustfed.feed.compose" in modules and "trustfed.feed.mcp" in modules
    modules.remove("trustfed.feed.__main__")
    program = (
        f"import importlib, json, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(done.stdout))
    assert not loaded & set(FORBIDDEN) and "trustfed.journal" not in loaded
