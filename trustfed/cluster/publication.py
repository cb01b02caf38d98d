"""This domain's part of the protected publication: its TUF role over its newest envelope, its cluster document, and the
manifests that its istiods are told.

The cluster numbers and signs it with the publication key, after each new envelope, when its addresses change, and daily;
after a change of its mesh as well, but not many times an hour: who reads manifests from a store is in no hurry.
the hub publishes it and can change nothing in it. What was signed is in the journal before it leaves, so versions only
rise; they are times as well, so that they rise even after a restore from a backup. The hub gets it on every stream.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import uuid4

from msgspec.structs import replace

from bundle_publisher import manifests
from bundle_publisher.tuf import delegated
from ca.keys.port import KeyStore
from trustfed.cluster import events as e
from trustfed.cluster.addresses import Addresses
from trustfed.cluster.state import ClusterState
from trustfed.errors import Invalid, TrustfedError
from trustfed.federation import cluster_document
from trustfed.federation.cluster_document import ClusterDocument
from trustfed.federation.envelope import PublicationKey
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.pace import Paces
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster.publication")

MESH_TURNS = (5, 120.0)
"""Roles that bring other manifests and nothing else: five at once, then one in two minutes."""
SIGN_AGAIN = timedelta(days=1)
"""A role lives 30 days: a cluster that is away for a month still has a valid one at the store."""
_RETRY_SECONDS = 5.0


class Rendered(Protocol):
    """What is rendered for the istiods of this cluster now."""

    def digest(self) -> bytes:
        """Of all of it (trustfed.federation.mesh_digest)."""
        ...

    def lines(self) -> list[bytes]:
        """Each resource as one line of JSON, in the order of their keys; [] when there are none."""
        ...


@dataclass(frozen=True)
class _Manifests:
    """A file of manifests as it is listed and sent: `digest` of the resources in it."""

    digest: bytes
    version: int
    listed: delegated.Listed
    packed: bytes


class OwnRole:
    """Signs the role when it must be, and gives the hub the newest."""

    def __init__(
        self, fold: Fold[ClusterState], keys: KeyStore, clock: Clock, on_new: Callable[[], None] = lambda: None
    ) -> None:
        self._fold, self._keys, self._clock, self._on_new = fold, keys, clock, on_new
        self._news = asyncio.Event()
        self._document = b""
        self._told: tuple[e.RoleSigned, bytes, pb.FromCluster] | None = None
        self._rendered: Rendered | None = None
        self._manifests: _Manifests | None = None
        self._mesh_pace = Paces(*MESH_TURNS)
        self._too_long = b""

    def of_mesh(self, rendered: Rendered) -> None:
        """From here on the role lists these as well."""
        self._rendered = rendered
        self._news.set()

    def mesh_changed(self) -> None:
        """Something else is rendered."""
        self._news.set()

    def open(self, addresses: Addresses, attestors: Iterable[str]) -> None:
        """The doors are open: from here on the role can say where nodes attest, and how."""
        state = self._fold.state
        assert state.domain is not None
        domain, key = TrustDomain.parse(state.trust_domain), PublicationKey(state.domain.publication_key)
        document = ClusterDocument(domain, key, addresses.https, addresses.grpc, tuple(sorted(attestors)))
        self._document = cluster_document.write(document)
        self._news.set()

    def on_event(self, event: TypedEvent) -> None:
        """A new envelope wants a new role."""
        if isinstance(event, e.BundlePublished):
            self._news.set()

    def message(self) -> pb.FromCluster | None:
        """The newest role for the hub, the same object until there is a newer one; None while the newest envelope has none."""
        state = self._fold.state
        role = state.role
        if role is None or (role.epoch, role.sequence) != state.level:
            return None
        made = self._manifests
        packed = made.packed if made is not None and made.listed.sha256 == role.mesh_sha256 else b""
        if self._told is None or self._told[0] is not role or self._told[1] is not packed:
            published = pb.Published(
                metadata=role.metadata,
                cluster_document=role.cluster_document,
                envelope=state.envelope,
                manifests=packed,
            )
            self._told = (role, packed, pb.FromCluster(published=published))
        return self._told[2]

    async def run(self) -> None:
        """Sign when it is time; ends only when cancelled."""
        try:
            delegated.check_name(TrustDomain.parse(self._fold.state.trust_domain))
        except Invalid as error:
            log.warning("this domain takes no part in the protected publication", error=error.message)
            await asyncio.Event().wait()
        while True:
            try:
                await self.sign()
                wait = self._wait()
            except TrustfedError as error:
                log.warning("role not signed", error=error.message)
                wait = _RETRY_SECONDS
            except Exception as error:  # whatever a key store raises: the next round may do better
                log.exception("role not signed", error=error)
                wait = _RETRY_SECONDS
            await news_or_time(self._news, self._clock, wait)

    async def sign(self) -> bool:
        """Sign and journal the next role, if the last one does not list what there is, or is a day old. True if it did.

        Raises what the key store and the journal raise.
        """
        await self._remember()
        state, now = self._fold.state, self._clock.now()
        if not self._document or not state.envelope or state.domain is None or not self._due(state):
            return False
        domain, document = TrustDomain.parse(state.trust_domain), self._document
        version, mesh = _after(state.role, now), await self._make(state.role, now)
        listed = mesh.listed if mesh is not None else self._kept(state.role, domain)
        payload = delegated.payload_to_sign(domain, version, now, state.envelope, document, listed)
        (signature,) = await self._keys.sign(state.domain.publication_key_name, [payload])
        key = PublicationKey(state.domain.publication_key)
        role = delegated.assemble(domain, version, now, state.envelope, document, signature, key, listed)
        digest = hashlib.sha256(document).hexdigest()
        event = e.RoleSigned(version, now, digest, *state.level, role.data, document)
        if mesh is not None:
            about = {"mesh_digest": mesh.digest, "mesh_version": mesh.version, "mesh_sha256": mesh.listed.sha256}
            event = replace(event, **about)
            self._manifests = mesh
        elif (last := state.role) is not None:  # also the version of a file that is listed no more: the next is above
            about = {
                "mesh_digest": last.mesh_digest,
                "mesh_version": last.mesh_version,
                "mesh_sha256": last.mesh_sha256,
            }
            event = replace(event, **about)
        made = await self._fold.execute(
            lambda s: [event] if s.level == state.level and s.role == state.role else [],
            command_id=uuid4().hex,
            actor="cluster",
            reason="protected publication",
            now=now,
        )
        if made:
            log.info("role signed", version=version, epoch=event.epoch, sequence=event.sequence)
            self._on_new()
        return bool(made)

    async def _remember(self) -> None:
        """After a restart: the file that the last role lists, made anew if it is still what is rendered."""
        role = self._fold.state.role
        if role is None or not role.mesh_sha256 or self._rendered is None or self._manifests is not None:
            return
        if self._rendered.digest() != role.mesh_digest:
            return
        made = await self._file(role.mesh_version)
        if made is not None and made.listed.sha256 == role.mesh_sha256:
            self._manifests = made
            self._on_new()

    async def _make(self, role: e.RoleSigned | None, now: datetime) -> _Manifests | None:
        """The file of what is rendered now, with the version that it had; None where there never was a mesh."""
        if self._rendered is None:
            return None
        listed, held = role is not None and role.mesh_sha256 != "", self._manifests
        digest = self._rendered.digest()
        if held is not None and held.digest == digest:
            return held
        if not listed and not self._rendered.lines():
            return None
        if role is not None and listed and role.mesh_digest == digest:
            return await self._file(role.mesh_version)
        last = role.mesh_version if role is not None else 0
        return await self._file(max(int(now.timestamp()), last + 1))

    async def _file(self, version: int) -> _Manifests | None:
        """None, and logged once, when it is too long to be published: the feeds have it all the same, and readers of the
        store the last one that was not.
        """
        assert self._rendered is not None
        digest, lines = self._rendered.digest(), self._rendered.lines()
        domain = TrustDomain.parse(self._fold.state.trust_domain)

        def made() -> _Manifests:
            data = manifests.write(domain, version, lines)
            return _Manifests(digest, version, delegated.Listed.of(data), manifests.pack(data))

        try:
            return await asyncio.to_thread(made)
        except Invalid as error:
            if self._too_long != digest:
                log.error("the manifests are not published: those before stay", error=error.message)
                self._too_long = digest
            return None

    def _kept(self, role: e.RoleSigned | None, domain: TrustDomain) -> delegated.Listed | None:
        """What the last role lists: to publish nothing in its place would take routes away from who reads the store."""
        state = self._fold.state
        if role is None or not role.mesh_sha256 or state.domain is None:
            return None
        return delegated.open_role(role.metadata, domain, PublicationKey(state.domain.publication_key)).mesh

    def too_long(self) -> bool:
        """Whether what is rendered now is too long to be published."""
        return self._rendered is not None and self._too_long != b"" and self._too_long == self._rendered.digest()

    def _mesh_due(self, role: e.RoleSigned) -> bool:
        """Whether other manifests wait, and it is their turn, which is taken."""
        if self._rendered is None:
            return False
        digest = self._rendered.digest()
        if digest in (role.mesh_digest, self._too_long) or (not role.mesh_digest and not self._rendered.lines()):
            return False
        return self._mesh_pace.take("", self._clock.monotonic())

    def _due(self, state: ClusterState) -> bool:
        role, now = state.role, self._clock.now()
        return (
            role is None
            or (role.epoch, role.sequence) != state.level
            or role.cluster_document != self._document
            or not role.signed_at <= now < role.signed_at + SIGN_AGAIN
            or self._mesh_due(role)
        )

    def _wait(self) -> float | None:
        role = self._fold.state.role
        if role is None or not self._document:
            return None
        turn = self._mesh_pace.wait("", self._clock.monotonic()) or math.inf
        return min(max((role.signed_at + SIGN_AGAIN - self._clock.now()).total_seconds(), 0.01), turn)


def _after(role: e.RoleSigned | None, now: datetime) -> int:
    """The next version: a time, and above the last one. One of a far future, which a wrong clock made, counts not: the hub
    took it never, and to go on from there would keep this domain out of the publication until that time has come.
    """
    last = role.version if role is not None and role.version <= (now + delegated.AHEAD).timestamp() else 0
    return max(int(now.timestamp()), last + 1)
