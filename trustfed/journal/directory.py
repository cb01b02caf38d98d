"""A data directory and the files in it: nobody else reads them, and a name that was synced stays."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from trustfed.errors import Denied, Invalid, Unavailable


def prepare(directory: Path) -> None:
    """Make `directory` exist, ours and 0700. Raises Denied if everyone may write it, Unavailable if it cannot be used."""
    try:
        _make(directory)
    except OSError as error:
        raise Unavailable(
            f"data directory {directory} cannot be used: {error.strerror}",
            hint="it must be a directory on a local disk that this user may write to",
        ) from error


def private_file(path: Path) -> None:
    """Make `path` exist with mode 0600, whatever the umask; Invalid if it is anything but a file of ours."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unavailable(f"{path} cannot be opened for writing: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Invalid(f"{path} is not a regular file")
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable: a file that was synced is lost if its name was not."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(directory: Path) -> None:
    for missing in [path for path in (*reversed(directory.parents), directory) if not path.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)  # one by one: mkdir(parents=True) would leave parents to the umask
        sync_directory(missing.parent)
    status = directory.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is no directory")
    if status.st_uid == os.geteuid():
        if stat.S_IMODE(status.st_mode) & 0o077:
            directory.chmod(0o700)
    elif status.st_mode & stat.S_IWOTH:
        raise Denied(f"data directory {directory} may be written by everyone", hint=f"chmod o-w {directory}")
