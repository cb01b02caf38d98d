"""The counter: the lowest generation that is taken from the cache. It lies outside the cache's folder.

Trust: whoever puts back an older cache is caught by it; whoever puts back cache, key and counter of one moment is not
(a restored disk). Sealed like all else, so that a changed one is told from a missing one, and neither passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.cache.disk import Disk
from agent.cache.refusal import Refused
from agent.cache.sealing import Sealer

NAME = "cache.counter"
LIFE = 16
_KIND = "counter"


@dataclass(frozen=True)
class Counter:
    """`life` (16 bytes) tells one cache from those before it, which were refused; generations count within a life."""

    life: bytes
    generation: int


def parse(sealer: Sealer, data: bytes) -> Counter:
    """The counter in its file. Raises Refused."""
    plain = sealer.open_file(_KIND, data)
    if len(plain) != LIFE + 8:
        raise Refused("damaged", f"the {_KIND} has a strange length")
    return Counter(plain[:LIFE], int.from_bytes(plain[LIFE:]))


def write(disk: Disk, sealer: Sealer, counter: Counter) -> None:
    """Replace it, durably: it is the old or the new one at every moment. Raises Denied, Unavailable."""
    replace(disk, NAME, sealer.file(_KIND, counter.life + counter.generation.to_bytes(8)))


def replace(disk: Disk, name: str, data: bytes) -> None:
    """`name` holds `data`, durably, or is as it was."""
    new = name + ".new"
    disk.remove(new)
    disk.write_new(new, data)
    disk.rename(new, name)
    disk.sync()
