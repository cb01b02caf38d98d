"""What is in the tree: the files git would keep, read once for every test of this folder."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("trustfed", "ca", "bundle_publisher", "agent")


@cache
def files() -> tuple[Path, ...]:
    """Every file that is tracked, or would be: relative to ROOT, sorted."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True).stdout.decode().split("\0")
    return tuple(sorted(path for name in set(listed) if name and (ROOT / (path := Path(name))).is_file()))


def sources(*folders: str) -> list[Path]:
    """The Python files below these folders (all of them without any), generated ones left out."""
    return [
        path
        for path in files()
        if path.suffix == ".py" and (not folders or path.parts[0] in folders) and not path.stem.endswith("_pb2")
    ]


@cache
def text(path: Path) -> str:
    """The content of a file of the tree."""
    return (ROOT / path).read_text()


@cache
def parsed(path: Path) -> ast.Module:
    """A Python file of the tree."""
    return ast.parse(text(path), str(path))


@cache
def documents() -> tuple[Path, ...]:
    """Every Markdown document."""
    return tuple(path for path in files() if path.suffix == ".md")
