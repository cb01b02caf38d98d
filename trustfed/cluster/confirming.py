"""This domain's own word that its bundle is still the newest: signed twice per refresh hint, and with each new bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from ca.keys.port import KeyStore
from trustfed.cluster.state import ClusterState
from trustfed.errors import TrustfedError
from trustfed.federation import confirmation
from trustfed.federation.confirmation import Confirmation
from trustfed.federation.envelope import Level, PublicationKey
from trustfed.journal.fold import Fold
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster.confirming")

LEAST_APART = timedelta(seconds=5)
_RETRY_SECONDS = 5.0


class Confirming:
    """Holds the newest confirmation of the newest bundle."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        keys: KeyStore,
        refresh_hint: timedelta,
        clock: Clock,
        on_new: Callable[[], None] = lambda: None,
    ) -> None:
        self._fold, self._keys, self._clock, self._on_new = fold, keys, clock, on_new
        self._every = max(refresh_hint / 2, LEAST_APART).total_seconds()
        self._published = asyncio.Event()
        self._latest: Confirmation | None = None
        self._message: pb.FromCluster | None = None

    def published(self) -> None:
        """The domain has a new bundle: it is confirmed at once."""
        self._published.set()

    @property
    def latest(self) -> Confirmation | None:
        """The newest one, if it is about the newest bundle."""
        state, held = self._fold.state, self._latest
        if held is None or (held.level.epoch, held.level.sequence) != state.level:
            return None
        return held

    def message(self) -> pb.FromCluster | None:
        """The same for the hub: the same object until there is a newer one."""
        return self._message if self.latest is not None else None

    async def run(self) -> None:
        """Sign when it is time; ends only when cancelled."""
        while True:
            wait = self._every
            try:
                await self.confirm()
            except TrustfedError as error:
                log.warning("own bundle not confirmed", error=error.message)
                wait = _RETRY_SECONDS
            except Exception as error:  # whatever a key store raises: the next round may do better
                log.exception("own bundle not confirmed", error=error)
                wait = _RETRY_SECONDS
            await news_or_time(self._published, self._clock, wait)

    async def confirm(self) -> None:
        """Sign one now. Raises what the key store raises."""
        state, now = self._fold.state, self._clock.now()
        if state.domain is None or not state.envelope:
            return
        level = Level(TrustDomain.parse(state.trust_domain), state.level.epoch, state.level.sequence)
        name = state.domain.publication_key_name
        (signature,) = await self._keys.sign(name, [confirmation.payload_to_sign(level, now)])
        signed = confirmation.assemble(level, now, signature, PublicationKey(state.domain.publication_key))
        self._latest, self._message = signed, pb.FromCluster(confirmation=signed.data)
        self._on_new()
