"""The Unix socket's file: made safely, taken over only from the dead, removed only by its owner."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from trustfed.errors import Conflict, Invalid, Unavailable

_LONGEST = 107
_BACKLOG = 4096


class SocketFile:
    """A listening Unix socket at a path, guarded by a lock on `<path>.lock` for as long as it lives."""

    def __init__(self, path: Path, listening: socket.socket, lock: int, identity: tuple[int, int]) -> None:
        self.path = path
        self.socket = listening
        self._lock = lock
        self._identity = identity

    def remove(self) -> None:
        """Remove the file if it is still ours, and let the lock go."""
        with suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()
        os.close(self._lock)


def listen(path: Path, mode: int) -> SocketFile:
    """Listen at `path` with permission bits `mode`.

    1. The path fits a socket address; its directory exists and others cannot write to it (a sticky bit does not help:
       whoever may create there can be first).
    2. A lock makes two servers on one path impossible; who holds it has no rival in the steps below.
    3. What stands there must be a socket that nobody listens on.
    4. The socket is bound under a name of its own, given its mode, and renamed: nobody ever sees it with another mode.

    Raises Invalid (1, or something else than a socket stands there), Conflict (a live server), Unavailable (the
    system refuses).
    """
    if len(os.fsencode(path)) + 4 > _LONGEST:  # 1
        raise Invalid(f"the socket path {path} is too long", hint=f"{_LONGEST - 4} bytes at most")
    try:
        folder = path.parent.stat()
    except OSError as error:
        raise Unavailable(f"the socket's directory {path.parent}: {error.strerror}", hint="create it") from error
    if folder.st_mode & stat.S_IWOTH:
        raise Invalid(f"everybody may write to {path.parent}, the directory of the socket", hint="chmod o-w")
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unavailable(f"the lock {path}.lock: {error.strerror}") from error
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # 2
        except OSError as error:
            raise Conflict(f"another server serves {path}", hint="stop it first") from error
        _only_the_dead(path)  # 3
        fresh = path.with_name(path.name + ".new")  # 4
        fresh.unlink(missing_ok=True)
        listening.bind(str(fresh))
        fresh.chmod(mode)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        fresh.rename(path)
        made = path.lstat()
    except OSError as error:
        listening.close()
        os.close(lock)
        raise Unavailable(f"cannot listen at {path}: {error.strerror}") from error
    except BaseException:
        listening.close()
        os.close(lock)
        raise
    return SocketFile(path, listening, lock, (made.st_dev, made.st_ino))


def _only_the_dead(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise Invalid(f"{path} exists and is not a socket", hint="choose another path or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:
            pass  # a full backlog is a sign of life
    raise Conflict(f"another server listens at {path}", hint="stop it first")
