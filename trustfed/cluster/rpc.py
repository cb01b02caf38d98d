"""The gRPC door for agents (trustfed/proto/node.proto): mTLS, then in code: a node of this one domain, known and not banned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import grpc

from ca.lifecycle import Level
from trustfed.cluster import nodes
from trustfed.cluster.addresses import Addresses
from trustfed.cluster.callers import Callers
from trustfed.cluster.issuance import Issuance
from trustfed.cluster.joining import Joining, Turn
from trustfed.cluster.presence import Presence
from trustfed.cluster.reserves import reserve_seconds
from trustfed.cluster.sessions import Sessions, View
from trustfed.cluster.state import ClusterState, Node
from trustfed.errors import Denied, Invalid, Unavailable
from trustfed.federation.names import node_name
from trustfed.journal.fold import Fold
from trustfed.proto import node_pb2 as pb
from trustfed.runtime import logs
from trustfed.runtime.clock import Clock
from trustfed.runtime.grpc_server import answering
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.version import PROTOCOL, SOFTWARE
from trustfed.spiffe.bundle import Bundle
from trustfed.spiffe.certificate import serial_text
from trustfed.spiffe.x509svid import X509Svid

log = logs.get("cluster.rpc")

SERVICE = "trustfed.node.v1.Node"
_MAX_LEVELS = 10_000
_MAX_INFLIGHT = 4
_HEARTBEAT_SECONDS = 15.0
_HELLO_SECONDS = 10.0
_Caller = TypeVar("_Caller")


class NodeRpc:
    """The four methods of the Node service."""

    def __init__(
        self,
        fold: Fold[ClusterState],
        bundle: Callable[[], Bundle],
        issuance: Issuance,
        presence: Presence,
        sessions: Sessions,
        on_levels: Callable[[], None],
        on_report: Callable[[str, Level], None],
        clock: Clock,
        addresses: Addresses | None = None,
        reserve_ttl_max: timedelta = timedelta(0),
        on_proxies: Callable[[str, pb.ProxyReport], None] = lambda _node, _report: None,
        on_shown: Callable[[str, X509Svid], None] = lambda _node, _svid: None,
        on_told: Callable[[str, int], None] = lambda _node, _ms: None,
    ) -> None:
        self._on_shown, self._on_told = on_shown, on_told
        self._on_report, self._on_proxies = on_report, on_proxies
        self._fold = fold
        self._addresses, self._reserve_ttl_max = addresses or Addresses(), reserve_ttl_max
        self._issuance, self._presence, self._sessions = issuance, presence, sessions
        self._on_levels, self._clock = on_levels, clock
        self._callers = Callers(bundle, clock)
        self._inflight: dict[str, int] = {}
        self._joining = Joining()

    def handlers(self) -> Any:
        """For `Server.add_generic_rpc_handlers`."""
        unary, both = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler

        def codec(request: Any, response: Any) -> dict[str, Any]:
            return {
                "request_deserializer": request.FromString,
                "response_serializer": response.SerializeToString,
            }

        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Sync": both(self.sync, **codec(pb.FromAgent, pb.FromCluster)),
                "IssueX509": unary(self.issue_x509, **codec(pb.IssueX509Request, pb.IssueX509Response)),
                "IssueJwt": unary(self.issue_jwt, **codec(pb.IssueJwtRequest, pb.IssueJwtResponse)),
                "RenewNode": unary(self.renew_node, **codec(pb.RenewNodeRequest, pb.RenewNodeResponse)),
            },
        )

    @answering
    async def issue_x509(self, request: pb.IssueX509Request, context: Any) -> pb.IssueX509Response:
        svid, node = self._caller(context)
        issued: pb.IssueX509Response = await self._one_of_few(svid, node, self._issuance.x509(node, request))
        return issued

    @answering
    async def issue_jwt(self, request: pb.IssueJwtRequest, context: Any) -> pb.IssueJwtResponse:
        svid, node = self._caller(context)
        issued: pb.IssueJwtResponse = await self._one_of_few(svid, node, self._issuance.jwt(node, request))
        return issued

    @answering
    async def renew_node(self, request: pb.RenewNodeRequest, context: Any) -> pb.RenewNodeResponse:
        svid, node = self._caller(context)
        issued = await self._one_of_few(
            svid,
            node,
            self._issuance.node_svid(node.name, request.public_key, serial_text(svid.serial), request.command_id[:128]),
        )
        self._presence.alive(node.name, issued.not_after)
        return pb.RenewNodeResponse(chain=issued.chain, not_after_ms=to_ms(issued.not_after))

    @answering
    async def sync(self, requests: Any, context: Any) -> None:
        turn = await self._joining.turn()
        try:
            svid, name = self._logged(context, self._verified_caller)
            known = self._fold.state.nodes.get(name)
            if (
                known is None or not known.banned
            ):  # one that is banned is told so in a greeting: no other refusal is a ban
                self._caller(context)
            await asyncio.sleep(0)  # others first: a signature was verified
        finally:
            turn.done()
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                message = await context.read()
        except TimeoutError:
            raise Invalid(f"no hello came within {_HELLO_SECONDS:.0f} s") from None
        if message is grpc.aio.EOF or message.WhichOneof("message") != "hello":
            raise Invalid("the first message of a stream must be a hello")
        hello = message.hello
        if not hello.protocol_min <= PROTOCOL <= hello.protocol_max:
            raise Invalid(f"this cluster speaks protocol {PROTOCOL}", hint="upgrade the agent or the cluster")
        turn = await self._joining.turn()
        try:
            await self._joined(context, hello, svid, name, turn)
        finally:
            turn.done()

    async def _joined(self, context: Any, hello: pb.AgentHello, svid: X509Svid, name: str, turn: Turn) -> None:
        known = self._fold.state.nodes.get(name)
        if known is not None and known.banned:
            await self._greet(context, self._fold.state, (), snapshot=False, banned=known.banned)
            self._caller(context)
        # Time has passed: from here to `join` nothing waits.
        state = self._fold.state
        node = nodes.standing(state, name, svid.not_before)
        view = View(node.name, node.groups, self._fold.position)
        self._presence.alive(node.name, svid.not_after)
        held = self._presence.get(node.name)
        assert held is not None
        held.software, held.heard = hello.software[:64], self._clock.now()
        held.streams += 1
        self._presence.says(node.name, self._known(hello.levels))
        assert state.domain is not None
        ours = hello.cluster_instance == state.domain.instance
        missed = self._sessions.missed(view, hello.position, state) if ours else None
        snapshot = missed is None
        self._sessions.join(view, state, snapshot=snapshot)
        view.mark(missed or ())
        log.info("node connected", node=node.name, software=held.software, snapshot=snapshot)
        self._on_levels()
        reader = asyncio.create_task(self._read(context, node.name))
        try:
            self._on_shown(node.name, svid)
            await self._greet(context, state, node.groups, snapshot=snapshot, told=node.name)
            await self._write(context, view, reader, svid.not_after, turn, snapshot=snapshot)
        finally:
            reader.cancel()
            self._sessions.leave(view)
            held.closed(self._clock.now())
            log.info("node disconnected", node=node.name, error=view.over.message if view.over else "")

    async def _greet(
        self,
        context: Any,
        state: ClusterState,
        groups: Sequence[str],
        *,
        snapshot: bool,
        banned: str = "",
        told: str = "",
    ) -> None:
        assert state.domain is not None
        hello = pb.ClusterHello(
            protocol=PROTOCOL,
            software=SOFTWARE,
            position=self._sessions.position,
            snapshot=snapshot,
            cluster_instance=state.domain.instance,
            time_ms=to_ms(self._clock.now()),
            trust_domain=state.trust_domain,
            grpc_addresses=self._addresses.grpc,
            https_addresses=self._addresses.https,
            reserve_seconds=reserve_seconds(state, groups, self._reserve_ttl_max),
        )
        self._on_told(told, hello.time_ms)
        await context.write(pb.FromCluster(hello=hello))
        # The second message, before any entry or bundle: an agent that was away learns first what it may no longer do.
        await context.write(pb.FromCluster(bans=pb.Bans(banned=bool(banned), reason=banned)))

    async def _write(
        self, context: Any, view: View, reader: asyncio.Task[None], until: datetime, turn: Turn, *, snapshot: bool
    ) -> None:
        first, monotonic = snapshot, self._clock.monotonic
        # Who resumes is told at once what was confirmed meanwhile; a snapshot says so itself.
        beat_at = monotonic() + (_HEARTBEAT_SECONDS if snapshot else 0)
        while True:
            if view.over is not None:
                if isinstance(view.over, Denied):
                    await context.write(pb.FromCluster(bans=pb.Bans(banned=True, reason=view.over.message)))
                raise view.over
            position = self._sessions.position
            for message in self._sessions.take(view, self._fold.state, self._clock.now()):
                if view.over is not None:
                    break
                await context.write(message)
            if view.over is not None:
                continue
            if first:
                await context.write(pb.FromCluster(position=position, snapshot_end=pb.SnapshotEnd()))
                first = False
            if monotonic() >= beat_at:
                # What happened meanwhile was nothing to this agent: it need not be replayed when it comes back.
                for beat in self._sessions.beats(view, self._fold.state, self._clock.now()):
                    self._on_told(view.node, beat.heartbeat.time_ms)
                    await context.write(beat)
                beat_at = monotonic() + _HEARTBEAT_SECONDS
            turn.done()
            changed = asyncio.ensure_future(view.changed())
            try:
                done, _ = await asyncio.wait(
                    {changed, reader}, timeout=max(beat_at - monotonic(), 0), return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                changed.cancel()
            if view.over is not None:
                continue
            if reader in done:
                reader.result()
                return
            if self._clock.now() >= until:
                raise Unavailable("the SVID of this connection has expired", hint="connect again with a newer one")

    async def _read(self, context: Any, name: str) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            held = self._presence.get(name)
            if held is None:
                return
            held.heard = self._clock.now()
            kind = message.WhichOneof("message")
            if kind == "proxies":
                self._on_proxies(name, message.proxies)
            elif kind == "acknowledge":
                for domain, level in self._known([message.acknowledge]):
                    if self._presence.acknowledges(name, domain, level):
                        self._on_levels()

    async def _one_of_few(self, svid: X509Svid, node: Node, work: Awaitable[Any]) -> Any:
        """One node cannot take the whole house: a few requests at once, the rest is told to wait."""
        if self._inflight.get(node.name, 0) >= _MAX_INFLIGHT:
            if asyncio.iscoroutine(work):
                work.close()
            raise Unavailable(f"node {node.name} has {_MAX_INFLIGHT} requests under way", hint="ask in batches")
        self._inflight[node.name] = self._inflight.get(node.name, 0) + 1
        try:
            made = await work
            nodes.standing(self._fold.state, node.name, svid.not_before)  # banned, or attested anew, meanwhile
            return made
        finally:
            self._inflight[node.name] -= 1
            if not self._inflight[node.name]:
                del self._inflight[node.name]

    def _caller(self, context: Any) -> tuple[X509Svid, Node]:
        """The node behind the connection. Raises Denied for anybody else: another domain, a workload, a banned node."""
        return self._logged(context, self._standing_caller)

    def _logged(self, context: Any, judge: Callable[[Any], _Caller]) -> _Caller:
        try:
            return judge(context)
        except (Denied, Invalid) as error:
            log.warning("call refused", peer=context.peer(), error=error.message)
            raise

    def _standing_caller(self, context: Any) -> tuple[X509Svid, Node]:
        svid, name = self._verified_caller(context)
        node = nodes.standing(self._fold.state, name, svid.not_before)
        self._on_shown(name, svid)
        return svid, node

    def _verified_caller(self, context: Any) -> tuple[X509Svid, str]:
        svid = self._callers.svid(context)
        try:
            return svid, node_name(svid.id)
        except Invalid:
            raise Denied(f"{svid.id} is not a node", hint="only node agents may call this service") from None

    def _known(self, said: Any) -> list[tuple[str, Level]]:
        """The levels of bundles that this cluster has handed out; any other is nobody's business here.

        One of the own domain above the newest there is shows that this cluster was restored from a backup.
        """
        if len(said) > _MAX_LEVELS:
            raise Invalid(f"{len(said)} levels in one message", hint=f"at most {_MAX_LEVELS}")
        state, levels = self._fold.state, []
        for level in said:
            peer, at = state.peers.get(level.trust_domain), Level(level.epoch, level.sequence)
            if level.trust_domain == state.trust_domain:
                self._on_report("an agent", at)
                newest = state.level
            elif peer is not None:
                newest = Level(peer.epoch, peer.sequence)
            else:
                continue
            if at <= newest:
                levels.append((level.trust_domain, at))
        return levels
