"""A process of ours never runs what lies in the folder that it is started in."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.tree import PACKAGES, parsed, sources


def _unguarded(tree: ast.Module) -> Iterator[int]:
    """The lines of lists and tuples that have "-m" and not "-P" right before it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple):
            words = [item.value if isinstance(item, ast.Constant) else None for item in node.elts]
            if "-m" in words and words[max(words.index("-m") - 1, 0)] != "-P":
                yield node.lineno


def test_every_module_is_started_without_the_working_folder() -> None:
    """`python -m` puts the working folder before everything else on the path; with -P it does not."""
    found = {str(path): list(_unguarded(parsed(path))) for path in sources(*PACKAGES)}
    assert not {path: lines for path, lines in found.items() if lines}
    assert list(_unguarded(ast.parse("x = [python, '-m', 'agent']"))) == [1]
    assert list(_unguarded(ast.parse("x = (python, '-P', '-m', 'agent')"))) == []


@pytest.mark.parametrize("option", ["--config", "--check"])
def test_an_agent_is_not_started_from_the_working_folder(option: str, tmp_path: Path) -> None:
    """By the short way of trustfed.cli.start, and by the command."""
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "__init__.py").touch()
    (tmp_path / "agent" / "__main__.py").write_text("print('planted')")
    code = "import sys; sys.path.remove(''); from trustfed.cli.start import main; sys.exit(main())"
    options = ["--config", "none.toml", *(["--check"] if option == "--check" else [])]
    done = subprocess.run(
        [sys.executable, "-c", code, "agent", "serve", *options],
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "planted" not in done.stdout and done.returncode == 4 and "none.toml" in done.stderr
