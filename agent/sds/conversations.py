"""The open SDS streams: each hears its Envoy's requests, and is sent what changed as soon as it has changed.

One rule for what is not there (no identity yet, an SVID on its way, a domain without a grant): the stream stays open, since
Envoy's listeners wait for it, and ends after HOLD_SECONDS with the reason; Envoy then asks anew, with a back-off of its own.
What a process had and may have no more ends its stream at once, or takes it away where the protocol can.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from agent.evidence.holders import SDS, Holders, Holding
from agent.identification import Identification
from agent.peer import Caller
from agent.sds.config import SdsConfig
from agent.sds.protocol import Answered, Incremental, StateOfTheWorld
from agent.sds.reports import Reports, Speaker
from agent.sds.secrets import Prepared, Secrets
from agent.sds.shares import NAME_COSTS, Shares
from agent.store import Store
from agent.streams import PATIENCE_SECONDS
from agent.trusted_time import TrustedTime
from trustfed.errors import Denied, Invalid
from trustfed.h2grpc.service import Call
from trustfed.proto import envoy_pb2 as pb
from trustfed.runtime.pace import Paces

HOLD_SECONDS = 60.0
"""How long a stream is held open for what is not there."""
_PER_TURN = 100
_REQUESTS = (200, 0.05)
"""Requests of one stream that are heard at once, and seconds for each one thereafter; its peer's window fills meanwhile."""
_SAID = (1_000, 0.5)
"""Secrets of which one process may say at once that it loaded or refuses them, and seconds for each one thereafter: what the
cluster hears, and what the log holds, is of all the node's Envoys."""

Request = TypeVar("Request", bound=Message)
Heard_contra = TypeVar("Heard_contra", contravariant=True)


class _Protocol(Protocol[Heard_contra]):
    proxy: str
    names: tuple[str, ...]

    def had(self, name: str) -> bool: ...

    def lost(self, name: str) -> bool: ...

    def take(self, request: Heard_contra) -> Answered | None: ...

    def offer(self, found: dict[str, Prepared | None]) -> bytes | None: ...


class Conversations:
    """Every SDS stream of one agent."""

    def __init__(
        self,
        store: Store,
        identification: Identification,
        config: SdsConfig,
        clock: TrustedTime,
        reports: Reports,
        pushed: Callable[[], None] = lambda: None,
        holders: Holders | None = None,
    ) -> None:
        self.store, self.identification, self.clock, self.reports = store, identification, clock, reports
        self.secrets = Secrets(store, config)
        self.pushed, self._holders = pushed, holders
        self._config = config
        self._open: dict[_Stream[Any], None] = {}
        self._shares = Shares()
        self.numbers = itertools.count(1)
        self._stale: deque[_Stream[Any]] = deque()
        self._said = Paces(*_SAID)
        store.on_change(self._on_change)

    def __len__(self) -> int:
        return len(self._open)

    def state_of_the_world(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """StreamSecrets."""
        return self._converse(
            _Stream(self, _caller(call), StateOfTheWorld(self._config), pb.DiscoveryRequest), requests
        )

    def incremental(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """DeltaSecrets."""
        return self._converse(
            _Stream(self, _caller(call), Incremental(self._config), pb.DeltaDiscoveryRequest), requests
        )

    async def fetch(self, call: Call, request: bytes) -> bytes:
        """FetchSecrets: all that is asked for, at once or within a few seconds, or why not."""
        stream = _Stream(self, _caller(call), StateOfTheWorld(self._config), pb.DiscoveryRequest)
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_SECONDS
        self._enter(stream)
        try:
            stream.hear(request)
            if not stream.protocol.names:
                hint = f"resource_names = [{self._config.default_svid_name!r}], for one"
                raise Invalid("no secret is named", hint=hint)
            while True:
                stream.news.clear()
                message = await stream.next()
                if stream.missing is None and message is not None:
                    return message
                if stream.missing is not None and (loop.time() >= end or isinstance(stream.missing, Denied)):
                    raise stream.missing
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(end):
                        await stream.news.wait()
        finally:
            self._leave(stream)

    async def _converse(self, stream: _Stream[Any], requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._enter(stream)
        reader = asyncio.create_task(stream.read(requests))
        try:
            while True:
                stream.news.clear()
                if reader.done():
                    reader.result()
                    return
                message = await stream.next()
                if message is not None:
                    self.pushed()
                    yield message
                else:
                    await stream.wait()
        finally:
            if not reader.cancel() and not reader.cancelled():
                reader.exception()  # heard of here, if at all
            # What it raised holds this frame: without it, that request is let go at once and not by the collector.
            del reader
            self._leave(stream)

    def _enter(self, stream: _Stream[Any]) -> None:
        self._shares.enter(stream.caller)
        self._open[stream] = None

    def charge(self, stream: _Stream[Any], bytes_: int) -> None:
        """Count what a stream asks for from now on. Raises Refused."""
        self._shares.ask(stream.caller, bytes_ - stream.asked)
        stream.asked = bytes_

    def told(self, speaker: Speaker, proxy: str, answered: Answered) -> None:
        """What an Envoy says of what it was sent goes to the cluster, unless its process says too much."""
        now = self.clock.monotonic()
        taken = [one for one in answered.secrets if self._said.take(str(speaker[0]), now)]
        said = [(one.entry_id, one.name, one.serial, one.version) for one in taken]
        self.reports.left_out(len(answered.secrets) - len(said))
        if answered.error is None:
            self.reports.loaded(speaker, proxy, said)
        else:
            self.reports.refused(speaker, proxy, said, answered.error)

    def hold(self, stream: _Stream[Any], secrets: Iterable[Prepared | None]) -> None:
        """A stream has been given these; what it was given before it has no more."""
        if self._holders is None:
            return
        before, pairs = stream.holdings, [(one.entry_id, one.serial) for one in secrets if one and one.entry_id]
        stream.holdings = [self._holders.take((pair,), SDS) for pair in pairs]
        for holding in before:
            self._holders.let_go(holding)

    def _leave(self, stream: _Stream[Any]) -> None:
        if self._open.pop(stream, 0) is None:
            self.hold(stream, ())
            self.charge(stream, 0)
            self._shares.leave(stream.caller)
            self.reports.ended(stream.speaker)

    def _on_change(self) -> None:
        """Everybody may be concerned; they are woken in parts, so that calls in between are answered."""
        idle = not self._stale
        self._stale = deque(self._open)
        if idle and self._stale:
            self._wake()

    def _wake(self) -> None:
        for _ in range(min(_PER_TURN, len(self._stale))):
            self._stale.popleft().news.set()
        if self._stale:
            asyncio.get_running_loop().call_soon(self._wake)


class _Stream(Generic[Request]):
    """One stream: who asks, by which protocol, and since when something is missing."""

    def __init__(
        self, house: Conversations, caller: Caller, protocol: _Protocol[Request], request: type[Request]
    ) -> None:
        self.caller, self.protocol = caller, protocol
        self.speaker: Speaker = caller.pid, next(house.numbers)
        self.news = asyncio.Event()
        self.missing: Exception | None = None
        """Why a secret that was asked for is not there."""
        self.asked = 0
        """Bytes that it is charged for (Conversations.charge)."""
        self.holdings: list[Holding] = []
        self._house, self._request = house, request
        self._loop = asyncio.get_running_loop()
        self._pace = Paces(*_REQUESTS)
        self._give_up_at: float | None = None

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        """Hear requests until the peer has no more."""
        try:
            async for request in requests:
                await self._pace.turn("", self._house.clock)
                self.hear(request)
                del request  # 60 kB of an Envoy's own description, which nobody needs while the next one is waited for
                self.news.set()
        finally:
            self.news.set()

    def hear(self, request: bytes) -> None:
        """One request. Raises Invalid, Refused."""
        try:
            parsed = self._request.FromString(request)
        except DecodeError:
            raise Invalid("the request is not the message of this method") from None
        answered = self.protocol.take(parsed)
        self._house.charge(self, sum(NAME_COSTS + len(name) for name in self.protocol.names))
        if answered is None:
            return
        self._house.told(self.speaker, self.protocol.proxy, answered)

    async def next(self) -> bytes | None:
        """What is to be sent now. Raises Denied to whom nothing may be sent any more, and what `wait` waited for in vain."""
        house, self.missing = self._house, None
        if not self.caller.alive():
            raise Denied("the calling process has ended")
        ids: tuple[str, ...] = ()
        serving = house.store.serving()
        if serving:
            found = house.identification.now(self.caller)
            ids = found if found is not None else await house.identification.wait(self.caller)
        names, now = self.protocol.names, house.clock.now()
        secrets = {name: house.secrets.find(name, ids, now, had=self.protocol.had(name)) for name in names}
        for name in (name for name in names if secrets[name] is None):
            why = house.secrets.why_not(name, ids)
            if isinstance(why, Denied) and self.protocol.lost(name):
                raise why
            self.missing = self.missing or why
        # Before the first synchronisation nobody knows what is gone.
        message = self.protocol.offer(secrets) if serving else None
        if message is not None:
            house.hold(self, secrets.values())
        self._count_down()
        return message

    def _count_down(self) -> None:
        if self.missing is None:
            self._give_up_at = None
        elif self._give_up_at is None:
            self._give_up_at = self._loop.time() + HOLD_SECONDS
        elif self._loop.time() >= self._give_up_at:
            raise self.missing

    async def wait(self) -> None:
        """Until there may be something to send, or no patience left."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._give_up_at):
                await self.news.wait()


def _caller(call: Call) -> Caller:
    assert isinstance(call.peer, Caller)
    return call.peer
