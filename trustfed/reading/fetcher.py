"""python-tuf's door to a source: every file in memory, bounded by its own limit and by what is left of all."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient.fetcher import FetcherInterface

from trustfed.reading.sources.port import Absent, Refused, Source
from trustfed.runtime.bounded_http import endless

BASE = "store:/"
"""Stands before the names of files where python-tuf wants a URL."""


class SourceFetcher(FetcherInterface):
    """Gives files of a source. A file that is absent or refused is an HTTP 404 or 403, as python-tuf expects of roots."""

    def __init__(self, source: Source, max_bytes: int) -> None:
        self._source, self._max, self._left = source, max_bytes, max_bytes

    @contextlib.contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[io.BytesIO]:
        """The file in memory. Raises what the source raises; python-tuf passes that through."""
        yield io.BytesIO(b"".join(self._parts(url, max_length)))

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self._parts(url, self._left)

    def _parts(self, url: str, max_length: int) -> Iterator[bytes]:
        name = url.removeprefix(BASE)
        if self._left <= 0:
            raise endless("the store", self._max)
        try:
            for part in self._source.parts(name, min(max_length, self._left)):
                self._left -= len(part)
                yield part
        except Absent as error:
            raise DownloadHTTPError(error.message, 404) from error
        except Refused as error:
            raise DownloadHTTPError(error.message, 403) from error
