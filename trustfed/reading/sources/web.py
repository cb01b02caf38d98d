"""A store behind a web server or a CDN. No redirect is followed; the server is known by host name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from trustfed.errors import Unavailable
from trustfed.reading.sources.port import Absent, Refused, check_name
from trustfed.runtime.bounded_http import Connection, Limits, Origin, tls_context


class WebSource:
    """GET below one URL, over one connection that is kept."""

    def __init__(self, url: str, ca_file: str, limits: Limits) -> None:
        self._origin, path = Origin.parse(url)
        self._path = path.rstrip("/") + "/"
        self._open = ExitStack()
        context = tls_context(ca_file) if self._origin.scheme == "https" else None
        self._connection = self._open.enter_context(Connection(self._origin, context, limits))

    def parts(self, name: str, limit: int) -> Iterator[bytes]:
        """See Source."""
        target = self._path + check_name(name)
        with self._connection.request("GET", target, {"Accept": "*/*", "User-Agent": "trustfed"}) as answer:
            if answer.status == 200:
                yield from answer.parts(limit)
                return
            where = f"{self._origin}{target}"
            if answer.status in (404, 410):
                raise Absent(f"{where} does not exist", hint="is this where the hub publishes?")
            if answer.status in (401, 403):
                raise Refused(f"{where} is refused to us (HTTP {answer.status})", hint="ask who runs that server")
            raise Unavailable(f"{where} answered with HTTP status {answer.status}", hint="it is tried again")

    def close(self) -> None:
        """See Source."""
        self._open.close()
