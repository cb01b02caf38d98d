"""The rules of the house that no linter knows: import order, names, sizes, docstrings, and no key in the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import PACKAGES, ROOT, files, parsed, sources, text

MOST_LINES = 400
MOST_LINES_OF_A_TEST = 650
FORBIDDEN_NAMES = {"utils", "util", "common", "manager", "helper", "helpers", "base", "misc"}
KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{20}")
KEY_SUFFIXES = {".key", ".p8", ".p12", ".pfx", ".jks"}


def test_imports_go_down_only() -> None:
    """The contracts of [tool.importlinter] hold."""
    found = _lint_imports(ROOT)
    assert found.returncode == 0, found.stdout


def test_the_import_check_can_fail(tmp_path: Path) -> None:
    """An import that goes up is found: the same contracts, over a copy of the tree with one line too many."""
    for package in PACKAGES:
        for path in sources(package):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text(path))
    for path in files():
        if path.name.endswith("_pb2.py"):
            (tmp_path / path).write_text((ROOT / path).read_text())
    (tmp_path / "pyproject.toml").write_text(text(Path("pyproject.toml")))
    spiffe = tmp_path / "trustfed" / "spiffe" / "ids.py"
    spiffe.write_text(spiffe.read_text() + "\nimport trustfed.runtime.logs\n")
    found = _lint_imports(tmp_path)
    assert found.returncode != 0
    assert "trustfed.spiffe.ids -> trustfed.runtime.logs" in found.stdout


@pytest.mark.parametrize("path", [path for path in sources(*PACKAGES, "bench") if text(path).strip()], ids=str)
def test_a_module_says_what_it_promises(path: Path) -> None:
    """Every module that is not empty begins with a docstring of ours, and no licence stands in its place."""
    docstring = ast.get_docstring(parsed(path))
    assert docstring, f"{path} has no docstring"
    first = docstring.splitlines()[0]
    assert not re.search(r"copyright|licen[cs]ed? under|SPDX", first, re.IGNORECASE), f"{path}: {first}"


def test_no_module_is_named_after_nothing() -> None:
    """utils, common, manager, helper, base say nothing about what is in them."""
    for path in sources():
        assert not FORBIDDEN_NAMES.intersection(path.with_suffix("").parts), path


def test_no_module_is_too_long_to_read() -> None:
    """At 300 lines a module has a second idea; above 400 it is refused. Tests may be longer."""
    lengths = {path: len(text(path).splitlines()) for path in sources()}
    too_long = {
        str(path): lines
        for path, lines in lengths.items()
        if lines > (MOST_LINES_OF_A_TEST if path.parts[0] == "tests" else MOST_LINES)
    }
    assert not too_long


def test_every_folder_of_tests_has_tests() -> None:
    """A folder that lost its tests would pass for ever."""
    folders = {path.parent for path in sources("tests") if path.parent.parts[1:2] in {("unit",), ("contract",)}}
    for folder in sorted(folders | {Path("tests/system"), Path("tests/interop"), Path("tests/architecture")}):
        found = [path for path in sources("tests") if path.parent == folder and path.name.startswith("test_")]
        tests = [name for path in found for name in _tests_in(parsed(path))]
        assert tests, f"{folder} has no tests"


def test_no_private_key_is_in_the_tree() -> None:
    """Keys of the vectors are made to be known; every other key is made when it is needed."""
    for path in files():
        if path.parts[:2] == ("tests", "vectors"):
            continue
        assert path.suffix not in KEY_SUFFIXES, path
        assert not KEY.search((ROOT / path).read_bytes()), f"{path} holds a private key"


def test_the_key_check_can_fail() -> None:
    """The pattern finds what OpenSSL writes."""
    made = subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519"], check=True, capture_output=True).stdout
    assert KEY.search(made)


def test_every_install_is_pinned_by_hash() -> None:
    """requirements/*.txt: each distribution with one exact version and at least one SHA-256, and nothing from elsewhere."""
    for path in (path for path in files() if path.parent == Path("requirements")):
        blocks = re.split(r"\n(?=[A-Za-z0-9])", text(path).replace("\\\n", " ").strip())
        assert blocks and blocks[0]
        for block in blocks:
            assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,-]+\])?==[^\s;]+", block), f"{path}: {block[:80]}"
            assert "--hash=sha256:" in block, f"{path}: {block[:80]}"
            assert "://" not in block, f"{path}: {block[:80]}"


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).parent / "lint-imports"),
        "--no-cache",
        "--config",
        str(folder / "pyproject.toml"),
    ]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def _tests_in(module: ast.Module) -> list[str]:
    return [
        node.name
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
