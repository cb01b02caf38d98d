"""The stream from the cluster: bans first, then entries and bundles as they change; resumed by position after a break.

Only the cluster's Bans is a ban. Whatever else fails, a refusal too, leaves what is held: the cluster's clock or state
may be wrong, and all its nodes would stop at once.

The order of one stream, checked here: 1 the cluster's hello · 2 bans · 3 everything else. Position and cluster instance are
kept only at the ends of whole batches and snapshots, so a broken stream is resumed from what was wholly applied.

However many nodes lose their cluster, they come back over LONGEST_WAIT seconds, each at a moment of its own (full jitter);
of several addresses each is tried before that wait.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from agent import addresses
from agent.home_look import HomeLook
from agent.identity import Node
from agent.intake import Intake, domain_of, level_of
from agent.link import SERVICE, Link
from agent.rotation import Chance
from agent.store import Store
from agent.trusted_time import TrustedTime
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.proto import node_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.grpc_client import VerifiedChannel, stream
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import from_ms, to_ms
from trustfed.runtime.version import PROTOCOL, SOFTWARE
from trustfed.runtime.waiting import news_or_time, together
from trustfed.spiffe.ids import TrustDomain, shown

log = logs.get("agent.sync")

CONNECT_SECONDS = 5.0
HELLO_SECONDS = 10.0
HEARTBEAT_SECONDS = 15.0
SILENCE_SECONDS = 45.0
FIRST_WAIT = 0.5
LONGEST_WAIT = 7.0
_CLOCK_OFFSET_SECONDS = 60


class Followers(Protocol):
    """What is done about news that are neither entries nor bundles."""

    def renew(self, said: pb.Renew) -> None:
        """Its people want what began before a moment replaced."""

    def reissue(self, said: pb.Reissue) -> None:
        """SVIDs of these authorities are to be replaced."""
        ...

    def connected(self, hello: pb.ClusterHello) -> None:
        """The cluster has said hello, and that this node is not banned."""
        ...

    def urgent(self) -> None:
        """Something was taken away, by a ban or otherwise: it must not come back."""
        ...


class Outbox(Protocol):
    """What this node tells its cluster, besides what the stream itself says."""

    def begin(self) -> None:
        """A stream is up."""
        ...

    async def next(self) -> pb.FromAgent:
        """The next message, once there is one."""
        ...


@dataclass
class SyncStatus:
    """How the stream is doing, for `trustfed agent status`."""

    connected_since: datetime | None = None
    heard: datetime | None = None
    offline_since: datetime | None = None
    address: str = ""
    position: int = 0
    error: str = ""
    hint: str = ""


class Sync:
    """Keeps the store as the cluster says; `run` ends only when cancelled."""

    def __init__(
        self,
        store: Store,
        node: Node,
        link: Link,
        followers: Followers,
        intake: Intake,
        clock: TrustedTime,
        chance: Chance,
        registry: Registry,
        outbox: Outbox | None = None,
        told: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._store, self._node, self._link, self._told = store, node, link, told
        self._followers, self._outbox = followers, outbox
        self._saying = asyncio.Lock()
        self._intake, self._clock, self._chance = intake, clock, chance
        self.status = SyncStatus(offline_since=clock.now())
        self.instance = ""
        """Which cluster journal the position counts in."""
        self.tried = asyncio.Event()
        """Set once the first stream has told the bans, or could not be had."""
        self._coming = ""
        self._hello_of_cluster = pb.ClusterHello()
        self._lacking = False
        self._home = HomeLook(node)
        self._dialled = False
        self._connected = registry.gauge("agent_cluster_connected", "1 while the stream from the cluster is up")

    def resume(self, position: int, instance: str) -> None:
        """What was kept was wholly applied up to here."""
        self.status.position, self.instance = position, instance

    def start_over(self) -> None:
        """Ask for a whole snapshot, now: what is held may lack something. It is served meanwhile, and kept."""
        self._lacking = True
        self._link.stale.set()

    @property
    def resumable(self) -> str:
        """The instance in whose journal the position counts; "" where only a snapshot can follow on what is held."""
        return "" if self._lacking or self._store.lapsed else self.instance

    async def run(self) -> None:
        """Stay connected: at once after a renewal, with full jitter between rounds over the addresses that failed."""
        wait = FIRST_WAIT
        while True:
            started, error, self._dialled = self._clock.monotonic(), None, False
            try:
                await self._session()
            except TrustfedError as caught:
                error = caught
            except Exception as caught:  # whatever the cluster sends, what is held is served on
                error = Unavailable(errors.answer(caught).line())
            finally:
                served = self.status.connected_since is not None
                self._lost()
            if error is None:
                wait = FIRST_WAIT
                continue
            if (error.message, error.hint) != (self.status.error, self.status.hint):
                log.warning("stream from the cluster ended", error=error.message, hint=error.hint)
            self.status.error, self.status.hint = error.message, error.hint
            if _mistrust(error):
                await self._home.refresh()
            if self._dialled and not self._link.failed():  # the next address, not by all nodes at once
                if served:
                    await self._clock.sleep(FIRST_WAIT * self._chance())
                continue
            self.tried.set()
            if self._clock.monotonic() - started > LONGEST_WAIT:
                wait = FIRST_WAIT
            # A new SVID of this node ends the pause: the old one may have been why.
            await news_or_time(self._link.stale, self._clock, wait * self._chance())
            wait = min(wait * 2, LONGEST_WAIT)

    async def _session(self) -> None:
        """One stream, until it breaks (raises) or a newer SVID should be presented (returns)."""
        end = self._node.identity.svid.not_after
        if end <= self._clock.now():
            raise Unavailable(
                f"the node's own SVID ended at {end.isoformat()}", hint="it is being renewed; see own_svid"
            )
        channel, self._dialled = self._link.dial(), True
        self.status.address = self._link.address
        try:
            async with stream(channel, SERVICE + "Sync", pb.FromAgent, pb.FromCluster) as opened:
                await self._connect(channel)
                snapshot = await self._greet(opened)
                self._link.use(channel)
                status = self.status
                status.connected_since, status.offline_since = self._clock.now(), None
                status.error = status.hint = ""
                self._connected.set(1)
                address = self._link.address
                log.info("connected to the cluster", address=address, snapshot=snapshot)
                self._followers.connected(self._hello_of_cluster)
                await self._remember(self._hello_of_cluster)
                jobs = [self._receive(opened, snapshot=snapshot), self._beat(opened), self._tell(opened)]
                await together(jobs, self._link.stale)
        finally:
            self._let_go(channel)

    async def _connect(self, channel: VerifiedChannel) -> None:
        """Where nobody answers, the next address is not kept waiting."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await channel.__connect__()
        except TimeoutError:
            raise Unavailable(f"{self._link.address} did not answer within {CONNECT_SECONDS:.0f} s") from None

    async def _remember(self, hello: pb.ClusterHello) -> None:
        """The address that works comes first from now on, over a restart too, before the others that the cluster told."""
        self._link.worked()
        identity, address = self._node.identity, self._link.address
        grpc = addresses.usable(hello.grpc_addresses) or identity.grpc_addresses
        https = addresses.usable(hello.https_addresses) or identity.https_addresses
        if (address, grpc, https) != (identity.grpc, identity.grpc_addresses, identity.https_addresses):
            await self._node.adopt(
                lambda present: replace(present, grpc=address, grpc_addresses=grpc, https_addresses=https)
            )

    def _lost(self) -> None:
        self._connected.set(0)
        if self.status.offline_since is None:
            self.status.offline_since = self._clock.now()
        self.status.connected_since = None

    async def _greet(self, opened: Any) -> bool:
        """1 and 2. True when a snapshot follows."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                await opened.send_message(pb.FromAgent(hello=self._hello()))
                first = await opened.recv_message()
                if first is None:
                    await _status(opened)
                second = await opened.recv_message()
        except TimeoutError:
            raise Unavailable("the cluster did not say hello in time") from None
        if first.WhichOneof("message") != "hello" or second is None or second.WhichOneof("message") != "bans":
            raise Invalid("the cluster did not begin with a hello and its bans")
        hello = first.hello
        if hello.protocol != PROTOCOL:
            raise Invalid(f"the cluster speaks protocol {hello.protocol}, this agent {PROTOCOL}", hint="upgrade one")
        if hello.trust_domain != self._store.trust_domain.name:
            raise Denied(f"the cluster serves {shown(hello.trust_domain)}, not {self._store.trust_domain}")
        offset = abs(to_ms(self._clock.wall()) - hello.time_ms) / 1000
        if offset > _CLOCK_OFFSET_SECONDS:
            log.warning("clocks differ", seconds=round(offset), peer="cluster")
        self._bans(second.bans)
        self.tried.set()
        self._time(hello.time_ms)
        if second.bans.banned:
            raise Denied(f"this node is banned: {second.bans.reason[:200]}")
        if not hello.snapshot and hello.cluster_instance != self.instance:
            raise Invalid("the cluster would resume a stream of another instance")
        self._coming, self._hello_of_cluster = hello.cluster_instance, hello
        if not hello.snapshot:
            self._store.mark_synced()
        return bool(hello.snapshot)

    def _hello(self) -> pb.AgentHello:
        hello = pb.AgentHello(
            protocol_min=PROTOCOL,
            protocol_max=PROTOCOL,
            software=SOFTWARE,
            # After a ban was lifted, and after a start, there is nothing to resume from.
            position=self.status.position if self._store.synced and self.instance and not self._lacking else 0,
            cluster_instance=self.instance,
        )
        for held in self._store.bundles.values():
            hello.levels.append(level_of(held))
        return hello

    async def _beat(self, opened: Any) -> None:
        while True:
            await self._clock.sleep(HEARTBEAT_SECONDS)
            await self._say(opened, pb.FromAgent(heartbeat=pb.Heartbeat(time_ms=to_ms(self._clock.now()))))

    async def _tell(self, opened: Any) -> None:
        if self._outbox is None:
            await asyncio.Event().wait()
            return
        self._outbox.begin()
        while True:
            await self._say(opened, await self._outbox.next())

    async def _say(self, opened: Any, message: pb.FromAgent) -> None:
        """One whole message after the other: a long one may wait for its window in the middle."""
        async with self._saying:
            await opened.send_message(message)

    async def _receive(self, opened: Any, *, snapshot: bool) -> None:
        seen: tuple[set[str], set[TrustDomain]] | None = (set(), set()) if snapshot else None
        while True:
            try:
                # Not wait_for: it forgets a cancellation that comes together with a message.
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await opened.recv_message()
            except TimeoutError:
                raise Unavailable(f"the cluster was silent for {SILENCE_SECONDS:.0f} s") from None
            if message is None:
                await _status(opened)
            self.status.heard = self._clock.now()
            kind = message.WhichOneof("message")
            if kind == "snapshot_end" and seen is not None:
                self._intake.complete(*seen)
                seen, self._lacking = None, False
                self._followers.urgent()
            elif kind == "bundle":
                if seen is not None and (named := domain_of(message.bundle.trust_domain)) is not None:
                    seen[1].add(named)
                level = await self._intake.bundle(message.bundle)
                if level is not None:
                    await self._say(opened, pb.FromAgent(acknowledge=level))
            else:
                if seen is not None and kind == "entries":
                    seen[0].update(entry.id for entry in message.entries.upsert)
                self._take(kind, message)
            if message.position and seen is None and not self._lacking:
                self.status.position, self.instance = message.position, self._coming

    def _take(self, kind: str | None, message: pb.FromCluster) -> None:
        if kind == "bans":
            self._bans(message.bans)
        elif kind == "entries":
            if self._intake.entries(message.entries):
                self._followers.urgent()
        elif kind == "bundle_removed":
            self._intake.remove_bundle(message.bundle_removed.trust_domain)
            self._followers.urgent()
        elif kind == "reissue":
            self._followers.reissue(message.reissue)
        elif kind == "renew":
            self._followers.renew(message.renew)
            self._followers.urgent()
        elif kind == "heartbeat":
            self._time(message.heartbeat.time_ms)
            self._intake.confirmed(message.heartbeat.confirmed)

    def _time(self, milliseconds: int) -> None:
        """What time the cluster has, as far as it is believed (agent.trusted_time)."""
        try:
            said = from_ms(milliseconds)
        except Invalid:
            return
        self._told(milliseconds)
        if self._link.bound is not None:
            self._clock.authenticate(said, self._link.bound, self._link.address)

    def _bans(self, bans: pb.Bans) -> None:
        if bans.banned:
            self.banned(bans.reason)
        else:
            self._store.lift_ban()

    def banned(self, reason: str) -> None:
        """The cluster has said that this node is banned: from this moment on nothing is served."""
        log.error("this node is banned; it serves nothing any more", reason=reason[:200])
        self._store.ban(reason[:200])
        self.status.position = 0
        self._followers.urgent()

    def _let_go(self, channel: VerifiedChannel) -> None:
        self._link.use(None)
        channel.close()


async def _status(opened: Any) -> None:
    """Raise why the cluster ended the stream."""
    await opened.recv_trailing_metadata()
    raise Unavailable("the cluster closed the stream")


def _mistrust(error: TrustfedError) -> bool:
    """Whether it was the server's identity that failed, not the network."""
    return isinstance(error, Denied | Invalid) or isinstance(error.__cause__, ssl.SSLError)
