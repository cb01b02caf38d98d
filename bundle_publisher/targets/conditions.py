"""Proof that a server keeps to our conditions: one that ignores If-Match would let two publishers go backwards.

A server that does not know a condition does not say so: it takes the write. So before its first write a driver makes the
same write under a tag that nothing has, and goes on only when that is refused. A server that takes it has got what was to
be written anyway, nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bundle_publisher.targets.port import Document
from trustfed.errors import Conflict, Invalid

NO_TAG = '"00000000000000000000000000000000"'


class Conditions:
    """Knows whether the server of one target was seen to refuse a write whose condition did not hold."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._seen = False

    async def prove(self, document: Document, write: Callable[[Document, str | None], Awaitable[str]]) -> None:
        """Once in a target's life; raises Invalid when the server writes all the same, and what `write` raises."""
        if self._seen:
            return
        try:
            await write(document, NO_TAG)
        except Conflict:
            self._seen = True
            return
        raise Invalid(
            f"{self._where} ignores If-Match: two publishers could take readers back",
            hint="use a server with conditional writes (RFC 9110 §13.1.1)",
        )
