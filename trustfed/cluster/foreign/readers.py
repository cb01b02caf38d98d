"""Who reads this domain's bundle at its own endpoints: address, profile, when last, and the sequence that was handed out.

The endpoints ask for no client certificate (SPIFFE Federation §5.2.1.3, §5.2.2.3), so readers are known by address only;
who shares an address, behind one proxy, is one reader; so is a whole IPv6 network of 64 bits, since one machine may have
it. In memory, and bounded: the reader that is away longest gives way.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

MAX_READERS = 1_000


@dataclass(frozen=True)
class Reader:
    """One address and what it got last."""

    address: str
    profile: str
    document: str  # "bundle" | "envelope"
    epoch: int
    sequence: int
    at: datetime
    count: int
    place: tuple[int, int]  # IP version and address as a number, of IPv6 its first 64 bits; version 0: none


class Readers:
    """The table, since this process began."""

    def __init__(self, since: datetime) -> None:
        self.since = since
        self._seen: OrderedDict[tuple[tuple[int, int], str, str], Reader] = OrderedDict()

    def saw(self, address: str, profile: str, document: str, level: tuple[int, int], now: datetime) -> None:
        """Somebody got `document` at `level`, or was told that it holds it already."""
        place = _place(address)
        key = (place, profile, document)
        held = self._seen.pop(key, None)
        count = held.count + 1 if held else 1
        self._seen[key] = Reader(address[:64], profile, document, *level, now, count, place)
        if len(self._seen) > MAX_READERS:
            self._seen.popitem(last=False)

    def all(self) -> list[Reader]:
        """The readers, the newest first."""
        return list(reversed(self._seen.values()))

    def latest(self, networks: Mapping[str, Sequence[str]]) -> dict[str, Reader]:
        """For each name the newest reader of the bundle from one of its networks, if there is one.

        One pass over the readers for all names together: anybody can fill the table, and this is asked every few seconds.
        """
        names: dict[tuple[int, int, int], list[str]] = {}
        for name, its in networks.items():
            for text in its:
                names.setdefault(_network(text), []).append(name)
        lengths = {(version, hidden) for version, hidden, _ in names}
        found: dict[str, Reader] = {}
        for reader in reversed(self._seen.values()) if names else ():
            if reader.document != "bundle":
                continue
            version, number = reader.place
            for of, hidden in lengths:
                if of == version:
                    for name in names.get((of, hidden, number >> hidden), ()):
                        found.setdefault(name, reader)
        return found


def _place(address: str) -> tuple[int, int]:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return 0, 0
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return (4, int(mapped)) if mapped.version == 4 else (6, int(mapped) >> 64)


@lru_cache(maxsize=8_192)
def _network(text: str) -> tuple[int, int, int]:
    """(IP version, how many bits of a place it leaves open, the others); of IPv6 the first 64 bits at most."""
    network = ipaddress.ip_network(text)
    number = int(network.network_address)
    if network.version == 4:
        return 4, 32 - network.prefixlen, number >> (32 - network.prefixlen)
    hidden = max(64 - network.prefixlen, 0)
    return 6, hidden, number >> 64 >> hidden
