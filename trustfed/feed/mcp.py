"""MCP-over-xDS for one istiod on loopback: `meshConfig.configSources: [{address: "xds://127.0.0.1:PORT"}]`.

What istiod's client does (istio/istio pkg/adsc, run against 1.29) decides what is done here:
1. It deletes whatever an answer lacks. So nothing is answered before a state is known, and a state is answered whole.
2. It opens its own ports only after an answer for every kind that it asked for: kinds that are not rendered get an empty one.
3. Its first request for a type carries a junk nonce and may not be taken for an ACK: it is a subscription whatever it carries.
4. It never refuses. What comes with our last nonce is an ACK, or with error_detail a NACK, which is logged; others say nothing.
5. A kind is pushed when its content changed, and only that kind. A reader that is slow gets the newest content when it has read:
   nothing is queued for it, and readers that are sent the same answer at a time share its bytes.
6. Nobody shows a certificate here: any process of the pod may connect. A connection has one stream, there are few, and a newcomer
   takes the oldest one's place (one without a stream first), so that no process can lock istiod out: what it holds stays, and
   its client comes back.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from trustfed.errors import Invalid
from trustfed.feed.intake import State
from trustfed.feed.mcp_answers import Answers
from trustfed.h2grpc.limits import Limits
from trustfed.h2grpc.server import GrpcServer
from trustfed.h2grpc.service import Bidi, Call
from trustfed.h2grpc.wire import Framed, prefixed
from trustfed.proto import envoy_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.pace import Paces
from trustfed.runtime.sockets import listen_tcp
from trustfed.spiffe.ids import shown

log = logs.get("feed.mcp")

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
MAX_STREAMS = 4
"""One istiod needs one for each address that it is configured with; 6."""
LIMITS = Limits(connections=MAX_STREAMS, connections_per_user=MAX_STREAMS, concurrent_streams=1, replace=True)
MAX_TYPES = 64
MAX_TYPE_URL = 256
_REQUESTS = (200, 0.05)
"""Requests of one stream that are heard at once, and seconds for each one thereafter; its peer's window fills meanwhile."""
_CLOSE_SECONDS = 1.0


@dataclass
class _Subscription:
    """One type on one stream: the version and the nonce that were sent last."""

    version: str = ""
    nonce: str = ""
    answered: bool = False


@dataclass(frozen=True)
class _Answer:
    """What one or several readers are being sent now."""

    name: str
    version: str
    nonce: str
    message: Framed


class _Reader:
    """One stream: what it asked for, whether there may be something to send, and what is on its way."""

    def __init__(self) -> None:
        self.sending: _Answer | None = None
        self.types: dict[str, _Subscription] = {}
        self.news = asyncio.Event()
        self.node = ""


class _Istiod:
    """Who is at the other end of a connection: nobody can say."""

    def close(self) -> None:
        """Nothing is held for it."""


class Mcp:
    """The server; `publish` says what it serves."""

    name = "mcp"

    def __init__(self, address: str) -> None:
        self._address = address
        self._told: Callable[[], None] = lambda: None
        self._answers = Answers()
        self._known = False
        self._readers: set[_Reader] = set()
        self._nonces = 0
        self._server = GrpcServer({METHOD: Bidi(self._stream)}, accept=_accept, limits=LIMITS)

    @property
    def readers(self) -> int:
        """Streams that asked for anything."""
        return sum(bool(reader.types) for reader in self._readers)

    def on_readers(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a reader came or went."""
        self._told = listener

    async def open(self) -> None:
        """Listen: at once, for an istiod that finds nobody at its start ends. Invalid, Conflict, Denied, Unavailable."""
        await self._server.serve_tcp(listen_tcp(self._address))

    async def close(self) -> None:
        """Let the readers go; istiod keeps what it has."""
        await self._server.close(_CLOSE_SECONDS)

    async def publish(self, state: State, changed: frozenset[str] | None) -> Mapping[str, str]:
        """Serve `state` from now on; what cannot be encoded is left out alone."""
        refused = await asyncio.to_thread(self._answers.update, state.resources, changed)
        self._known = True
        for reader in self._readers:
            reader.news.set()
        return refused

    async def _stream(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        reader = _Reader()
        self._readers.add(reader)
        reading = asyncio.create_task(self._read(reader, requests))
        try:
            while not reading.done():
                news = asyncio.ensure_future(reader.news.wait())
                try:
                    await asyncio.wait({news, reading}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
                reader.news.clear()
                while (due := self._due(reader)) is not None:
                    yield self._answer(reader, due)
                    reader.sending = None
            reading.result()
        finally:
            reading.cancel()
            self._readers.discard(reader)
            if reader.types:
                log.info("istiod disconnected", node=reader.node)
            self._told()
            del reading  # what it raised holds this frame: without it, that request is let go at once

    def _due(self, reader: _Reader) -> str | None:
        """A type whose newest content this reader has not been sent."""
        if not self._known:  # 1
            return None
        version = self._answers.version
        return next((name for name, sent in reader.types.items() if sent.version != version(name)), None)

    def _answer(self, reader: _Reader, name: str) -> bytes:
        version, sent = self._answers.version(name), reader.types[name]
        on_their_way = (other.sending for other in self._readers)
        made = next(
            (one for one in on_their_way if one is not None and (one.name, one.version) == (name, version)), None
        )
        if made is None:
            self._nonces += 1
            nonce = f"trustfed-{self._nonces}"
            made = _Answer(name, version, nonce, Framed(prefixed(self._answers.answer(name, nonce))))
        reader.sending, sent.version, sent.nonce, sent.answered = made, version, made.nonce, False
        return made.message

    async def _read(self, reader: _Reader, requests: AsyncIterator[bytes]) -> None:
        clock, pace = SystemClock(), Paces(*_REQUESTS)
        async for data in requests:
            await pace.turn("", clock)
            try:
                request = pb.DiscoveryRequest.FromString(data)
            except DecodeError:
                raise Invalid("a request is no DiscoveryRequest") from None
            self._take(reader, request)

    def _take(self, reader: _Reader, request: pb.DiscoveryRequest) -> None:
        name = request.type_url
        if not name or len(name) > MAX_TYPE_URL:
            raise Invalid(f"the type {shown(name)} cannot be asked for", hint=f"1 to {MAX_TYPE_URL} characters")
        held = reader.types.get(name)
        if held is None:  # 2, 3
            if len(reader.types) >= MAX_TYPES:
                raise Invalid(f"more than {MAX_TYPES} types on one stream")
            if not reader.types:
                reader.node = shown(request.node.id)[:200]
                log.info("istiod connected", node=reader.node)
            reader.types[name] = _Subscription()
            reader.news.set()
            if len(reader.types) == 1:
                self._told()
        elif held.nonce and request.response_nonce == held.nonce:  # 4
            if request.HasField("error_detail") and not held.answered:
                log.error("istiod refused", type=name, error=shown(request.error_detail.message)[:500])
            held.answered = True
        elif not request.response_nonce and held.nonce:
            held.version = ""  # asked for again
            reader.news.set()


def _accept(_: socket.socket) -> _Istiod:
    return _Istiod()
