"""One process per data directory, and nobody else reads what is in it.

The lock is flock(2) on the file `lock`, which also tells the holder's pid. It dies with the process, kill -9 included.
A forked child would inherit and keep it, so children let go of it at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import weakref
from pathlib import Path

from trustfed.errors import Conflict, Denied, Invalid, Unavailable

_held: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


class DirectoryLock:
    """Holds `directory` for this process until `release`; the directory is 0700, made if it is missing."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = -1
        try:
            _prepare(directory)
            descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Unavailable(
                f"data directory {directory} cannot be used: {error.strerror}",
                hint="it must be a directory on a local disk that this user may write to",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise Conflict(
                f"data directory {directory} is in use by process {holder or '(unknown)'}",
                hint="stop that process, or give this one a directory of its own",
            ) from None
        self._descriptor = descriptor
        _held.add(self)
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only the pid in it is not fresh
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let the next process in; twice is fine."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.forget()

    def forget(self) -> None:
        """Close this process's handle without unlocking: in a forked child the parent goes on holding the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


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


def _prepare(directory: Path) -> None:
    for missing in [path for path in (*reversed(directory.parents), directory) if not path.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)  # one by one: mkdir(parents=True) would leave parents to the umask
        sync_directory(missing.parent)
    status = directory.stat()
    if status.st_uid == os.geteuid():
        if stat.S_IMODE(status.st_mode) & 0o077:
            directory.chmod(0o700)
    elif status.st_mode & stat.S_IWOTH:
        raise Denied(f"data directory {directory} may be written by everyone", hint=f"chmod o-w {directory}")


def _in_child() -> None:
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_in_child)
