"""To whom each serial was issued: from memory for the newest, else from the ledger."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from trustfed.evidence import facts as kinds
from trustfed.journal.events import Fact

MAX_HELD = 50_000
_MS = 1_000


class IssuedTo(msgspec.Struct, frozen=True, gc=False):
    """What a serial's record says. Times are Unix ms."""

    node: str
    entry: str
    slot: str
    at: int
    not_after: int


class Serials:
    """`find` is a ledger's."""

    def __init__(self, find: Callable[[str, str], Awaitable[list[Fact]]], held: int = MAX_HELD) -> None:
        self._find, self._most = find, held
        self._held: OrderedDict[str, IssuedTo] = OrderedDict()

    def remember(self, recorded: Mapping[str, IssuedTo]) -> None:
        """These serials were recorded just now."""
        self._held.update(recorded)
        while len(self._held) > self._most:
            self._held.popitem(last=False)

    async def all_of(self, serials: Iterable[str]) -> dict[str, IssuedTo]:
        """Those of `serials` that this CA issued. Raises Unavailable."""
        found: dict[str, IssuedTo] = {}
        for serial in dict.fromkeys(serials):
            issued = self._held.get(serial)
            if issued is None:
                facts = await self._find(kinds.ISSUED, serial)
                if not facts:
                    continue
                issued = _issued(facts[0])
                self.remember({serial: issued})
            found[serial] = issued
        return found


def _issued(fact: Fact) -> IssuedTo:
    body: dict[str, Any] = fact.body
    text = [str(body.get(name, "")) for name in ("node", "entry", "slot")]
    return IssuedTo(text[0], text[1], text[2], fact.at, int(body.get("not_after", 0)) * _MS)
