"""This domain's part of the protected publication: its TUF role over its newest envelope and its cluster document.

The cluster numbers and signs it with the publication key, after each new envelope, when its addresses change, and daily;
the hub publishes it and can change nothing in it. What was signed is in the journal before it leaves, so versions only
rise; they are times as well, so that they rise even after a restore from a backup. The hub gets it on every stream.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from uuid import uuid4

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
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster.publication")

SIGN_AGAIN = timedelta(days=1)
"""A role lives 30 days: a cluster that is away for a month still has a valid one at the store."""
_RETRY_SECONDS = 5.0


class OwnRole:
    """Signs the role when it must be, and gives the hub the newest."""

    def __init__(
        self, fold: Fold[ClusterState], keys: KeyStore, clock: Clock, on_new: Callable[[], None] = lambda: None
    ) -> None:
        self._fold, self._keys, self._clock, self._on_new = fold, keys, clock, on_new
        self._news = asyncio.Event()
        self._document = b""
        self._told: tuple[e.RoleSigned, pb.FromCluster] | None = None

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
        if self._told is None or self._told[0] is not role:
            published = pb.Published(
                metadata=role.metadata, cluster_document=role.cluster_document, envelope=state.envelope
            )
            self._told = (role, pb.FromCluster(published=published))
        return self._told[1]

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
        state, now = self._fold.state, self._clock.now()
        if not self._document or not state.envelope or state.domain is None or not self._due(state):
            return False
        domain, document = TrustDomain.parse(state.trust_domain), self._document
        version = _after(state.role, now)
        payload = delegated.payload_to_sign(domain, version, now, state.envelope, document)
        (signature,) = await self._keys.sign(state.domain.publication_key_name, [payload])
        key = PublicationKey(state.domain.publication_key)
        role = delegated.assemble(domain, version, now, state.envelope, document, signature, key)
        digest = hashlib.sha256(document).hexdigest()
        event = e.RoleSigned(version, now, digest, *state.level, role.data, document)
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

    def _due(self, state: ClusterState) -> bool:
        role, now = state.role, self._clock.now()
        return (
            role is None
            or (role.epoch, role.sequence) != state.level
            or role.cluster_document != self._document
            or not role.signed_at <= now < role.signed_at + SIGN_AGAIN
        )

    def _wait(self) -> float | None:
        role = self._fold.state.role
        if role is None or not self._document:
            return None
        return max((role.signed_at + SIGN_AGAIN - self._clock.now()).total_seconds(), 0.01)


def _after(role: e.RoleSigned | None, now: datetime) -> int:
    """The next version: a time, and above the last one. One of a far future, which a wrong clock made, counts not: the hub
    took it never, and to go on from there would keep this domain out of the publication until that time has come.
    """
    last = role.version if role is not None and role.version <= (now + delegated.AHEAD).timestamp() else 0
    return max(int(now.timestamp()), last + 1)
