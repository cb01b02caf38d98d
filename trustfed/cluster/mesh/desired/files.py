"""The files of a directory of desired state, read within bounds. All functions block.

`*.yaml` and `*.yml`, in subfolders too, in the order of their paths; names that begin with a dot are passed over (Git's
folder, and how Kubernetes swaps a mounted ConfigMap). A symbolic link may lead to another place in the directory, as in
such a mount, and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trustfed.errors import Denied, Invalid, NotFound, Unavailable
from trustfed.runtime.files import read_bounded
from trustfed.spiffe.ids import shown

SUFFIXES = (".yaml", ".yml")
MAX_FILES = 1_000
MAX_FILE_BYTES = 1 << 20
MAX_BYTES = 4 << 20
MAX_ENTRIES = 20_000  # names looked at, whatever they are
MAX_DEPTH = 8  # folders in folders
MAX_PATH = 1_024


@dataclass(frozen=True)
class File:
    """One file: its path below the directory, and what it says."""

    path: str
    text: str


def read_directory(root: Path) -> tuple[File, ...]:
    """All files. Raises NotFound, Denied (a link out), Invalid (no file, too many or too large, not UTF-8), Unavailable."""
    found, size = [], 0
    for path, real in _walk(root):
        data = read_bounded(real, MAX_FILE_BYTES)
        size += len(data)
        if size > MAX_BYTES:
            raise Invalid(f"the files of {root} are larger than {MAX_BYTES >> 20} MiB together")
        try:
            found.append(File(path, data.decode("utf-8")))
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise Invalid(f"{path}:{line}: not UTF-8 text") from None
    if not found:
        # An unmounted volume looks like this: whoever wants nothing at all leaves one file without documents.
        raise Invalid(
            f"{root} has no .yaml file", hint="is it mounted? For no mesh at all leave an empty none.yaml there"
        )
    return tuple(found)


def check_path(path: str) -> str:
    """The path itself, which errors will show. Raises Invalid."""
    if not 1 <= len(path) <= MAX_PATH or not path.isprintable():
        raise Invalid(f"the path {shown(path)} is no name for a file here", hint=f"{MAX_PATH} printable characters")
    return path


def digest(files: Sequence[File]) -> str:
    """SHA-256, in hex, of what the files say and of their names: by times and sizes alone a quick change is missed."""
    hashed = hashlib.sha256()
    for file in files:
        for text in (file.path, file.text):
            data = text.encode()
            hashed.update(b"%d:" % len(data) + data)
    return hashed.hexdigest()


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """(path below the root, the real file) of each, in order."""
    try:
        home = root.resolve(strict=True)
        if not home.is_dir():
            raise Invalid(f"{root} is not a directory")
    except (OSError, RuntimeError):
        raise NotFound(
            f"there is no directory {root}", hint="it holds the YAML documents of the desired state"
        ) from None
    seen, found = 0, []
    waiting = [(home, "", 0)]
    while waiting:
        folder, prefix, depth = waiting.pop()
        try:
            names = sorted(entry.name for entry in os.scandir(folder))
        except OSError as error:
            raise Unavailable(f"{folder} cannot be read: {error.strerror}") from None
        seen += len(names)
        if seen > MAX_ENTRIES:
            raise Invalid(f"{root} holds more than {MAX_ENTRIES} names", hint="is it the right directory?")
        for name in names:
            if name.startswith("."):
                continue
            path = f"{prefix}{name}"
            kind, real = _look(folder / name, path, home)
            if kind == "folder":
                if depth >= MAX_DEPTH:
                    raise Invalid(f"{shown(path)}: folders are nested deeper than {MAX_DEPTH}")
                waiting.append((folder / name, f"{path}/", depth + 1))
            elif name.endswith(SUFFIXES):
                found.append((check_path(path), real))
    if len(found) > MAX_FILES:
        raise Invalid(f"{root} holds {len(found)} YAML files", hint=f"at most {MAX_FILES}")
    yield from sorted(found)


def _look(at: Path, path: str, home: Path) -> tuple[str, Path]:
    """What one name is: a folder, or a file and where it really lies. Links to folders are not followed."""
    try:
        if not at.is_symlink():
            return ("folder" if stat.S_ISDIR(at.lstat().st_mode) else "file"), at
        real = at.resolve(strict=True)
    except (OSError, RuntimeError):
        raise Unavailable(
            f"{shown(path)} leads nowhere", hint="a broken link, or the directory is being changed"
        ) from None
    if not real.is_relative_to(home):
        raise Denied(f"{shown(path)} is a link out of the directory", hint="put the file itself there")
    if real.is_dir():
        raise Denied(f"{shown(path)} is a link to a folder", hint="put the folder itself there")
    return "file", real
