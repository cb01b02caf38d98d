"""A folder as a target, for any web server to serve: files 0644 under folders 0755, each replaced whole and synced.

Trust: whoever can write to the folder decides what plain readers see. Two publishers on one folder take turns by a lock
file, which nobody but their own user can open, so that none overwrites what it has not seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from bundle_publisher.targets.port import MAX_DOCUMENT, Document, Stored, check_document, check_name
from bundle_publisher.targets.threads import Threads
from trustfed.errors import Conflict, Denied, NotFound, Unavailable
from trustfed.runtime.files import read_bounded, write_atomic

AT_ONCE = 8
_LOCK = ".publisher.lock"
_TRIES, _PAUSE = 250, 0.02
"""A file is written in milliseconds; after five seconds the publisher tries again later."""
_Result = TypeVar("_Result")


class DirectoryTarget:
    """Documents as files below `directory`, which is made when it is missing.

    The disk is used in threads of its own: a network file system that hangs takes nobody else's.
    """

    def __init__(self, directory: Path, pause: Callable[[float], None] = time.sleep) -> None:
        """`pause` waits between two tries for the lock, in a thread."""
        self._directory, self._pause = directory, pause
        self._threads = Threads(AT_ONCE, "directory")

    async def read(self, name: str) -> Stored | None:
        """See Target."""
        check_name(name)
        return await self._threads.run(lambda: self._on_disk(lambda: self._read(name)))

    async def write(self, document: Document, if_tag: str | None) -> str:
        """See Target."""
        check_document(document)
        return await self._threads.run(lambda: self._on_disk(lambda: self._write(document, if_tag)))

    async def remove(self, name: str, if_tag: str) -> None:
        """See Target."""
        check_name(name)
        await self._threads.run(lambda: self._on_disk(lambda: self._remove(name, if_tag)))

    def _read(self, name: str) -> Stored | None:
        try:
            data = read_bounded(self._directory / name, MAX_DOCUMENT)
        except NotFound:
            return None
        return Stored(data, _tag(data))

    def _write(self, document: Document, if_tag: str | None) -> str:
        path = self._directory / document.name
        _public_folder(self._directory)
        _public_folder(path.parent)
        with self._alone():
            self._expect(document.name, if_tag)
            write_atomic(path, document.data, mode=0o644)
        return _tag(document.data)

    def _remove(self, name: str, if_tag: str) -> None:
        if self._read(name) is None:
            return
        with self._alone():
            held = self._read(name)
            if held is None:
                return
            self._expect(name, if_tag)
            path = self._directory / name
            path.unlink(missing_ok=True)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _expect(self, name: str, if_tag: str | None) -> None:
        held = self._read(name)
        if (held.tag if held else None) != if_tag:
            raise Conflict(f"{name} was changed by another publisher")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        # Whoever can open it can hold it, for reading too; and one who holds it must not hold up a thread for ever.
        lock = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                os.fchmod(lock, 0o600)
            self._take(lock)
            yield
        finally:
            os.close(lock)

    def _take(self, lock: int) -> None:
        for _ in range(_TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._pause(_PAUSE)
            else:
                return
        raise Unavailable(f"somebody else holds {self._directory / _LOCK}", hint="who else publishes there?")

    def _on_disk(self, work: Callable[[], _Result]) -> _Result:
        try:
            return work()
        except PermissionError:
            raise Denied(f"{self._directory} may not be written", hint="check its owner and mode") from None
        except OSError as error:
            raise Unavailable(f"{self._directory} cannot be used: {error.strerror or error}") from None


def _public_folder(path: Path) -> None:
    """Make a folder that everybody may read, whatever the umask; one that is there keeps its mode."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
