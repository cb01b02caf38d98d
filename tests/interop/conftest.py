"""Interop tests build programs in three languages: they run with `--interop` only (`make interop`)."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.interop.programs import BUILD_SECONDS, RUN_SECONDS
from tests.system.stack import Stack


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--interop", action="store_true", help="build and run the Go, Java and Rust programs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # `pytest tests` reads this file too late for the option to exist.
    wanted = config.getoption("--interop", default=False)
    for item in items:
        if "tests/interop" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(BUILD_SECONDS + RUN_SECONDS))
            if not wanted:
                item.add_marker(pytest.mark.skip(reason="run make interop"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the end of the logs of every process that runs."""
    report = yield
    if report.failed:
        report.sections += [("processes", stack.logs()) for stack in Stack.running]
    return report
