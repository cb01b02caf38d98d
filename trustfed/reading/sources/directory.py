"""A store in a folder: a mirror on disk, a mounted volume, or what `trustfed hub` publishes into."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from trustfed.errors import Invalid, NotFound, Unavailable
from trustfed.reading.sources.port import Absent, Refused, check_name
from trustfed.runtime.bounded_http import endless

_PART = 65_536


class DirectorySource:
    """Regular files only: a symlink or a pipe in the place of a file is refused."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise NotFound(f"{folder} is not a folder", hint="name the folder that the hub publishes into")
        self._folder = folder

    def parts(self, name: str, limit: int) -> Iterator[bytes]:
        """See Source."""
        path = self._folder / check_name(name)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
            with os.fdopen(file, "rb", buffering=0) as stream:
                facts = os.fstat(file)
                if not stat.S_ISREG(facts.st_mode):
                    raise Invalid(f"{path} is not a regular file")
                count = 0
                while part := stream.read(_PART):
                    count += len(part)
                    if count > limit:
                        raise endless(str(path), limit)
                    yield part
        except FileNotFoundError:
            raise Absent(f"{path} does not exist", hint="has the hub published a TUF repository there?") from None
        except PermissionError:
            raise Refused(f"{path} cannot be read: permission denied") from None
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.ELOOP):
                raise Invalid(f"{path} is not a regular file") from None
            raise Unavailable(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None

    def close(self) -> None:
        """See Source."""
