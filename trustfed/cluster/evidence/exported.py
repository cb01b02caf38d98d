"""Checkpoints in a folder that an auditor holds: one file a day, complete or not there, and never written over."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from trustfed.errors import Conflict, Unavailable

MAX_A_DAY = 100


def export(directory: Path, domain: str, day: str, data: bytes, *, again: bool = False) -> str:
    """Write DOMAIN-DAY.checkpoint, or with `again` DOMAIN-DAY.N.checkpoint beside it; gives the path. Blocks.

    Without `again` a day that is there already stays as it is. Raises Unavailable when the folder cannot be written,
    Conflict after 100 in one day.
    """
    names = [f"{domain}-{day}.checkpoint", *(f"{domain}-{day}.{n}.checkpoint" for n in range(2, MAX_A_DAY + 1))]
    temporary = directory / f".{domain}-{day}.{os.getpid()}.partial"
    try:
        if not again and (directory / names[0]).exists():
            return str(directory / names[0])
        _write(temporary, data)
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, directory / name)  # unlike a rename it never replaces
                _sync(directory)
                return str(directory / name)
    except OSError as error:
        raise Unavailable(
            f"the checkpoint cannot be written to {directory}: {error.strerror}",
            hint="evidence.witness_directory must be there, and this user must be able to make files in it",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    raise Conflict(f"{directory} has {MAX_A_DAY} checkpoints of {day} already")


def _write(path: Path, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
