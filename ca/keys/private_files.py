"""Private files: 0600 in a 0700 directory of ours, written so that a crash leaves the old state or the new one.

Trust: whoever can act as our uid, or as root, can do all this file guards against. Everyone else can neither read nor
replace nor redirect what we write, whatever the umask is. All names are opened relative to a directory descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from trustfed.errors import Conflict, Denied, Invalid, NotFound, Unavailable

_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW


class PrivateDirectory:
    """A directory 0700 owned by our uid, made on first use.

    Every method raises Denied when the directory or a file in it is open to others, and Unavailable when the operating
    system fails us (full disk, read-only, I/O error): then nothing was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str, *, limit: int) -> bytes:
        """Return a file of at most `limit` bytes. Raises NotFound, Denied, Invalid (too large)."""
        with self._opened() as directory, _explained(f"read {self.path / name}"):
            try:
                handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _OPEN, dir_fd=directory)
            except FileNotFoundError:
                raise NotFound(f"{self.path / name} does not exist") from None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise Denied(f"{self.path / name} is a symbolic link", hint="put the file itself there") from None
                raise
            try:
                _refuse_unless_ours(os.fstat(handle), self.path / name)
                return _read_bounded(handle, limit, self.path / name)
            finally:
                os.close(handle)

    def create(self, name: str, content: bytes) -> None:
        """Write a new file, durable on return. Raises Conflict when the name exists; no reader sees half a file."""
        with self._opened() as directory, _explained(f"write {self.path / name}"):
            # The lock makes "does not exist" and "rename" one step among our processes; it ends with the descriptor.
            fcntl.flock(directory, fcntl.LOCK_EX)
            if _exists(name, directory):
                raise Conflict(f"{self.path / name} exists already", hint="choose another name, or destroy it first")
            temporary = f".{name}.new"
            renamed = False
            # What lies at the temporary name was left by a crash, for we hold the lock: drop it, never follow it.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            try:
                handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=directory)
                try:
                    os.fchmod(handle, 0o600)  # a umask of 0777 would have left us without access
                    _write_all(handle, content)
                    os.fsync(handle)
                finally:
                    os.close(handle)
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                renamed = True
                os.fsync(directory)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name if renamed else temporary, dir_fd=directory)
                raise

    def remove(self, name: str) -> None:
        """Remove a file, durable on return; one that does not exist is no error."""
        with self._opened() as directory, _explained(f"remove {self.path / name}"):
            fcntl.flock(directory, fcntl.LOCK_EX)
            for each in (f".{name}.new", name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(each, dir_fd=directory)
            os.fsync(directory)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        with _explained(f"open the directory {self.path}"):
            directory = self._open()
        try:
            yield directory
        finally:
            with contextlib.suppress(OSError):  # what was to be durable was synced before
                os.close(directory)

    def _open(self) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | _OPEN
        try:
            directory = os.open(self.path, flags)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            directory = os.open(self.path, flags)
            with contextlib.suppress(OSError):
                os.fchmod(directory, 0o700)  # whatever the umask took away
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise Denied(f"{self.path} is not a directory of its own", hint="name a directory, no link") from None
            raise
        try:
            found = os.fstat(directory)
            if found.st_uid != os.geteuid():
                raise Denied(
                    f"the directory {self.path} belongs to uid {found.st_uid}, not to us (uid {os.geteuid()})",
                    hint="run as the owner, or choose another directory",
                )
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise Denied(f"the directory {self.path} is open to other users", hint=f"chmod 700 {self.path}")
        except BaseException:
            os.close(directory)
            raise
        return directory


def read_secret(path: Path, what: str, *, limit: int = 4096) -> str:
    """Return the text of a secret's file without its line end; `what` names it in errors ("passphrase file").

    Links are followed, because Kubernetes mounts secrets through them; what they lead to must be a regular file of ours
    or root's that no group and no other user can touch. Raises Denied, Invalid (empty, binary, too large), Unavailable.
    """
    with _explained(f"read the {what} {path}"):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise Denied(f"the {what} {path} is not a regular file", hint="name a file that holds only the secret")
            if found.st_uid not in (os.geteuid(), 0):
                raise Denied(f"the {what} {path} belongs to uid {found.st_uid}", hint="it must belong to us or to root")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise Denied(
                    f"the {what} {path} can be touched by its group or by others",
                    hint=f"chmod 600 {path} (in Kubernetes: defaultMode: 0400)",
                )
            content = _read_bounded(handle, limit, path)
        finally:
            os.close(handle)
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise Invalid(f"the {what} {path} is empty or not one line of text", hint="write the secret alone into it")
    return text


def _refuse_unless_ours(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Denied(f"{path} is not a regular file", hint="remove it")
    if found.st_uid != os.geteuid():
        raise Denied(f"{path} belongs to uid {found.st_uid}, not to us", hint="find out who put it there")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise Denied(f"{path} can be touched by its group or by others", hint=f"chmod 600 {path}, if nobody else did")
    if found.st_nlink != 1:
        raise Denied(f"{path} has another name (hard link)", hint="find the other name, and remove it")


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _read_bounded(handle: int, limit: int, path: Path) -> bytes:
    content = b""
    while chunk := os.read(handle, limit + 1 - len(content)):
        content += chunk
        if len(content) > limit:
            raise Invalid(f"{path} is larger than {limit} bytes", hint="it is not what we wrote; restore it")
    return content


def _write_all(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]


@contextlib.contextmanager
def _explained(intent: str) -> Iterator[None]:
    """Turn what the operating system says into Unavailable, with the path and a hint."""
    try:
        yield
    except OSError as error:
        hint = {
            errno.ENOSPC: "free some space on that disk",
            errno.EDQUOT: "raise the quota",
            errno.EFBIG: "raise the file size limit (ulimit -f)",
            errno.EROFS: "mount it writable",
            errno.EIO: "the disk fails: look at the kernel log",
            errno.EACCES: "check owner and mode of the directories above",
            errno.EPERM: "check owner and mode of the directories above",
            errno.ENOENT: "create it, or correct the path in the configuration",
        }.get(error.errno or 0, "look at the disk and its mount")
        raise Unavailable(f"cannot {intent}: {error.strerror}", hint=hint) from None
