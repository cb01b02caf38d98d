"""How the whole suite runs: modules are compiled once, what takes longest begins first, and nothing is left that burns."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Generator

import pytest

# Tests start hundreds of processes of ours: each would compile all sources anew, and each worker every test module.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LONGEST_FIRST = (
    "tests/system/test_demo.py",
    "tests/system/test_dashboard.py",
    "tests/architecture/test_documents.py",
    "tests/system/test_hub.py",
    "tests/system/test_cluster.py",
    "tests/system/faults/test_chaos.py",
    "tests/system/test_agent.py",
    "tests/system/faults/test_partition.py",
    "tests/system/test_absence.py",
    "tests/system/test_edge.py",
    "tests/system/test_envoy_path.py",
    "tests/unit/agent/test_store_fallback.py",
    "tests/system/test_istio_ca.py",
    "tests/system/test_protected.py",
    "tests/system/test_foreign.py",
)
"""Worker processes take one module after the other (`--dist loadfile`): a long one at the end would leave others idle."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ranks = {config.rootpath / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    modules = dict.fromkeys(item.path for item in items)
    system = [path for path in modules if path in ranks or path.is_relative_to(config.rootpath / "tests/system")]
    unit = [path for path in modules if path not in set(system)]
    first, *rest = sorted(system, key=lambda path: ranks.get(path, len(ranks))) or [None]
    # System tests work, unit tests mostly wait: side by side they use the machine. Some of these remain to even out the end.
    each, order = len(unit) * 4 // 5 // max(len(rest), 1), [first]
    for path in rest:
        order += [path, *unit[:each]]
        del unit[:each]
    places = {path: place for place, path in enumerate(order + unit)}
    items.sort(key=lambda item: places[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """After the last test no thread of code that was tested goes round and round: it would in production, too."""
    yield
    assert nextitem is not None or _quiet(), f"something keeps working: {[one.name for one in threading.enumerate()]}"


def _quiet() -> bool:
    """Whether this process rests for a moment, soon; what winds down may take a little."""
    for _ in range(10):
        began = time.process_time()
        time.sleep(0.2)
        if time.process_time() - began < 0.01:
            return True
    return False
