"""The cluster's own SVID, /trustfed/cluster: what it presents to the hub, to agents and at its bundle endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.issuance import Issued, LeafRequest
from ca.profiles import SYSTEM_SVID
from trustfed.cluster.issuance import Issuance
from trustfed.errors import TrustfedError
from trustfed.federation.names import cluster_id
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.tls import KeyPair
from trustfed.runtime.waiting import news_or_time
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster.identity")
_RETRY_SECONDS = 5.0


class OwnIdentity:
    """Holds the present SVID with the root chain behind it; anchored at the twin, the rest of the chain is ignored."""

    def __init__(self, trust_domain: TrustDomain, issuance: Issuance, ttl: timedelta, clock: Clock) -> None:
        self._id = cluster_id(trust_domain)
        self._issuance, self._ttl, self._clock = issuance, ttl, clock
        self._listeners: list[Callable[[KeyPair], None]] = []
        self._current: KeyPair | None = None
        self._news = asyncio.Event()
        self._authority = ""
        self._issued_at = self._not_after = datetime.min.replace(tzinfo=clock.now().tzinfo)

    @property
    def keypair(self) -> KeyPair:
        assert self._current is not None, "renew() runs before anything is served"
        return self._current

    @property
    def not_after(self) -> datetime:
        return self._not_after

    def on_change(self, listener: Callable[[KeyPair], None]) -> None:
        """Call `listener` with every new SVID, and with the present one at once if there is one."""
        self._listeners.append(listener)
        if self._current is not None:
            listener(self._current)

    def authorities_changed(self) -> None:
        """Look again at who signs: called after each step of an authority's life."""
        self._news.set()

    async def renew(self) -> None:
        """Issue a new SVID from the active authority, on a new key, and tell the listeners."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = LeafRequest(
            spiffe_id=self._id,
            public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            ttl=int(self._ttl.total_seconds()),
            profile=SYSTEM_SVID,
            slot="system",
        )
        issued, authority = await self._issuance.own(request)
        self._adopt(issued, key, authority)

    def _adopt(self, issued: Issued, key: ec.EllipticCurvePrivateKey, authority: str) -> None:
        self._current = KeyPair(issued.chain, key)
        self._issued_at, self._not_after, self._authority = self._clock.now(), issued.not_after, authority
        for listener in self._listeners:
            listener(self._current)

    async def run(self) -> None:
        """Renew at half life, and whenever another authority signs or its intermediate arrives; ends only when cancelled."""
        while True:
            half = self._issued_at + (self._not_after - self._issued_at) / 2
            wait = (half - self._clock.now()).total_seconds()
            version = self._issuance.signer_version()
            # While nobody may sign, the SVID held stays; the next step of an authority's life wakes this again.
            if wait > 0 and version in ("", self._authority):
                await news_or_time(self._news, self._clock, wait)
                continue
            try:
                await self.renew()
            except TrustfedError as error:
                log.warning("own SVID not renewed", error=error.message, not_after=self._not_after.isoformat())
                await self._clock.sleep(_RETRY_SECONDS)
