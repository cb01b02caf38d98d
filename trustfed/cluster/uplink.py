"""The cluster's stream to the hub: its own envelopes up, peers' envelopes and grants down, levels both ways.

What it says goes to `HubNews`, which believes little of it. While the hub is away nothing here stops anything else;
every reconnect resumes from the journal's position. Whatever a hub sends, it ends at most its own stream.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import uuid4

from grpclib.client import Stream

from ca.lifecycle import Level
from trustfed.cluster import events as e
from trustfed.cluster.hub_calls import SERVICE, HubCalls
from trustfed.cluster.hub_news import HubNews
from trustfed.cluster.identity import OwnIdentity
from trustfed.cluster.resign import push_envelope
from trustfed.cluster.state import ClusterState, newest_roots
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_client import VerifiedChannel, receive, stream
from trustfed.runtime.https_client import exactly
from trustfed.runtime.metrics import Registry
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.tls import client_context
from trustfed.runtime.version import PROTOCOL, SOFTWARE
from trustfed.runtime.waiting import together
from trustfed.spiffe.ids import SpiffeId

log = logs.get("cluster.uplink")

_HELLO_SECONDS = 10.0
_HEARTBEAT_SECONDS = 15.0
_SILENCE_SECONDS = 60.0
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 10.0
_CLOCK_OFFSET_SECONDS = 60


class Talker(Protocol):
    """A part of the cluster with a say of its own on the stream."""

    def greet(self, hello: pb.ClusterHello) -> None:
        """Add to the hello of a stream that begins."""

    def begin(self, hello: pb.HubHello) -> None:
        """The hub answered."""

    def messages(self) -> AsyncIterator[pb.FromCluster]:
        """What is to be sent now; asked again after `Uplink.look`, and with every heartbeat."""


class Uplink:
    """One connection to the hub at a time; `run` keeps it."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        identity: OwnIdentity,
        levels: Callable[[], Mapping[str, tuple[Level, tuple[str, ...], int]]],
        news: HubNews,
        clock: Clock,
        registry: Registry,
        endpoints: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._fold, self._identity, self._levels, self._clock = fold, identity, levels, clock
        self._endpoints = endpoints
        self._sources: list[Callable[[], pb.FromCluster | None]] = []
        self._listeners: list[Callable[[], None]] = []
        self._talkers: list[Talker] = []
        self._from_hub = news
        self._channel: VerifiedChannel | None = None
        self._news, self._begin_anew = asyncio.Event(), asyncio.Event()
        self.calls = HubCalls(fold, self._require, news, clock)
        self._reported: dict[str, tuple[Level, int]] = {}
        self._again = False
        self._connected_since: datetime | None = None
        self._last_error = ""
        self._gauge = registry.gauge("cluster_hub_connected", "1 while the stream to the hub is up")

    @property
    def status(self) -> dict[str, object]:
        """For `trustfed cluster status`."""
        since = self._connected_since
        return {
            "connected": since is not None,
            "since": since.isoformat() if since else None,
            "error": self._last_error or None,
            "refused": dict(self._from_hub.refused),
            "importers": self._from_hub.importers(),
        }

    @property
    def connected_since(self) -> datetime | None:
        """Since when the hub is there; None while it is not."""
        return self._connected_since

    def also_send(self, source: Callable[[], pb.FromCluster | None]) -> None:
        """Send what `source` gives, after this domain's envelope, whenever it is another object than before; ask again
        after `look`. Every stream begins with it.
        """
        self._sources.append(source)

    def join(self, talker: Talker) -> None:
        """Let a part speak on every stream."""
        self._talkers.append(talker)

    def on_connection(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the hub came or went."""
        self._listeners.append(listener)

    def again(self) -> None:
        """Send everything of our own once more: the envelope, and what other parts say."""
        self._again = True
        self._news.set()

    def look(self) -> None:
        """There is something to send."""
        self._news.set()

    def levels_changed(self) -> None:
        """Agents hold more, or less, than was reported."""
        self._news.set()

    def on_event(self, event: TypedEvent) -> None:
        """Send what an event means for the hub."""
        match event:
            case e.BundlePublished() | e.PeerBundle():
                self._news.set()
            case e.GrantAccepted() | e.GrantEnded():
                self.calls.look()
                self._news.set()
            case e.GrantRepinned():
                # The hub has sent the envelope that was refused under the old pin: it must send all of it again.
                self._begin_anew.set()

    async def run(self) -> None:
        """Stay connected: at once after a stream that worked, with full jitter between tries that did not."""
        wait = _FIRST_WAIT
        while True:
            started = self._clock.monotonic()
            try:
                await self._session()
            except TrustfedError as error:
                self._last_error = error.message
                log.warning("stream to the hub ended", error=error.message)
                if isinstance(error, Denied):
                    await self._introduce()
            except Exception as error:  # whatever a hub sends ends its stream, never this process
                self._last_error = f"the stream broke: {type(error).__name__}"
                log.exception("stream to the hub broke", error=error)
            finally:
                self._connected_since = None
                self._gauge.set(0)
                self._tell()
            wait = _FIRST_WAIT if self._clock.monotonic() - started > _LONGEST_WAIT else min(wait * 2, _LONGEST_WAIT)
            await self._clock.sleep(random.uniform(0, wait))  # noqa: S311 - jitter

    async def _introduce(self) -> None:
        """Refused: the hub may hold only an older envelope than the one that our certificate belongs to; show it ours."""
        try:
            await push_envelope(self._fold.state)
        except TrustfedError as error:
            log.warning("the hub did not take our newest envelope", error=error.message)

    async def _session(self) -> None:
        state = self._fold.state
        if state.hub is None:
            raise Unavailable("this cluster is not enrolled")
        root_set = newest_roots(state)
        host, port = parse_address(state.hub.grpc)
        context = client_context(self._identity.keypair, root_set.roots, alpn=("h2",))
        channel = VerifiedChannel(host, port, context, exactly(SpiffeId.parse(state.hub.id)))
        try:
            async with stream(channel, SERVICE + "Sync", pb.FromCluster, pb.FromHub) as opened:
                await opened.send_message(pb.FromCluster(hello=self._hello()))
                first = await receive(opened, _HELLO_SECONDS, "the hub")
                snapshot = await self._greeted(first)
                self._channel = channel
                self._connected_since, self._last_error = self._clock.now(), ""
                self._gauge.set(1)
                self._tell()
                self._from_hub.begin(snapshot=snapshot)
                for talker in self._talkers if first is not None else ():
                    talker.begin(first.hello)
                self._begin_anew.clear()
                self.calls.look()
                await together([self._send(opened), self._receive(opened)], self._begin_anew)
                raise Unavailable("an operator pinned another key: everything is asked for anew")
        finally:
            self._channel = None
            channel.close()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _hello(self) -> pb.ClusterHello:
        state = self._fold.state
        self._reported.clear()
        hello = pb.ClusterHello(
            protocol_min=PROTOCOL,
            protocol_max=PROTOCOL,
            software=SOFTWARE,
            position=state.hub_position,
            hub_instance=state.hub_instance,
            root_version=len(state.root_documents),
            bundle_endpoints=self._endpoints(),
        )
        for domain, (level, _, _) in self._levels().items():
            hello.levels.add(trust_domain=domain, epoch=level.epoch, sequence=level.sequence)
        for talker in self._talkers:
            talker.greet(hello)
        return hello

    async def _greeted(self, first: pb.FromHub | None) -> bool:
        """Check the hub's hello; True when a snapshot follows."""
        if first is None or first.WhichOneof("message") != "hello":
            raise Invalid("the hub did not begin with a hello")
        hello = first.hello
        if hello.protocol != PROTOCOL:
            raise Invalid(
                f"the hub speaks protocol {hello.protocol}, this cluster {PROTOCOL}", hint="upgrade one of them"
            )
        offset = abs(to_ms(self._clock.now()) - hello.time_ms) / 1000
        if offset > _CLOCK_OFFSET_SECONDS:
            log.warning("clocks differ", seconds=round(offset), peer="hub")
        instance = hello.hub_instance
        if not 1 <= len(instance) <= 128:
            raise Invalid("the hub's hello names no instance")
        if instance != self._fold.state.hub_instance:
            await self._record(lambda s: [e.HubJoined(instance)] if s.hub_instance != instance else [], "hub joined")
        return bool(hello.snapshot)

    async def _send(self, opened: object) -> None:
        """Own envelope until the hub has stored it, what other parts have, levels as they rise, and a heartbeat."""
        sent: Level | None = None
        said: dict[int, pb.FromCluster] = {}
        while True:
            if self._again:
                self._again, sent = False, None
                said.clear()
            sent = await self._send_envelope(opened, sent)
            for number, source in enumerate(self._sources):
                message = source()
                if message is not None and message is not said.get(number):
                    await opened.send_message(message)  # type: ignore[attr-defined]
                    said[number] = message
            for talker in self._talkers:
                async for message in talker.messages():
                    await opened.send_message(message)  # type: ignore[attr-defined]
                    # Thousands of signatures may be between the first message and the last: no bundle waits for them.
                    sent = await self._send_envelope(opened, sent)
            levels = self._levels()
            # A grant that ended and was given anew: the hub has forgotten what was said under the old one.
            self._reported = {domain: said for domain, said in self._reported.items() if domain in levels}
            for domain, (level, laggards, count) in levels.items():
                if self._reported.get(domain) != (level, count):
                    acknowledge = pb.Acknowledge(laggards=laggards[:100], laggard_count=count)
                    acknowledge.level.trust_domain = domain
                    acknowledge.level.epoch, acknowledge.level.sequence = level
                    await opened.send_message(pb.FromCluster(acknowledge=acknowledge))  # type: ignore[attr-defined]
                    self._reported[domain] = (level, count)
            try:
                async with asyncio.timeout(_HEARTBEAT_SECONDS):  # wait_for may swallow the end when news comes with it
                    await self._news.wait()
            except TimeoutError:
                beat = pb.Heartbeat(time_ms=to_ms(self._clock.now()))
                await opened.send_message(pb.FromCluster(heartbeat=beat))  # type: ignore[attr-defined]
            self._news.clear()

    async def _send_envelope(self, opened: object, sent: Level | None) -> Level | None:
        """The own envelope, if another one than `sent`; what was sent last."""
        state = self._fold.state
        if not state.envelope or state.level == sent:
            return sent
        await opened.send_message(pb.FromCluster(envelope=state.envelope))  # type: ignore[attr-defined]
        return state.level

    async def _receive(self, opened: Stream[pb.FromCluster, pb.FromHub]) -> None:
        while True:
            message = await receive(opened, _SILENCE_SECONDS, "the hub")
            await self._from_hub.take(message)
            if self._from_hub.forgotten:
                self.calls.look()

    def _require(self) -> VerifiedChannel:
        if self._channel is None:
            raise Unavailable("the hub is not connected", hint="trustfed cluster status")
        return self._channel

    async def _record(self, decide: Callable[[ClusterState], Sequence[TypedEvent]], why: str) -> None:
        await self._fold.execute(
            decide,
            command_id=uuid4().hex,
            actor="hub",
            reason=why,
            now=self._clock.now(),
        )
