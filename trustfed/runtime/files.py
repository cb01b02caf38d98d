"""Files that survive a crash and leak nothing: the old content or the new one, private to us. All functions block.

Errors of the disk (full, read-only, broken) become Unavailable with a hint; other people's files and folders Denied.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from trustfed.errors import Conflict, Denied, Invalid, NotFound, Unavailable

_HINTS = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the disk quota is used up: make room",
    errno.EROFS: "the file system is read-only: mount it writable",
    errno.EIO: "the disk reports a fault: check it",
    errno.EMFILE: "too many open files: raise the limit",
}


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """`path` holds `data` with exactly `mode`, durably, or is as it was. A symlink there is replaced, not followed."""
    with _disk(path, "write"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            replace_in(folder, path.name, data, mode)
            os.fsync(folder)
        finally:
            os.close(folder)


def replace_in(folder: int, name: str, data: bytes, mode: int) -> None:
    """The same within an open folder, whose own sync is the caller's; the disk's errors stay OSError.

    A process that is killed meanwhile leaves `.NAME.*.tmp` there.
    """
    temporary = f".{name[:200]}.{secrets.token_hex(8)}.tmp"
    try:
        _write_new(temporary, data, mode, folder)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes`. NotFound, Denied, Invalid (size, kind), Unavailable."""
    return _read(path, max_bytes, private=False)


def read_private(path: Path, max_bytes: int) -> bytes:
    """The same for a secret: Invalid with hint chmod when group or world may touch it. Symlinks are followed."""
    return _read(path, max_bytes, private=True)


def private_directory(path: Path) -> Path:
    """`path` as a folder 0700 that is ours, made if missing. Denied for a symlink, another owner, or open modes."""
    with _disk(path, "use"):
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
        facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise Denied(f"{path} is not a folder", hint="a symlink is not followed: name the folder itself")
    if facts.st_uid != os.geteuid():
        raise Denied(f"{path} belongs to user {facts.st_uid}, not to us ({os.geteuid()})", hint="choose another folder")
    if stat.S_IMODE(facts.st_mode) & 0o077:
        raise Denied(f"{path} is open to others ({stat.S_IMODE(facts.st_mode):04o})", hint=f"chmod 700 {path}")
    return path


class DirectoryLock:
    """One process per folder: held from construction to `release()` (a context manager too), or until the process ends.

    Raises Conflict naming the process that holds it. It is flock(2), so it dies with its process, kill -9 included; a forked
    child, which would inherit and keep it, lets go of it at once.
    """

    def __init__(self, directory: Path) -> None:
        self._file = -1
        path = directory / "lock"
        with _disk(path, "lock"):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(file, 20, 0).decode("ascii", "replace").strip()
            os.close(file)
            raise Conflict(
                f"{directory} is in use by process {holder if holder.isdigit() else 'unknown'}",
                hint="stop that process, or give this one a folder of its own",
            ) from None
        self._file = file
        _held.add(self)
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only the number in it is not fresh
            os.ftruncate(file, 0)
            os.pwrite(file, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let another process have it. The file stays: removing it would let two processes lock two files."""
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # whoever else has this handle by now
        self.forget()

    def forget(self) -> None:
        """Close this process's handle and no more: in a forked child, whose parent goes on holding the lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_held: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _in_child() -> None:
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_in_child)


def _write_new(name: str, data: bytes, mode: int, folder: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        # Whatever the umask: exactly `mode`, and not wider than 0600 before the content is complete.
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fchmod(file, mode)
        os.fsync(file)
    finally:
        os.close(file)


def _read(path: Path, max_bytes: int, *, private: bool) -> bytes:
    with _disk(path, "read"):
        # O_NONBLOCK: opening a pipe that nobody writes to must not hang.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(file, "rb", buffering=0) as stream:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode):
                raise Invalid(f"{path} is not a regular file")
            if private and stat.S_IMODE(facts.st_mode) & 0o077:
                raise Invalid(
                    f"{path} holds a secret but is open to others ({stat.S_IMODE(facts.st_mode):04o})",
                    hint=f"chmod 600 {path}",
                )
            data = bytearray()
            while len(data) <= max_bytes and (part := stream.read(max_bytes + 1 - len(data))):
                data += part
    if len(data) > max_bytes:
        raise Invalid(f"{path} has more than {max_bytes} bytes")
    return bytes(data)


@contextlib.contextmanager
def _disk(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        where = "its folder does not exist" if verb == "write" else "it does not exist"
        raise NotFound(f"cannot {verb} {path}: {where}") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP):
            raise Denied(f"cannot {verb} {path}: {reason}", hint="check its owner and permissions") from error
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL):
            raise Invalid(f"cannot {verb} {path}: {reason}") from error
        raise Unavailable(f"cannot {verb} {path}: {reason}", hint=_HINTS.get(error.errno or 0, "")) from error
