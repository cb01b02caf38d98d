"""Peers' envelopes and confirmations from the peers' own bundle endpoints: while the hub is away, or silent about a peer.

A peer is asked when nobody else speaks of it: the hub is not connected, its bundle is not fresh, none is held, or it has
confirmed one that nobody brought. First its confirmation; its envelope only when that names a later level than the one
held, or when there is none. What comes is judged as if the hub had brought it: the pinned key decides, not the address, so
TLS checks nobody. The address was named by others: every guard of trustfed.runtime.guarded_fetch stands before it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from trustfed.cluster.freshness import Freshness, Standing
from trustfed.cluster.intake import Intake
from trustfed.cluster.state import ClusterState, Grant
from trustfed.errors import TrustfedError
from trustfed.journal.fold import Fold
from trustfed.runtime import guarded_fetch, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.guarded_fetch import Fetched
from trustfed.runtime.https_client import pinned_content_context
from trustfed.runtime.metrics import Registry
from trustfed.runtime.reach import Reach

log = logs.get("cluster.peer_endpoints")

AT_ONCE = 8
SECONDS = 10.0
"""One request may last so long as a whole: name, connection, TLS and answer."""
LEAST_APART, LONGEST_APART = timedelta(seconds=5), timedelta(minutes=10)
_TICK_SECONDS = 2.0
_SOON_SECONDS = 5.0
Fetch = Callable[[str, str], Fetched]
"""(URL, entity tag of the answer held or "") → the answer. It blocks. Raises TrustfedError."""


def guarded(reach: Reach) -> Fetch:
    """Fetch by trustfed.runtime.guarded_fetch, without asking TLS who answers."""
    context = pinned_content_context()

    def fetch(url: str, etag: str) -> Fetched:
        return guarded_fetch.fetch(url, context, etag=etag, reach=reach, seconds=SECONDS, redirects=0)

    return fetch


@dataclass
class _Asked:
    """How it went with one peer."""

    next_at: float
    failures: int = 0
    error: str = ""
    first: int = 0  # the endpoint that answered last is asked first
    etags: dict[str, str] = field(default_factory=dict)


class PeerEndpoints:
    """Asks at most AT_ONCE peers at a time, each at its own pace."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        freshness: Freshness,
        connected: Callable[[], bool],
        fetch: Fetch,
        clock: Clock,
        registry: Registry,
        uniform: Callable[[float, float], float] = random.uniform,
        intake: Intake | None = None,
    ) -> None:
        self._fold, self._freshness, self._connected, self._fetch = fold, freshness, connected, fetch
        self._clock, self._uniform = clock, uniform
        self._intake = intake or Intake(fold, clock)
        self._asked: dict[str, _Asked] = {}
        self._wanted: set[str] = set()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        # Threads of its own: a peer that drips must not take those that write the journal.
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="peer-endpoints")
        self._count = registry.counter(
            "cluster_peer_endpoint_polls_total", "peers asked at their own bundle endpoints", labels=("outcome",)
        )

    def status(self) -> dict[str, str]:
        """For `trustfed cluster status`: the peers that are being asked, and what went wrong with each ("" nothing)."""
        return {domain: asked.error for domain, asked in self._asked.items()}

    async def run(self) -> None:
        """Ask who is due; ends only when cancelled."""
        try:
            while True:
                self.look()
                await self._clock.sleep(_TICK_SECONDS)
        finally:
            for task in self._under_way.values():
                task.cancel()
            self._threads.shutdown(wait=False, cancel_futures=True)

    def ask_all(self) -> int:
        """Ask every peer once, soon, whatever is held of it; gives how many there are to ask."""
        now, state = self._clock.now(), self._fold.state
        found = {name for name, grant in state.pins(now).items() if state.endpoints.get(name) and not grant.local}
        self._wanted |= found
        for name in found & self._asked.keys():
            self._asked[name].next_at = min(self._asked[name].next_at, self._clock.monotonic())
        self.look()
        return len(found)

    def look(self) -> None:
        """Begin what is due."""
        now, state, connected = self._clock.now(), self._fold.state, self._connected()
        pins = {name: grant for name, grant in state.pins(now).items() if state.endpoints.get(name) and not grant.local}
        for name in [name for name in self._asked if name not in pins]:
            del self._asked[name]
        moment = self._clock.monotonic()
        for name, grant in pins.items():
            urgent = self._urgent(name, grant)
            if connected and not urgent and name not in self._wanted:
                self._asked.pop(name, None)
                continue
            asked = self._asked.get(name)
            if asked is None:
                spread = _SOON_SECONDS if urgent or name in self._wanted else self._apart(name)
                asked = self._asked[name] = _Asked(moment + self._uniform(0, spread))
            if asked.next_at <= moment and name not in self._under_way and len(self._under_way) < AT_ONCE:
                task = self._under_way[name] = asyncio.create_task(self._ask(name, asked))
                task.add_done_callback(lambda _, name=name: self._under_way.pop(name, None))  # type: ignore[misc]
                self._wanted.discard(name)

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way:
            await asyncio.wait(set(self._under_way.values()))

    def _urgent(self, name: str, grant: Grant) -> bool:
        """Whether nothing, nothing fresh, or not the newest is held of it."""
        peer = self._fold.state.peers.get(name)
        if peer is None or peer.key != grant.exporter_key or self._freshness.withheld(name):
            return True
        return self._freshness.standing_of(name, grant, self._clock.now()) is not Standing.FRESH

    def _apart(self, name: str) -> float:
        """A quarter of the peer's hint: it confirms twice per hint, and is stale after one."""
        hint = self._freshness.hint_of(name) if name in self._fold.state.peers else timedelta(0)
        return min(max(hint / 4, LEAST_APART), LONGEST_APART).total_seconds()

    async def _ask(self, name: str, asked: _Asked) -> None:
        apart = self._apart(name)
        try:
            await self._ask_each(name, asked)
            asked.failures, asked.error = 0, ""
            self._count.add(outcome="answered")
        except TrustfedError as error:
            asked.failures += 1
            if asked.error != error.message:
                log.warning("peer not reached at its own endpoint", peer=name, error=error.message)
            asked.error = error.message
            self._count.add(outcome="failed")
        except Exception as error:  # whatever a peer's answer breaks: the others are asked all the same
            asked.failures, asked.error = asked.failures + 1, f"its answer broke: {type(error).__name__}"
            log.exception("peer not reached at its own endpoint", error=error, peer=name)
            self._count.add(outcome="failed")
        apart = min(apart * 2 ** min(asked.failures, 6), LONGEST_APART.total_seconds())
        asked.next_at = self._clock.monotonic() + self._uniform(apart * 0.8, apart)

    async def _ask_each(self, name: str, asked: _Asked) -> None:
        """Every endpoint in turn until one has answered. Raises what the last one raised."""
        endpoints = self._fold.state.endpoints.get(name) or ()
        failure: TrustfedError | None = None
        for step in range(len(endpoints)):
            number = (asked.first + step) % len(endpoints)
            try:
                await self._ask_one(name, endpoints[number].rstrip("/"), asked)
            except TrustfedError as error:
                failure = error
                continue
            asked.first = number
            return
        if failure is not None:
            raise failure

    async def _ask_one(self, name: str, url: str, asked: _Asked) -> None:
        confirmed, failure = False, None
        try:
            said = await self._get(f"{url}/confirmation", "")
            self._freshness.take(name, said.body or b"")
            confirmed = True
        except TrustfedError as error:  # an older peer has none; another door may be broken
            failure = error
        peer = self._fold.state.peers.get(name)
        if confirmed and peer is not None and not self._freshness.withheld(name):
            return  # it says itself that there is nothing newer
        tag = asked.etags.get(url, "") if peer is not None else ""
        found = await self._get(f"{url}/envelope", tag)
        if found.body is not None:
            await self._receive(name, found.body)
            asked.etags[url] = found.etag
        if not confirmed and failure is not None:
            log.debug("peer has no confirmation", peer=name, error=failure.message)

    async def _receive(self, name: str, data: bytes) -> None:
        if await self._intake.take(name, data, actor=f"cluster:{name}", reason="read at its own bundle endpoint"):
            log.info("bundle of a peer came from its own endpoint", peer=name)

    async def _get(self, url: str, etag: str) -> Fetched:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, url, etag)
