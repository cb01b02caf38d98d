"""What one feed's stream still has to be told: keys only, so a slow reader costs nothing and gets the newest. Pure of I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from bundle_publisher.istio.resource import Resource
from trustfed.errors import TrustfedError, Unavailable
from trustfed.proto import mesh_pb2 as pb
from trustfed.runtime.timestamps import to_ms

MAX_MESSAGE = 512 * 1024
"""Bytes of manifests after which the next message of a batch begins."""
MAX_PENDING = 50_000
"""Keys that a stream may lag behind: more than there can be."""
MAX_REJECTED = 100
MAX_TEXT = 400


@dataclass
class Told:
    """What a feed said of itself last."""

    software: str = ""
    digest: bytes = b""
    output: str = ""
    readers: int = 0
    rejected: dict[str, str] = field(default_factory=dict)
    heard: datetime | None = None

    def apply(self, said: pb.Applied) -> None:
        """Take what it says, bounded."""
        self.digest, self.output = bytes(said.digest[:32]), said.output[:32]
        self.readers = min(said.readers, 1_000_000)
        self.rejected = {one.key[:MAX_TEXT]: one.why[:MAX_TEXT] for one in said.rejected[:MAX_REJECTED]}


class View:
    """One open stream: what changed since it was written last, and why it must end, if it must."""

    def __init__(self, spiffe_id: str, serial: int) -> None:
        self.spiffe_id, self.serial = spiffe_id, serial
        self.over: TrustfedError | None = None
        self.pending: set[str] = set()
        self._news, self._over = asyncio.Event(), asyncio.Event()

    def mark(self, keys: Iterable[str]) -> None:
        """Something else may stand under these keys."""
        self.pending.update(keys)
        if len(self.pending) > MAX_PENDING:
            self.end(Unavailable(f"{self.spiffe_id} does not read what it is told", hint="it may connect again"))
        self._news.set()

    def end(self, why: TrustfedError) -> None:
        """The stream ends now."""
        self.over = self.over or why
        self._over.set()

    async def ended(self) -> None:
        """Wait for the end; raises why."""
        await self._over.wait()
        assert self.over is not None
        raise self.over

    async def changed(self) -> None:
        """Return once there is anything to be told."""
        await self._news.wait()

    def take(self) -> set[str]:
        """What is to be told; from here on it counts as told."""
        self._news.clear()
        taken, self.pending = self.pending, set()
        return taken


def lacking(table: Mapping[str, Resource], held: Mapping[str, str]) -> set[str]:
    """The keys under which a feed that holds these versions has to be told something."""
    differ = {key for key, resource in table.items() if held.get(key) != resource.version}
    return differ | (held.keys() - table.keys())


def batch(
    table: Mapping[str, Resource], keys: Iterable[str], digest: bytes, confirmed: datetime | None
) -> Iterator[pb.Resources]:
    """The messages that tell `keys` as they stand in `table`; the last one carries the digest of all."""
    said, size = pb.Resources(), 0
    for key in sorted(keys):
        resource = table.get(key)
        if resource is None:
            said.remove.append(key)
            size += len(key)
        else:
            said.upsert.add(
                key=key,
                version=resource.version,
                created_ms=to_ms(resource.created_at),
                manifest=resource.manifest,
            )
            size += len(resource.manifest) + len(key)
        if size > MAX_MESSAGE:
            yield said
            said, size = pb.Resources(), 0
    said.digest = digest
    said.confirmed_ms = to_ms(confirmed) if confirmed is not None else 0
    yield said
