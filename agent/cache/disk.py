"""One private folder, as the few steps that crash-safe writing is made of; its driver follows no link.

Trust: who acts as our user, or root, can do all that this guards against. Everyone else can neither read nor replace nor
redirect what is written here, whatever the umask is.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from agent.cache.refusal import Refused
from trustfed.errors import Conflict, Denied, NotFound, TrustfedError, Unavailable

MAX_NAMES = 1000
_HINTS = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the disk quota is used up: make room",
    errno.EROFS: "the file system is read-only: mount it writable",
    errno.EIO: "the disk reports a fault: check it",
    errno.EMFILE: "too many open files: raise the limit",
    errno.EACCES: "check owner and permissions",
    errno.EPERM: "check owner and permissions",
}


class Disk(Protocol):
    """The files of one folder. Writing raises NotFound (no folder), Denied, Unavailable; then nothing was changed.

    A new name, and a changed one, outlasts a loss of power only after `sync`.
    """

    def read(self, name: str, limit: int) -> bytes:
        """A file of at most `limit` bytes. Raises NotFound, Refused (link, kind, owner, modes, size), Unavailable."""
        ...

    def write_new(self, name: str, data: bytes) -> None:
        """A new file 0600 whose content is durable; its name is not yet. Raises Conflict when the name is taken."""
        ...

    def rename(self, name: str, target: str) -> None:
        """Put a file in another's place, in one step."""
        ...

    def remove(self, name: str) -> None:
        """Remove a name; one that is not there is no error. A link is removed, not what it leads to; a folder whole."""
        ...

    def sync(self) -> None:
        """What was renamed, made and removed by now is durable."""
        ...

    def names(self) -> list[str]:
        """All names. Raises Refused for more than MAX_NAMES."""
        ...

    def make(self) -> None:
        """The folder exists, durably, private to us. Raises Refused when something else is in its place."""
        ...


class FolderDisk:
    """A folder 0700 of the file system. It is opened anew for each step, and never through a link."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str, limit: int) -> bytes:
        """A file of at most `limit` bytes, if it is a regular one, ours, and closed to others."""
        with self._opened() as folder, self._explained("read", name):
            try:
                # O_NONBLOCK: opening a pipe that nobody writes to must not hang.
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise Refused("symlink", f"{self.path / name} is a symbolic link", "remove it") from None
                raise
            try:
                facts = os.fstat(file)
                if not stat.S_ISREG(facts.st_mode):
                    raise Refused("not_a_file", f"{self.path / name} is not a regular file", "remove it")
                self._check(facts, self.path / name)
                data = bytearray()
                # One byte more than there may be shows that there is more.
                while facts.st_size <= limit and (part := os.read(file, limit + 1 - len(data))):
                    data += part
            finally:
                os.close(file)
        if max(len(data), facts.st_size) > limit:
            raise Refused("too_large", f"{self.path / name} has more than {limit} bytes")
        return bytes(data)

    def write_new(self, name: str, data: bytes) -> None:
        """A new file, exactly 0600; what cannot be written whole is removed again."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._opened() as folder, self._explained("write", name):
            file = os.open(name, flags, 0o600, dir_fd=folder)
            try:
                os.fchmod(file, 0o600)  # a umask of 0777 would have left us without access
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(file, rest) :]
                os.fsync(file)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                raise
            finally:
                os.close(file)

    def rename(self, name: str, target: str) -> None:
        """Put a file in another's place, in one step."""
        with self._opened() as folder, self._explained("rename", name):
            os.rename(name, target, src_dir_fd=folder, dst_dir_fd=folder)

    def remove(self, name: str) -> None:
        """Remove a name; one that is not there is no error."""
        with self._opened() as folder, self._explained("remove", name), contextlib.suppress(FileNotFoundError):
            try:
                os.unlink(name, dir_fd=folder)
            except IsADirectoryError:  # not ours, but in our way
                shutil.rmtree(name, dir_fd=folder)

    def sync(self) -> None:
        """What was renamed, made and removed by now is durable."""
        with self._opened() as folder, self._explained("sync", ""):
            os.fsync(folder)

    def names(self) -> list[str]:
        """All names."""
        with self._opened() as folder, self._explained("list", ""), os.scandir(folder) as entries:
            found = [entry.name for entry in itertools.islice(entries, MAX_NAMES + 1)]
        if len(found) > MAX_NAMES:
            raise Refused("too_large", f"{self.path} holds more than {MAX_NAMES} files", "empty it")
        return sorted(found)

    def make(self) -> None:
        """The folder exists, durably, 0700."""
        with self._explained("make", ""):
            try:
                self.path.mkdir(mode=0o700)
            except FileExistsError:
                pass
            else:
                self.path.chmod(0o700)  # whatever the umask took away
                parent = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(parent)
                finally:
                    os.close(parent)
        with self._opened():
            pass

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        with self._explained("open", ""):
            try:
                folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except NotADirectoryError:  # Linux says so of a link too, with both flags
                if self.path.is_symlink():
                    raise Refused("symlink", f"{self.path} is a symbolic link", "name the folder itself") from None
                raise Refused("not_a_file", f"{self.path} is not a folder", "move it away") from None
        try:
            self._check(os.fstat(folder), self.path)
            yield folder
        finally:
            os.close(folder)

    def _check(self, facts: os.stat_result, path: Path) -> None:
        if facts.st_uid != os.geteuid():
            raise Refused(
                "other_owner",
                f"{path} belongs to user {facts.st_uid}, not to us ({os.geteuid()})",
                "run as its owner, or choose another folder",
            )
        modes = stat.S_IMODE(facts.st_mode)
        if modes & 0o077:
            what = "700" if stat.S_ISDIR(facts.st_mode) else "600"
            raise Refused("open_modes", f"{path} is open to others ({modes:04o})", f"chmod {what} {path}")

    @contextlib.contextmanager
    def _explained(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _error(error, f"cannot {verb} {self.path / name}") from error


def _error(error: OSError, what: str) -> TrustfedError:
    kinds: dict[int | None, type[TrustfedError]] = {
        errno.ENOENT: NotFound,
        errno.EEXIST: Conflict,
        errno.EACCES: Denied,
        errno.EPERM: Denied,
    }
    reason = (error.strerror or type(error).__name__).lower()
    return kinds.get(error.errno, Unavailable)(f"{what}: {reason}", hint=_HINTS.get(error.errno or 0, ""))
