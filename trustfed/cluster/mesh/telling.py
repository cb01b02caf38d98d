"""Tells the hub what this domain says of its mesh: signed statements, changes only, all of it when the digests differ.

A statement is signed when it is told, by the publication key, in batches, and kept in memory until its item changes. Its
sequence is the event's, below the epoch of this domain's envelopes: after a restore from a backup, which begins a new
epoch, everything is newer than what others hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from ca.keys.port import KeyStore
from trustfed.cluster import events as e
from trustfed.cluster.mesh.events import MeshDropped, MeshPut
from trustfed.cluster.mesh.state import Own, key
from trustfed.cluster.state import ClusterState
from trustfed.errors import TrustfedError
from trustfed.federation.envelope import PublicationKey
from trustfed.federation.mesh import read_item
from trustfed.federation.mesh_digest import digest
from trustfed.federation.mesh_statement import assemble, payload_to_sign
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster.mesh.telling")

SIGNED_AT_ONCE = 50
MAX_PART_BYTES, MAX_PART_ITEMS = 256 * 1024, 500
_EPOCH_BITS, _MAX_EPOCH = 32, (1 << 20) - 1  # so that the sequence stays an integer of JSON


def sequence_of(state: ClusterState, sequence: int) -> int:
    """The sequence of a statement, given that of its event."""
    return min(state.level.epoch, _MAX_EPOCH) << _EPOCH_BITS | sequence


class Telling:
    """A part of the stream to the hub (trustfed.cluster.uplink.Talker); `look` has the stream ask for messages."""

    def __init__(self, fold: Fold[ClusterState], keys: KeyStore, look: Callable[[], None]) -> None:
        self._fold, self._keys, self._look = fold, keys, look
        self._signed: dict[str, tuple[int, bytes]] = {}  # by key: the sequence and the statement
        self._changed: dict[str, None] = {}
        self._whole = self._listens = False
        self._epoch = 0

    def on_event(self, event: TypedEvent) -> None:
        """What of this domain changed is told."""
        if isinstance(event, MeshPut | MeshDropped):
            self._changed[key(event.kind, event.name)] = None
            self._look()
        elif isinstance(event, e.BundlePublished) and event.epoch != self._epoch:
            self._look()

    def greet(self, hello: pb.ClusterHello) -> None:
        """Say what there is: a hub that holds the same knows at once that it lacks nothing."""
        hello.mesh_digest = self._digest()

    def begin(self, hello: pb.HubHello) -> None:
        """A stream began: all is told anew if the hub holds something else."""
        state = self._fold.state
        self._changed.clear()
        self._epoch = state.level.epoch
        self._listens = bool(hello.mesh_digest)  # an older hub has none, and would end the stream
        self._whole = hello.mesh_digest != self._digest()
        self._signed = {at: held for at, held in self._signed.items() if at in state.mesh.own}

    async def messages(self) -> AsyncIterator[pb.FromCluster]:
        """What is to be told now. A key store that fails is asked again with the next heartbeat."""
        if not self._listens:
            return
        if self._fold.state.level.epoch != self._epoch:
            self._epoch, self._whole = self._fold.state.level.epoch, True
        whole, changed = self._whole, list(self._changed)
        self._whole, self._changed = False, {}
        keys = list(self._fold.state.mesh.own) if whole else changed
        try:
            async for report in self._reports(keys, snapshot=whole):
                yield pb.FromCluster(mesh=report)
            if whole:  # what an earlier part named, and is gone since
                async for report in self._reports(changed, snapshot=False):
                    yield pb.FromCluster(mesh=report)
        except TrustfedError as error:
            log.warning("the hub is not told of the mesh yet", error=error.message)
            self._whole = self._whole or whole
            self._changed = {**dict.fromkeys(changed), **self._changed}

    def _digest(self) -> bytes:
        state = self._fold.state
        return digest({at: str(sequence_of(state, own.sequence)) for at, own in state.mesh.own.items()})

    async def _reports(self, keys: Sequence[str], *, snapshot: bool) -> AsyncIterator[pb.MeshReport]:
        report, size = pb.MeshReport(snapshot=snapshot), 0
        for start in range(0, len(keys), SIGNED_AT_ONCE):
            some = keys[start : start + SIGNED_AT_ONCE]
            signed = await self._statements(some)
            for at in some:
                item = signed.get(at)
                grows = len(item.statement) if item is not None else 300
                count = len(report.items) + len(report.removed)
                if count and (size + grows > MAX_PART_BYTES or count >= MAX_PART_ITEMS):
                    yield report
                    report, size = pb.MeshReport(snapshot=snapshot), 0
                size += grows
                if item is not None:
                    report.items.append(item)
                elif not snapshot:
                    kind, _, name = at.partition("/")
                    state = self._fold.state
                    report.removed.add(kind=kind, name=name, sequence=sequence_of(state, state.mesh.sequence))
        report.last = snapshot
        if snapshot or report.items or report.removed:
            yield report

    async def _statements(self, keys: Sequence[str]) -> dict[str, pb.MeshItem]:
        """The signed statements of those that are still said."""
        state = self._fold.state
        assert state.domain is not None
        own = {at: held for at in keys if (held := state.mesh.own.get(at)) is not None}
        for at in keys:
            if at not in own:
                self._signed.pop(at, None)
        wanted = {at: sequence_of(state, held.sequence) for at, held in own.items()}
        lacking = [at for at in own if self._signed.get(at, (0, b""))[0] != wanted[at]]
        if lacking:
            domain, public = TrustDomain.parse(state.trust_domain), PublicationKey(state.domain.publication_key)
            items = {at: read_item(own[at].kind, own[at].item) for at in lacking}
            payloads = [payload_to_sign(domain, items[at], wanted[at]) for at in lacking]
            signatures = await self._keys.sign(state.domain.publication_key_name, payloads)
            for at, signature in zip(lacking, signatures, strict=True):
                said = assemble(domain, items[at], wanted[at], signature, public)
                self._signed[at] = (wanted[at], said.data)
            await asyncio.sleep(0)
        return {at: _item(held, *self._signed[at]) for at, held in own.items()}


def _item(own: Own, sequence: int, statement: bytes) -> pb.MeshItem:
    return pb.MeshItem(kind=own.kind, name=own.name, sequence=sequence, statement=statement)
