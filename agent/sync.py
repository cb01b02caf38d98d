"""The stream from the cluster: bans first, then entries and bundles as they change; resumed by position after a break.

Only the cluster's Bans is a ban. Whatever else fails, a refusal too, leaves what is held: the cluster's clock or state
may be wrong, and all its nodes would stop at once.

The order of one stream, checked here: 1 the cluster's hello · 2 bans · 3 everything else. Position and cluster instance are
kept only at the ends of whole batches and snapshots, so a broken stream is resumed from what was wholly applied.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from agent import enrolment
from agent.identity import Node
from agent.intake import Intake, domain_of, level_of
from agent.link import SERVICE, Link
from agent.rotation import Chance
from agent.store import Store
from trustfed.errors import Denied, Invalid, TrustfedError, Unavailable
from trustfed.proto import node_pb2 as pb
from trustfed.runtime import errors, logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_client import VerifiedChannel, stream
from trustfed.runtime.metrics import Registry
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import PROTOCOL, SOFTWARE
from trustfed.runtime.waiting import news_or_time, together
from trustfed.spiffe.ids import TrustDomain, shown

log = logs.get("agent.sync")

HELLO_SECONDS = 10.0
HEARTBEAT_SECONDS = 15.0
SILENCE_SECONDS = 45.0
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
_CLOCK_OFFSET_SECONDS = 60

OnReissue = Callable[[pb.Reissue], None]


@dataclass
class SyncStatus:
    """How the stream is doing, for `trustfed agent status`."""

    connected_since: datetime | None = None
    heard: datetime | None = None
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
        on_reissue: OnReissue,
        on_connected: Callable[[], None],
        intake: Intake,
        clock: Clock,
        chance: Chance,
        registry: Registry,
    ) -> None:
        self._store, self._node, self._link = store, node, link
        self._on_reissue, self._on_connected = on_reissue, on_connected
        self._intake, self._clock, self._chance = intake, clock, chance
        self.status = SyncStatus()
        self._instance = self._coming = ""
        self._connected = registry.gauge("agent_cluster_connected", "1 while the stream from the cluster is up")

    async def run(self) -> None:
        """Stay connected: at once after a renewal, with full jitter between tries that failed."""
        wait = FIRST_WAIT
        while True:
            started, error = self._clock.monotonic(), None
            try:
                await self._session()
            except TrustfedError as caught:
                error = caught
            except Exception as caught:  # whatever the cluster sends, what is held is served on
                error = Unavailable(errors.answer(caught).line())
            finally:
                self._connected.set(0)
                self.status.connected_since = None
            if error is None:
                wait = FIRST_WAIT
                continue
            self.status.error, self.status.hint = error.message, error.hint
            log.warning("stream from the cluster ended", error=error.message, hint=error.hint)
            if _mistrust(error):
                await self._refresh_home()
            worked = self._clock.monotonic() - started > LONGEST_WAIT
            wait = FIRST_WAIT if worked else min(wait * 2, LONGEST_WAIT)
            # A new SVID of this node ends the pause: the old one may have been why.
            await news_or_time(self._link.stale, self._clock, wait * self._chance())

    async def _session(self) -> None:
        """One stream, until it breaks (raises) or a newer SVID should be presented (returns)."""
        channel = self._link.dial()
        try:
            async with stream(channel, SERVICE + "Sync", pb.FromAgent, pb.FromCluster) as opened:
                snapshot = await self._greet(opened)
                self._link.use(channel)
                self.status.connected_since, self.status.error, self.status.hint = self._clock.now(), "", ""
                self._connected.set(1)
                log.info("connected to the cluster", server=str(self._node.identity.server_id), snapshot=snapshot)
                self._on_connected()
                await together([self._receive(opened, snapshot=snapshot), self._beat(opened)], self._link.stale)
        finally:
            self._let_go(channel)

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
        offset = abs(to_ms(self._clock.now()) - hello.time_ms) / 1000
        if offset > _CLOCK_OFFSET_SECONDS:
            log.warning("clocks differ", seconds=round(offset), peer="cluster")
        self._bans(second.bans)
        if second.bans.banned:
            raise Denied(f"this node is banned: {second.bans.reason[:200]}")
        if not hello.snapshot and hello.cluster_instance != self._instance:
            raise Invalid("the cluster would resume a stream of another instance")
        self._coming = hello.cluster_instance
        if not hello.snapshot:
            self._store.mark_synced()
        return bool(hello.snapshot)

    def _hello(self) -> pb.AgentHello:
        hello = pb.AgentHello(
            protocol_min=PROTOCOL,
            protocol_max=PROTOCOL,
            software=SOFTWARE,
            # After a ban was lifted, and after a start, there is nothing to resume from.
            position=self.status.position if self._store.synced else 0,
            cluster_instance=self._instance,
        )
        for held in self._store.bundles.values():
            hello.levels.append(level_of(held))
        return hello

    async def _beat(self, opened: Any) -> None:
        while True:
            await self._clock.sleep(HEARTBEAT_SECONDS)
            await opened.send_message(pb.FromAgent(heartbeat=pb.Heartbeat(time_ms=to_ms(self._clock.now()))))

    async def _receive(self, opened: Any, *, snapshot: bool) -> None:
        seen: tuple[set[str], set[TrustDomain]] | None = (set(), set()) if snapshot else None
        while True:
            try:
                message = await asyncio.wait_for(opened.recv_message(), SILENCE_SECONDS)
            except TimeoutError:
                raise Unavailable(f"the cluster was silent for {SILENCE_SECONDS:.0f} s") from None
            if message is None:
                await _status(opened)
            self.status.heard = self._clock.now()
            kind = message.WhichOneof("message")
            if kind == "snapshot_end" and seen is not None:
                self._intake.complete(*seen)
                seen = None
            elif kind == "bundle":
                if seen is not None and (named := domain_of(message.bundle.trust_domain)) is not None:
                    seen[1].add(named)
                level = await self._intake.bundle(message.bundle)
                if level is not None:
                    await opened.send_message(pb.FromAgent(acknowledge=level))
            else:
                if seen is not None and kind == "entries":
                    seen[0].update(entry.id for entry in message.entries.upsert)
                self._take(kind, message)
            if message.position and seen is None:
                self.status.position, self._instance = message.position, self._coming

    def _take(self, kind: str | None, message: pb.FromCluster) -> None:
        if kind == "bans":
            self._bans(message.bans)
        elif kind == "entries":
            self._intake.entries(message.entries)
        elif kind == "bundle_removed":
            self._intake.remove_bundle(message.bundle_removed.trust_domain)
        elif kind == "reissue":
            self._on_reissue(message.reissue)

    def _bans(self, bans: pb.Bans) -> None:
        if bans.banned:
            log.error("this node is banned; it serves nothing any more", reason=bans.reason[:200])
            self._store.ban(bans.reason[:200])
            self.status.position = 0
        else:
            self._store.lift_ban()

    async def _refresh_home(self) -> None:
        """The server did not fit the home bundle held: this node may have been away while its authorities changed."""
        try:
            identity = self._node.identity
            fresh = await asyncio.to_thread(enrolment.refresh, identity)
            if fresh.home.level > identity.home.level:
                await self._node.adopt(lambda present: replace(present, home=fresh.home))
                log.info("home bundle refreshed from the cluster's door", sequence=fresh.home.level.sequence)
        except TrustfedError as error:
            log.warning("home bundle not refreshed", error=error.message, hint=error.hint)

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
