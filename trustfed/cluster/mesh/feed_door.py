"""The door for feeds (trustfed/proto/mesh.proto), on the agents' gRPC port: mTLS, then in code: an allowed feed of this domain.

A stream, in order: 1 the caller's SVID is verified in the home bundle, and its ID is an allowed feed's · 2 its hello, within
HELLO_SECONDS and the bounds · 3 our hello · 4 what it lacks, one batch · 5 a batch for every change, and one that only confirms
every HEARTBEAT_SECONDS · 6 it ends at once when the feed is forbidden, and when the SVID that it began with has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

import grpc

from bundle_publisher.istio.resource import Resource
from trustfed.cluster.callers import Callers
from trustfed.cluster.mesh import feeds
from trustfed.cluster.mesh.events import FeedForbidden
from trustfed.cluster.mesh.feed_streams import Told, View, batch, lacking
from trustfed.cluster.state import ClusterState
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.journal.events import TypedEvent
from trustfed.journal.fold import Fold
from trustfed.proto import mesh_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_server import answering
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import PROTOCOL, SOFTWARE
from trustfed.spiffe.x509svid import X509Svid

log = logs.get("cluster.feed_door")

SERVICE = "trustfed.mesh.v1.Mesh"
HELLO_SECONDS = 10.0
HEARTBEAT_SECONDS = 15.0
MAX_HELD = 20_000
MAX_STREAMS_PER_FEED = 64
"""The replicas of an istiod have one service account, and so their feeds one ID."""
MAX_STREAMS = 256
WRITE_SECONDS = 30.0
"""How long a feed may leave one message (at most about 1.5 MiB) unread: that, and keys, is what a slow one costs."""


class RouteTable(Protocol):
    """The rendered routes of this cluster (trustfed.cluster.mesh.routes)."""

    def table(self) -> Mapping[str, Resource]:
        """By key, as they are now; not changed afterwards."""
        ...

    def digest(self) -> bytes:
        """trustfed.federation.mesh_digest of the table."""
        ...

    def subscribe(self, listener: Callable[[Iterable[str]], None]) -> None:
        """Call `listener` with the keys that changed, after each change."""
        ...


class FeedDoor:
    """The one method of the Mesh service, and who is connected. `confirmed`: when the hub last stood by what routes rest on."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        callers: Callers,
        routes: RouteTable,
        confirmed: Callable[[], datetime | None],
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._fold, self._callers, self._routes = fold, callers, routes
        self._confirmed, self._clock = confirmed, clock
        self._views: dict[View, Told] = {}
        self._last: dict[str, Told] = {}
        routes.subscribe(self._changed)
        registry.gauge("mesh_feeds_connected", "Streams of feeds that are open").read(lambda: float(len(self._views)))
        self._sent = registry.counter("mesh_feed_sent_bytes_total", "Bytes of resources that were sent to feeds")

    def handlers(self) -> Any:
        """For `Server.add_generic_rpc_handlers`."""
        follow = grpc.stream_stream_rpc_method_handler(
            self.follow,
            request_deserializer=pb.FromFeed.FromString,
            response_serializer=pb.ToFeed.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Follow": follow})

    def on_event(self, event: TypedEvent) -> None:
        """One event of the journal: a feed that is forbidden is told so at once."""
        if isinstance(event, FeedForbidden):
            for view in self._views:
                if view.spiffe_id == event.spiffe_id:
                    view.end(Denied(f"{event.spiffe_id} is not allowed any more", hint="trustfed feed allow"))
            self._last.pop(event.spiffe_id, None)

    def feeds(self) -> list[dict[str, object]]:
        """Every allowed feed and how far it is, for `trustfed feed list`."""
        return [self._shown(name, allowed.at) for name, allowed in sorted(self._fold.state.mesh.feeds.items())]

    @answering
    async def follow(self, _: Any, context: Any) -> None:
        svid = self._caller(context)  # 1
        hello = await self._hello(context)  # 2
        name = str(svid.id)
        feeds.standing(self._fold.state, svid.id)  # time has passed
        if sum(view.spiffe_id == name for view in self._views) >= MAX_STREAMS_PER_FEED:
            raise Unavailable(f"{name} has {MAX_STREAMS_PER_FEED} streams open", hint="give each feed an ID of its own")
        if len(self._views) >= MAX_STREAMS:
            raise Unavailable(f"{MAX_STREAMS} streams of feeds are open at this cluster")
        view, told = View(name, svid.serial), Told(hello.software[:64], heard=self._clock.now())
        self._views[view] = self._last[name] = told
        if hello.digest != self._routes.digest():
            view.mark(lacking(self._routes.table(), {held.key: held.version for held in hello.held}))
        del hello  # megabytes of it, for as long as the stream lasts
        log.info("feed connected", feed=name, software=told.software, lacks=len(view.pending))
        left = max((svid.not_after - self._clock.now()).total_seconds(), 0.0)
        jobs: list[asyncio.Task[None]] = [
            asyncio.create_task(work)
            for work in (view.ended(), self._read(context, told), self._write(context, view), asyncio.sleep(left))
        ]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in jobs[:3]:  # 6: a writer that waits for a feed that does not read is not waited for
                if job.done():
                    return job.result()
            raise Unavailable("the SVID of this connection has ended", hint="connect again with a newer one")
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            del self._views[view]
            log.info("feed disconnected", feed=name, error=view.over.message if view.over else "")

    def _caller(self, context: Any) -> X509Svid:
        try:
            svid = self._callers.svid(context)
            feeds.standing(self._fold.state, svid.id)
        except (Denied, Invalid) as error:
            log.warning("call refused", peer=context.peer(), error=error.message)
            raise
        return svid

    async def _hello(self, context: Any) -> pb.FeedHello:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                message = await context.read()
        except TimeoutError:
            raise Invalid(f"no hello came within {HELLO_SECONDS:.0f} s") from None
        if message is grpc.aio.EOF or message.WhichOneof("message") != "hello":
            raise Invalid("the first message of a stream must be a hello")
        hello: pb.FeedHello = message.hello
        if not hello.protocol_min <= PROTOCOL <= hello.protocol_max:
            raise Invalid(f"this cluster speaks protocol {PROTOCOL}", hint="upgrade the feed or the cluster")
        if len(hello.held) > MAX_HELD:
            raise Invalid(f"{len(hello.held)} resources in one hello", hint=f"at most {MAX_HELD}")
        return hello

    def _our_hello(self) -> pb.ClusterHello:
        return pb.ClusterHello(
            protocol=PROTOCOL,
            software=SOFTWARE,
            trust_domain=self._fold.state.trust_domain,
            time_ms=to_ms(self._clock.now()),
        )

    async def _write(self, context: Any, view: View) -> None:
        """3, 4, 5. Each batch is made at once, of one state; what changes while it is written is the next one."""
        await _write(context, pb.ToFeed(hello=self._our_hello()))
        while True:
            table, digest = self._routes.table(), self._routes.digest()
            for said in batch(table, view.take(), digest, self._confirmed()):
                await _write(context, pb.ToFeed(resources=said))
                self._sent.add(said.ByteSize())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await view.changed()

    async def _read(self, context: Any, told: Told) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            told.heard = self._clock.now()
            if message.WhichOneof("message") == "applied":
                told.apply(message.applied)

    def _changed(self, keys: Iterable[str]) -> None:
        changed = tuple(keys)
        for view in self._views:
            view.mark(changed)

    def _shown(self, name: str, allowed_at: datetime) -> dict[str, object]:
        told = self._last.get(name, Told())
        streams = sum(view.spiffe_id == name for view in self._views)
        return {
            "spiffe_id": name,
            "allowed_at": allowed_at,
            "connected": streams > 0,
            "streams": streams,
            "software": told.software,
            "heard_at": told.heard,
            "current": told.digest == self._routes.digest(),
            "output": told.output,
            "readers": told.readers,
            "rejected": told.rejected,
        }


async def _write(context: Any, message: pb.ToFeed) -> None:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await context.write(message)
    except TimeoutError:
        why = f"a message was not read within {WRITE_SECONDS:.0f} s"
        raise Unavailable(why, hint="the feed may connect again") from None
