"""What lies on the disks, read and checked; nothing is changed.

Each step refuses by name:
 1. the sealing key is there, and is the one it was
 2. the manifest is there, whole, of this node, under this key
 3. the counter is there, whole, and of the same life of the cache
 4. the generation is not below the counter
 5. each segment and each record is there, and is the one that is listed
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.cache import counter, keys
from agent.cache.disk import Disk
from agent.cache.keys import SealingKey
from agent.cache.life import Life
from agent.cache.records import kept_of, parts_of
from agent.cache.refusal import Refused
from agent.cache.sealing import Randomness, Sealer
from agent.cache.segments import MANIFEST, MAX_SMALL_BYTES, OpenSegment, open_manifest
from trustfed.errors import NotFound
from trustfed.spiffe.ids import SpiffeId


def read(cache: Disk, outside: Disk, key: SealingKey, node: SpiffeId, randomness: Randomness) -> Life | None:
    """What holds, None when nothing was ever kept. Raises Refused, and TrustfedError for a disk that does not answer."""
    sealed, told = found(cache, MANIFEST), found(outside, counter.NAME)
    if sealed is None and told is None:
        return None
    try:
        sealer = Sealer(key.open(), node, randomness)  # 1
    except NotFound:
        raise Refused("missing_key", f"the sealing key of the cache, {keys.NAME}, is missing") from None
    if sealed is None:
        # The counter of a cache that was never saved says 0.
        if told is not None and counter.parse(sealer, told).generation == 0:
            return None
        raise Refused("missing_manifest", "the counter says that there was a cache, but its manifest is missing")
    manifest = open_manifest(sealer, sealed, node)  # 2
    if told is None:  # 3
        raise Refused("missing_counter", f"{counter.NAME} is missing, so the cache could be an old one")
    lowest = counter.parse(sealer, told)
    if manifest.life != lowest.life:
        raise Refused("other_life", "the cache is one that was refused or replaced before")
    if manifest.generation < lowest.generation:  # 4
        raise Refused(
            "rollback", f"the cache has generation {manifest.generation}, below {lowest.generation} of the counter"
        )
    life = Life(sealer, manifest.life, manifest.generation, lowest.generation)
    life.segments = list(manifest.segments)
    life.number = max((segment.number for segment in life.segments), default=0)
    life.kept = kept_of(_records(cache, life))  # 5
    life.parts = parts_of(life.kept)
    return life


def found(disk: Disk, name: str, limit: int = MAX_SMALL_BYTES) -> bytes | None:
    """A file, None if it is not there."""
    try:
        return disk.read(name, limit)
    except NotFound:
        return None


def _records(cache: Disk, life: Life) -> Iterator[tuple[str, bytes]]:
    """Name and content of every record that holds; fills `where` and `gone`."""
    over: set[str] = set()
    for segment in reversed(life.segments):
        data = found(cache, segment.name, segment.size + 1)
        if data is None:
            raise Refused("missing_segment", f"{segment.name} is missing")
        opened = OpenSegment(life.sealer, segment, data)
        for name, content in opened.records(over):
            life.where[name] = (segment.number, opened.sizes[name])
            yield name, content
        life.gone[segment.number] = opened.gone
        over |= opened.gone | opened.sizes.keys()
