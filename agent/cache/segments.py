"""Segments and the manifest: who lists what. Pure: bytes in, bytes out.

A segment is written once and holds the records that one save changed; behind them its sealed index lists each record's
name, length and SHA-256, and the names that are gone. The manifest lists the segments, oldest first, each with the SHA-256
of its index, so by way of the indexes it lists each record's hash. A record is the one of the newest segment that names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from agent.cache.refusal import Refused
from agent.cache.sealing import Sealer
from trustfed.errors import Invalid
from trustfed.spiffe.ids import SpiffeId, shown

MAX_SEGMENTS = 32
MAX_SEGMENT_BYTES = 64 * 1024 * 1024
MAX_TOTAL_BYTES = 2 * MAX_SEGMENT_BYTES
MAX_RECORDS = 65_536
MAX_SMALL_BYTES = 16_384  # manifest or counter
MANIFEST = "manifest"
_INDEX = 2**32  # the place of a segment's index among the nonces of its file: behind every record
_ANEW = "nothing needs to be done: the agent begins a new cache once its cluster has answered"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as the manifest lists it: file `name`, its `size`, the length of its sealed index, and its SHA-256."""

    number: int
    size: int
    index: int
    sha256: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"segment-{self.number}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What holds: `life` and `generation` are compared with the counter."""

    node: SpiffeId
    life: bytes
    generation: int
    segments: tuple[Segment, ...]


def seal_segment(
    sealer: Sealer, number: int, records: Iterable[tuple[str, bytes]], gone: Iterable[str]
) -> tuple[Segment, bytes, dict[str, int]]:
    """The segment, its file, and the sealed length of each record."""
    kind = f"segment-{number}"
    salt, box = sealer.begin(kind)
    body, listed, sizes = bytearray(), [], {}
    for place, (name, plain) in enumerate(records):
        sealed = box.seal(place, name, plain)
        listed.append((name, len(sealed), hashlib.sha256(sealed).hexdigest()))
        sizes[name] = len(sealed)
        body += sealed
    content = json.dumps([listed, sorted(gone)], separators=(",", ":")).encode()
    index = box.seal(_INDEX, "index", content)
    data = sealer.header(kind, salt, len(body) + len(index)) + body + index
    return Segment(number, len(data), len(index), hashlib.sha256(index).hexdigest()), data, sizes


class OpenSegment:
    """A segment whose index is the one that the manifest lists. Raises Refused, as `records` does."""

    def __init__(self, sealer: Sealer, segment: Segment, data: bytes) -> None:
        self._kind = segment.name
        self._box, sealed = sealer.open(self._kind, data)
        swapped = Refused("swapped", f"{self._kind} is not the one that the manifest lists", _ANEW)
        if len(data) != segment.size:
            raise swapped
        length = max(len(sealed) - segment.index, 0)
        index, self._sealed = sealed[length:], sealed[:length]
        try:
            content = self._box.open(_INDEX, "index", index)
            # 1. The index is the one in the manifest: of this save, not of another.
            if hashlib.sha256(index).hexdigest() != segment.sha256:
                raise swapped
            listed, gone = json.loads(content)
            self._listed: list[tuple[str, int, str]] = [
                (str(name), int(size), str(hash)) for name, size, hash in listed
            ]
            self.gone = set(map(str, gone))
        except (ValueError, TypeError):
            raise Refused("damaged", f"the index of {self._kind} was altered: it does not open", _ANEW) from None
        self.sizes = {name: size for name, size, _ in self._listed}
        """The sealed length of each record, by name."""
        # 2. Its records fill the file, without a gap.
        if sum(size for _, size, _ in self._listed) != length:
            raise Refused("damaged", f"{self._kind} has bytes that no record has", _ANEW)

    def records(self, over: Set[str]) -> Iterator[tuple[str, bytes]]:
        """Name and content of each record that is not `over`, said again by a newer one; all hashes are compared."""
        start = 0
        for place, (name, size, expected) in enumerate(self._listed):
            sealed = self._sealed[start : start + size]
            start += size
            # 3. The record is the one that the index lists.
            if hashlib.sha256(sealed).hexdigest() != expected:
                raise Refused("damaged", f"the record {shown(name)} in {self._kind} is not the one listed", _ANEW)
            if name not in over:
                # 4. It was sealed for this node, under this name.
                try:
                    yield name, self._box.open(place, name, sealed)
                except ValueError:
                    raise Refused("damaged", f"the record {shown(name)} in {self._kind} does not open", _ANEW) from None


def seal_manifest(sealer: Sealer, manifest: Manifest) -> bytes:
    """The manifest's file."""
    segments = [[s.number, s.size, s.index, s.sha256] for s in manifest.segments]
    content = [str(manifest.node), manifest.life.hex(), manifest.generation, segments]
    return sealer.file(MANIFEST, json.dumps(content, separators=(",", ":")).encode())


def open_manifest(sealer: Sealer, data: bytes, node: SpiffeId) -> Manifest:
    """The manifest in its file. Raises Refused."""
    plain = sealer.open_file(MANIFEST, data)
    try:
        of, life, generation, listed = json.loads(plain)
        segments = tuple(Segment(int(n), int(size), int(index), str(sha)) for n, size, index, sha in listed)
        manifest = Manifest(SpiffeId.parse(of), bytes.fromhex(life), int(generation), segments)
    except (ValueError, TypeError, Invalid):
        raise Refused("damaged", "the manifest cannot be read", _ANEW) from None
    if manifest.node != node:
        raise Refused("other_node", f"the manifest is of {manifest.node}, not of {node}", _ANEW)
    if len(segments) > MAX_SEGMENTS or sum(segment.size for segment in segments) > MAX_TOTAL_BYTES:
        raise Refused("too_large", "the manifest lists more than is kept", _ANEW)
    return manifest
