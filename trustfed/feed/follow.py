"""The stream from the cluster: mTLS with the feed's own SVID, to exactly the home domain's cluster, deltas in, levels out.

Whatever happens here, what is served stays: only a state whose digest fits takes its place. The order of one stream, checked:
1 the cluster's hello · 2 everything else. When what is held is not what the cluster thinks, the next stream says that nothing
is held, and gets everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from trustfed.errors import Conflict, Denied, Invalid, TrustfedError, Unavailable
from trustfed.federation.mesh_digest import digest
from trustfed.federation.names import cluster_id
from trustfed.feed.identity import Chance, IdentitySource, standing
from trustfed.feed.intake import Intake, State
from trustfed.proto import mesh_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_client import VerifiedChannel, receive, stream
from trustfed.runtime.sockets import parse_address
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.tls import client_context
from trustfed.runtime.version import PROTOCOL, SOFTWARE
from trustfed.runtime.waiting import news_or_time, together
from trustfed.spiffe.ids import TrustDomain, shown
from trustfed.spiffe.verify import verify_x509_svid

log = logs.get("feed.follow")

METHOD = "/trustfed.mesh.v1.Mesh/Follow"
CONNECT_SECONDS = 5.0
HELLO_SECONDS = 10.0
HEARTBEAT_SECONDS = 15.0
SILENCE_SECONDS = 45.0
FIRST_WAIT = 0.5
LONGEST_WAIT = 7.0
MAX_REJECTED = 100
MAX_HELLO = 3_500_000
"""Bytes; the cluster takes 4 MiB (trustfed.runtime.grpc_server)."""


class Served(Protocol):
    """What is served, and where a newer state goes."""

    @property
    def state(self) -> State | None: ...

    @property
    def applied(self) -> pb.Applied: ...

    async def take(self, state: State) -> None: ...

    def confirmed(self, confirmed_ms: int) -> None: ...


@dataclass
class FollowStatus:
    """How the stream is doing, for `trustfed feed status`."""

    connected_since: datetime | None = None
    heard: datetime | None = None
    address: str = ""
    error: str = ""
    hint: str = ""


class Follow:
    """Keeps `served` as the cluster says; `run` ends only when cancelled."""

    def __init__(
        self,
        addresses: Sequence[str],
        trust_domain: TrustDomain,
        source: IdentitySource,
        served: Served,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._addresses, self._domain, self._source, self._served = tuple(addresses), trust_domain, source, served
        self._clock, self._chance = clock, chance
        self._turn = 0
        self._anew = False
        self._told = asyncio.Event()
        self.status = FollowStatus()

    def tell(self) -> None:
        """What was applied has changed: the cluster is to know."""
        self._told.set()

    async def run(self) -> None:
        """Stay connected: at once after a rotation, each address in turn, with full jitter after a round that failed."""
        wait = FIRST_WAIT
        while True:
            if self._source.current is None:
                self.status.error, self.status.hint = "the feed has no identity yet", self._source.error
                await news_or_time(self._source.changed, self._clock, FIRST_WAIT)
                continue
            error: TrustfedError | None = None
            served, started = False, self._clock.monotonic()
            try:
                await self._session()
            except TrustfedError as caught:
                error = caught
            except Exception as caught:  # whatever the cluster sends, what is held is served on
                error = Unavailable(errors.answer(caught).line())
            finally:
                served = self.status.connected_since is not None
                self.status.connected_since = None
            if error is None:
                wait = FIRST_WAIT
                continue
            if (error.message, error.hint) != (self.status.error, self.status.hint):
                log.warning("stream from the cluster ended", error=error.message, hint=error.hint)
            self.status.error, self.status.hint = error.message, error.hint
            if self._clock.monotonic() - started > LONGEST_WAIT:
                wait = FIRST_WAIT  # but one that ends each stream at once is asked less and less often
            if not served:
                self._turn = (self._turn + 1) % len(self._addresses)
                if self._turn:
                    continue  # the next address, before any pause
            await news_or_time(self._source.changed, self._clock, wait * self._chance())
            wait = min(wait * 2, LONGEST_WAIT)

    async def _session(self) -> None:
        """One stream, until it breaks (raises) or a newer SVID should be shown (returns)."""
        channel = self._dial()
        try:
            async with stream(channel, METHOD, pb.FromFeed, pb.ToFeed) as opened:
                try:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        await channel.__connect__()
                except TimeoutError:
                    raise Unavailable(f"{self.status.address} did not answer within {CONNECT_SECONDS:.0f} s") from None
                intake = await self._greet(opened)
                self.status.connected_since, self.status.error, self.status.hint = self._clock.now(), "", ""
                log.info("connected to the cluster", address=self.status.address)
                await together([self._receive(opened, intake), self._tell(opened)], self._source.changed)
        finally:
            channel.close()

    def _dial(self) -> VerifiedChannel:
        identity = standing(self._source.current, self._clock.now(), self._source.error)
        self._source.changed.clear()
        self.status.address = self._addresses[self._turn]
        host, port = parse_address(self.status.address)
        expected = cluster_id(self._domain)

        def verify(chain: tuple[bytes, ...]) -> None:
            verify_x509_svid(chain, identity.bundle, self._clock.now(), expected=expected)

        context = client_context(identity.keypair, identity.bundle.x509_authorities, alpn=("h2",))
        return VerifiedChannel(host, port, context, verify)

    async def _greet(self, opened: Any) -> Intake:
        """1."""
        held, anew = self._served.state or State(), self._anew
        versions: Mapping[str, str] = {} if anew else held.versions
        hello = pb.FeedHello(
            protocol_min=PROTOCOL,
            protocol_max=PROTOCOL,
            software=SOFTWARE,
            digest=b"" if anew or self._served.state is None else digest(versions),
            held=[pb.Held(key=key, version=version) for key, version in versions.items()],
        )
        if hello.ByteSize() > MAX_HELLO:  # more than the cluster takes: then everything comes anew
            hello.ClearField("held")
            hello.digest, anew = b"", True
        await opened.send_message(pb.FromFeed(hello=hello))
        first = await receive(opened, HELLO_SECONDS, "the cluster")
        if first.WhichOneof("message") != "hello":
            raise Invalid("the cluster did not begin with a hello")
        if first.hello.protocol != PROTOCOL:
            raise Invalid(
                f"the cluster speaks protocol {first.hello.protocol}, this feed {PROTOCOL}", hint="upgrade one"
            )
        if first.hello.trust_domain != self._domain.name:
            raise Denied(f"the cluster serves {shown(first.hello.trust_domain)}, not {self._domain}")
        self.status.heard = self._clock.now()
        return Intake(held, anew=anew)

    async def _receive(self, opened: Any, intake: Intake) -> None:
        """2."""
        while True:
            message = await receive(opened, SILENCE_SECONDS, "the cluster")
            self.status.heard = self._clock.now()
            if message.WhichOneof("message") != "resources":
                continue
            try:
                state = intake.take(message.resources)
            except Conflict:
                self._anew = True
                raise
            if state is None:
                continue
            self._anew = False
            held = self._served.state
            if held is not None and state.resources == held.resources and state.rejected == held.rejected:
                self._served.confirmed(state.confirmed_ms)
            else:
                await self._served.take(state)
            self._told.set()

    async def _tell(self, opened: Any) -> None:
        """What was applied, whenever it changed; and that we are there."""
        said: bytes | None = None
        while True:
            applied = self._served.applied
            bytes_ = applied.SerializeToString(deterministic=True)
            if self._served.state is not None and bytes_ != said:
                await opened.send_message(pb.FromFeed(applied=applied))
                said = bytes_
            else:
                beat = pb.Heartbeat(time_ms=to_ms(self._clock.now()))
                await opened.send_message(pb.FromFeed(heartbeat=beat))
            await news_or_time(self._told, self._clock, HEARTBEAT_SECONDS)
