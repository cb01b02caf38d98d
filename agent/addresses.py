"""The addresses of one cluster: tried in order, beginning with the one that answered last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trustfed.errors import Invalid
from trustfed.runtime.sockets import parse_address

MAX_ADDRESSES = 16


def usable(told: Iterable[object]) -> tuple[str, ...]:
    """Those of the addresses told that are HOST:PORT, each once, at most MAX_ADDRESSES; the others are passed over."""
    found: dict[str, None] = {}
    for address in told:
        try:
            if isinstance(address, str):
                parse_address(address)
                found[address] = None
        except Invalid:
            continue
        if len(found) == MAX_ADDRESSES:
            break
    return tuple(found)


def in_turn(last_good: str, told: Sequence[str]) -> tuple[str, ...]:
    """What to try, in order: what worked last, then the others as they were told."""
    return tuple(dict.fromkeys([last_good, *told]))


def of(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Turn:
    """Which of the addresses is tried next; the list may change between two tries."""

    def __init__(self) -> None:
        self._failed: set[str] = set()

    def next(self, addresses: Sequence[str]) -> str:
        """The first that has not failed in this round; the first of all when all have."""
        return next((address for address in addresses if address not in self._failed), addresses[0])

    def worked(self) -> None:
        """Begin a new round."""
        self._failed.clear()

    def failed(self, address: str, addresses: Sequence[str]) -> bool:
        """It did not answer. True when none of them has: then it is time to wait, and a new round begins."""
        self._failed.add(address)
        if self._failed.issuperset(addresses):
            self._failed.clear()
            return True
        return False
