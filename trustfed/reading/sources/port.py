"""The source port: a place that holds a published store. It is not believed: TUF decides about every byte that it gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from trustfed.errors import Denied, NotFound

# Two segments at most, none hidden: a hash or a role name out of metadata becomes a path and a URL as it stands.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,350}(?:/[A-Za-z0-9_][A-Za-z0-9_.-]{0,350})?", re.ASCII)


class Absent(NotFound):
    """The store has no such file. Of a root version that says: there is no newer one."""


class Refused(Denied):
    """The store does not give us this file; S3 says that also of a missing one to who may not list the bucket."""


class Source(Protocol):
    """Gives files by the names that they were published under."""

    def parts(self, name: str, limit: int) -> Iterator[bytes]:
        """The file, part by part, at most `limit` bytes.

        Raises Absent, Refused, and for what no other file would mend NotFound, Denied, Invalid (too large, misconfigured),
        Unavailable (away, slow); each names the store and what to do.
        """
        ...

    def close(self) -> None:
        """No file is read any more."""
        ...


def check_name(name: str) -> str:
    """`name`, if it stays within the store. Raises Denied: a name comes out of signed metadata, so somebody meant it."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise Denied(f"the store's metadata names a file {name[:120]!a}, which is outside of any store")
    return name
