"""When each peer's domain last said, signed, that the bundle held here is its newest (trustfed.federation.confirmation).

1. the domain is one that this cluster has pinned · 2. the pinned key signed the confirmation · 3. it is not of the future
4. its level is the one held, or one before it: what followed a bundle that was the newest then is newer still. One of a
   later level confirms nothing: it waits until that bundle is here, and shows that somebody holds it back.

Only what a domain signed counts, whoever brought it: the hub, or the domain's own endpoint. Of a domain that never
confirmed any, the first bundle's coming counts for all of them, and none is ever fresh: who holds bundles back could let
an old one out whenever time runs out. Nothing is journalled. The newest confirmations are in a file, for the next process;
since each is verified again when it is read, nobody who writes there can make a bundle fresher than its domain said.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from trustfed.cluster.grants import held_envelope
from trustfed.cluster.state import ClusterState, Grant, Peer
from trustfed.errors import Denied, Invalid, TrustfedError
from trustfed.federation.confirmation import open_confirmation
from trustfed.federation.envelope import PublicationKey
from trustfed.journal.fold import Fold
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.files import read_private, write_atomic
from trustfed.runtime.metrics import Registry
from trustfed.spiffe.ids import TrustDomain

log = logs.get("cluster.freshness")

LEAST_FRESH = timedelta(seconds=60)
MAX_FILE = 16 * 1024 * 1024
_LOOK_SECONDS = 15.0
_SAVE_SECONDS = 60.0
_AT_ONCE = 10
"""Signatures verified before others of this process get a turn."""
_Level = tuple[int, int]


class Standing(StrEnum):
    """FRESH: used. STALE: used, alarmed. CLOSED: agents refuse this domain's peers."""

    FRESH = "fresh"
    STALE = "stale"
    CLOSED = "closed"


def standing(
    confirmed: datetime | None, hint: timedelta, limit: timedelta, now: datetime, since: datetime | None = None
) -> Standing:
    """How a peer's bundle stands that was confirmed then; one that never was is stale at best, and counts from `since`."""
    counted = confirmed or since
    if counted is not None and now >= counted + limit:
        return Standing.CLOSED
    return Standing.FRESH if confirmed and now < confirmed + max(hint, LEAST_FRESH) else Standing.STALE


@dataclass(frozen=True)
class PeerFreshness:
    """One imported domain, for the status: `counted_from` is its confirmation, or when its first bundle came."""

    trust_domain: str
    standing: Standing
    confirmed_at: datetime | None
    counted_from: datetime | None
    closes_at: datetime | None
    withheld: bool  # its domain confirmed a later bundle than the one held


@dataclass
class _Known:
    """What one domain said, verified by `key`."""

    key: bytes
    at: datetime | None = None  # of the newest confirmation that counts
    data: bytes = b""
    serial: int = 0
    ahead: tuple[_Level, datetime, bytes] | None = None  # of a bundle that is not here yet


class Freshness:
    """Keeps the newest confirmation of each imported domain."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        stale_limit: timedelta,
        clock: Clock,
        registry: Registry,
        file: Path | None = None,
    ) -> None:
        self._fold, self._limit, self._clock, self._file = fold, stale_limit, clock, file
        self._known: OrderedDict[str, _Known] = OrderedDict()  # the last confirmed one last
        self._hints: dict[str, tuple[bytes, timedelta]] = {}
        self._seen: dict[str, Standing] = {}
        self._saved = 0
        self.serial = 0
        """Rises with every confirmation that counts."""
        for kind in (Standing.STALE, Standing.CLOSED):
            registry.gauge(f"cluster_peers_{kind}", f"imported trust domains whose bundle is {kind}").read(
                lambda kind=kind: float(sum(seen is kind for seen in self._seen.values()))  # type: ignore[misc]
            )

    def take(self, domain: str, data: bytes, pins: dict[str, Grant] | None = None) -> bool:
        """Believe one confirmation. True if the domain's bundle is fresher by it. Raises Denied, Invalid."""
        now, state = self._clock.now(), self._fold.state
        grant = (state.pins(now) if pins is None else pins).get(domain)  # 1
        if grant is None:
            raise Denied(f"no accepted grant for trust domain {domain[:255]!r}", hint="trustfed grant list")
        key = grant.exporter_key
        said = open_confirmation(data, TrustDomain.parse(domain), PublicationKey(key), now)  # 2, 3
        known = self._of(domain, key)
        level, held = (said.level.epoch, said.level.sequence), _level(state.peers.get(domain), key)
        if held is None or level > held:  # 4
            if known.ahead is None or (level, said.at) > known.ahead[:2]:
                known.ahead = (level, said.at, data)
            return False
        return self._rise(domain, known, min(said.at, now), data)

    async def take_all(self, said: Iterable[tuple[str, bytes]]) -> dict[str, str]:
        """Believe what is good of many; why the others were refused, by domain."""
        pins, refused = self._fold.state.pins(self._clock.now()), dict[str, str]()
        for count, (domain, data) in enumerate(said, start=1):
            try:
                self.take(domain, data, pins)
            except (Denied, Invalid) as error:
                refused[domain[:255]] = error.message
            if count % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return refused

    def note(self, domain: str, at: datetime) -> None:
        """Code of ours knows by other means that the bundle held was the newest then: a foreign peer's endpoint was
        read, or the domain signed its part of the protected publication.
        """
        peer = self._fold.state.peers.get(domain)
        if peer is not None:
            self._rise(domain, self._of(domain, peer.key), min(at, self._clock.now()), b"")

    def confirmed_at(self, domain: str) -> datetime | None:
        """When the domain last confirmed the bundle that is held of it; None: never since this is known."""
        peer, known = self._fold.state.peers.get(domain), self._known.get(domain)
        if peer is None or known is None or known.key != peer.key:
            return None
        if known.ahead is not None and known.ahead[0] <= (peer.epoch, peer.sequence):
            (_, at, data), known.ahead = known.ahead, None
            self._rise(domain, known, min(at, self._clock.now()), data)
        return known.at

    def counted_from(self, domain: str) -> datetime | None:
        """From when a bundle's age counts: its confirmation, else when the first one under this pin came."""
        peer = self._fold.state.peers.get(domain)
        return self.confirmed_at(domain) or ((peer.first_received_at or peer.received_at) if peer else None)

    def limit_of(self, grant: Grant) -> timedelta:
        """How long after that it may be used."""
        return timedelta(seconds=grant.stale_limit) if grant.stale_limit else self._limit

    def withheld(self, domain: str) -> bool:
        """Whether the domain has confirmed a later bundle than the one held."""
        self.confirmed_at(domain)
        known = self._known.get(domain)
        return known is not None and known.ahead is not None

    def since(self, serial: int) -> list[tuple[str, datetime]]:
        """What was confirmed after `serial` (of this process), for the imports of this moment."""
        found: list[tuple[str, datetime]] = []
        for domain in reversed(self._known):
            known = self._known[domain]
            if known.serial <= serial:
                break
            if known.at is not None:
                found.append((domain, known.at))
        return found

    def peers(self) -> list[PeerFreshness]:
        """Every imported domain of which a bundle is held."""
        state, now = self._fold.state, self._clock.now()
        return [self._peer(name, grant, now) for name, grant in state.imports(now).items() if name in state.peers]

    def standing_of(self, domain: str, grant: Grant, now: datetime) -> Standing:
        """How one imported domain's bundle stands."""
        confirmed, since = self.confirmed_at(domain), self.counted_from(domain)
        return standing(confirmed, self.hint_of(domain), self.limit_of(grant), now, since)

    async def run(self) -> None:
        """Log who becomes stale, closed and fresh again, and keep the file; ends only when cancelled."""
        saved_at = self._clock.monotonic()
        for count, name in enumerate(list(self._fold.state.peers), start=1):
            if name in self._fold.state.peers:
                self.hint_of(name)
            if count % _AT_ONCE == 0:
                await asyncio.sleep(0)
        while True:
            self.look()
            if self.serial != self._saved and self._clock.monotonic() - saved_at >= _SAVE_SECONDS:
                saved_at = self._clock.monotonic()
                await self.save()
            await self._clock.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """Compare with what was seen before, and say what changed."""
        peers = self.peers()
        for peer in peers:
            before = self._seen.get(peer.trust_domain, Standing.FRESH)
            if peer.standing is not before:
                tell = {Standing.FRESH: log.info, Standing.STALE: log.warning, Standing.CLOSED: log.error}
                since = peer.counted_from.isoformat() if peer.counted_from else ""
                tell[peer.standing](f"bundle of a peer is {peer.standing}", peer=peer.trust_domain, confirmed=since)
        self._seen = {peer.trust_domain: peer.standing for peer in peers}

    async def save(self) -> None:
        """Write the newest confirmations; a disk that refuses is logged, and harms nobody while this process runs."""
        self._saved = self.serial
        if self._file is None:
            return
        kept = {name: base64.b64encode(known.data).decode() for name, known in self._known.items() if known.data}
        try:
            await asyncio.to_thread(write_atomic, self._file, json.dumps(kept).encode())
        except TrustfedError as error:
            log.warning("confirmations not saved", error=error.message)

    async def load(self) -> None:
        """Read what an earlier process kept; what does not verify is not believed."""
        if self._file is None or not self._file.exists():
            return
        try:
            kept = json.loads(read_private(self._file, MAX_FILE))
            said = [(str(name), base64.b64decode(data)) for name, data in kept.items()]
        except (TrustfedError, ValueError, AttributeError, TypeError) as error:
            log.warning("confirmations kept by an earlier process cannot be read", error=type(error).__name__)
            return
        refused = await self.take_all(said)
        log.info("confirmations read", believed=len(said) - len(refused), refused=len(refused))

    def _peer(self, name: str, grant: Grant, now: datetime) -> PeerFreshness:
        since, limit = self.counted_from(name), self.limit_of(grant)
        return PeerFreshness(
            name,
            self.standing_of(name, grant, now),
            self.confirmed_at(name),
            since,
            since + limit if since else None,
            self.withheld(name),
        )

    def hint_of(self, domain: str) -> timedelta:
        """The refresh hint in the bundle that is held of a domain. KeyError if there is none."""
        peer = self._fold.state.peers[domain]
        held = self._hints.get(domain)
        if held is None or held[0] is not peer.envelope:
            bundle = held_envelope(peer.envelope, domain, peer.key).bundle
            held = self._hints[domain] = (peer.envelope, timedelta(seconds=bundle.refresh_hint or 0))
        return held[1]

    def _of(self, domain: str, key: bytes) -> _Known:
        known = self._known.get(domain)
        if known is None or known.key != key:  # what another key signed is forgotten
            known = self._known[domain] = _Known(key)
            self._known.move_to_end(domain, last=False)
        return known

    def _rise(self, domain: str, known: _Known, at: datetime, data: bytes) -> bool:
        if known.at is not None and at <= known.at:
            return False
        self.serial += 1
        known.at, known.data, known.serial = at, data, self.serial
        self._known.move_to_end(domain)
        return True


def _level(peer: Peer | None, key: bytes) -> _Level | None:
    """The level held of a domain, under this pin."""
    return None if peer is None or peer.key != key else (peer.epoch, peer.sequence)
