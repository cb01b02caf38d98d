"""The agent put together: the only place that reads its configuration and builds its parts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import resource
from datetime import timedelta

from agent import enrolment
from agent.admin import Admin, measure
from agent.attestors.unix import UnixAttestor
from agent.cache import Cache, NoCache
from agent.config import AgentConfig
from agent.grpc.limits import Limits
from agent.grpc.server import GrpcServer
from agent.identification import Identification
from agent.identity import IdentityFile, Node, NodeIdentity
from agent.intake import Intake
from agent.jwt import JwtSvids
from agent.link import Link
from agent.memory import keep_small
from agent.own_svid import OwnSvid
from agent.peer import Caller
from agent.renewal import Renewal
from agent.store import Store
from agent.streams import Streams
from agent.sync import Sync
from agent.workload_api import WorkloadApi
from trustfed.errors import Denied, TrustfedError, Unavailable
from trustfed.federation.token import EnrolmentToken
from trustfed.proto import node_pb2 as pb
from trustfed.runtime import logs, unix_http
from trustfed.runtime.clock import Clock, SystemClock
from trustfed.runtime.files import DirectoryLock, private_directory
from trustfed.runtime.metrics import Registry
from trustfed.runtime.sockets import address_of, listen_tcp, listen_unix
from trustfed.runtime.unix_http import Door
from trustfed.runtime.waiting import together

log = logs.get("agent")

_CLOSE_SECONDS = 2.0
_ENROL_WAITS = (0.2, 10.0)
_chance = random.SystemRandom().random


async def serve(config: AgentConfig, join_text: str | None, stop: asyncio.Event, cache: Cache | None = None) -> None:
    """Run until `stop`. `join_text` is an enrolment token, ignored once this node is enrolled and may renew.
    `cache` keeps over a restart what the cluster gave; without one nothing is kept.

    Raises Invalid, Denied, Conflict (another process has the folder or the socket), Unavailable.
    """
    logs.configure(config.log.level)
    _allow_descriptors()
    clock = SystemClock()
    folder = private_directory(config.data_dir)
    with DirectoryLock(folder):
        identity = await _identity(config, join_text, clock, stop)
        if identity is not None:
            await _Running(config, identity, cache or NoCache(), clock).run(stop)


class _Running:
    """Every part of an enrolled agent."""

    def __init__(self, config: AgentConfig, identity: NodeIdentity, cache: Cache, clock: Clock) -> None:
        loop = asyncio.get_running_loop()
        self._config, self._clock = config, clock
        registry = Registry()
        node = Node(identity, IdentityFile(config.data_dir), registry)
        store = Store(identity.trust_domain, loop.call_soon)
        link = Link(node, clock)
        limits = config.limits
        self._renewal = Renewal(store, link, clock, _chance, registry)
        self._jwt = JwtSvids(store, link, limits.jwt_svids, clock, registry)
        self._own = OwnSvid(node, link, clock, _chance)
        # After the parts that follow the store, so that they see what is loaded.
        cache.load(store)
        store.on_change(lambda: cache.changed(store))
        intake = Intake(store, node, limits.entries, clock, registry)
        self._sync = Sync(store, node, link, self._reissue, self._renewal.connected, intake, clock, _chance, registry)
        identification = Identification(store, [UnixAttestor(clock.monotonic, limits.hashed_bytes)])
        streams = Streams(store, identification, clock)
        api = WorkloadApi(store, identification, streams, self._jwt, clock)
        self._server = GrpcServer(
            api.routes(),
            accept=Caller.of,
            limits=Limits(connections=limits.connections, connections_per_user=limits.connections_per_user),
        )
        self._admin = Admin(
            node=node,
            store=store,
            sync=self._sync,
            intake=intake,
            own=self._own,
            renewal=self._renewal,
            jwt=self._jwt,
            streams=streams,
            server=self._server,
            registry=registry,
            clock=clock,
            socket=str(config.socket),
            started_at=clock.now(),
        )
        measure(self._admin)

    async def run(self, stop: asyncio.Event) -> None:
        """Open the doors, keep everything alive, close the doors."""
        async with contextlib.AsyncExitStack() as doors:
            await self._open(doors)
            # What was loaded by now stays: the collector need not walk through it ever again.
            gc.collect()
            gc.freeze()
            jobs = [self._sync.run(), self._renewal.run(), self._own.run(), keep_small(self._clock)]
            await together(jobs, stop)

    async def _open(self, doors: contextlib.AsyncExitStack) -> None:
        config, admin = self._config, self._admin
        await self._server.serve_unix(config.socket, 0o777)
        doors.push_async_callback(self._server.close, _CLOSE_SECONDS)
        log.info("Workload API listens", socket=str(config.socket), node=str(admin.node.identity.svid.id))
        await _door(doors, await unix_http.serve(listen_unix(config.admin_path, 0o600), admin.routes()))
        log.info("admin socket listens", socket=str(config.admin_path))
        if config.health:
            listener = listen_tcp(config.health)
            await _door(doors, await unix_http.serve(listener, admin.health_routes()))
            log.info("health and metrics listen", address=address_of(listener))

    def _reissue(self, said: pb.Reissue) -> None:
        spread = timedelta(seconds=min(said.spread_seconds, 24 * 3600))
        log.warning("SVIDs are to be replaced", reason=said.reason[:200], spread_seconds=said.spread_seconds)
        self._renewal.reissue(list(said.authorities), spread)
        self._own.reissue(said.authorities, spread)
        if said.drop_jwts:
            self._jwt.drop(said.authorities)


async def _door(doors: contextlib.AsyncExitStack, door: Door) -> None:
    doors.push_async_callback(door.close)


async def _identity(
    config: AgentConfig, join_text: str | None, clock: Clock, stop: asyncio.Event
) -> NodeIdentity | None:
    """The identity on disk, renewed if it has expired; else a new one by the token. None if `stop` came first."""
    identity = IdentityFile(config.data_dir).load()
    if identity is None:
        if join_text is None:
            raise Unavailable(
                "this node is not enrolled", hint="make a token (trustfed node token), then agent serve --join @FILE"
            )
        return await _enrol(config, EnrolmentToken.decode(join_text, "node"), clock, stop)
    if identity.svid.not_after > clock.now():
        return identity
    try:
        identity = await asyncio.to_thread(enrolment.renew, identity, clock.now())
        IdentityFile(config.data_dir).save(identity)
        log.info("node SVID renewed after its end", not_after=identity.svid.not_after.isoformat())
    except Denied as error:
        if join_text is None:
            raise
        # Too long away, or attested anew elsewhere: a token is how a person says that this node may come back.
        log.warning("the old SVID is not renewed, enrolling anew", error=error.message)
        return await _enrol(config, EnrolmentToken.decode(join_text, "node"), clock, stop)
    except TrustfedError as error:
        log.warning("node SVID has expired and is not renewed yet", error=error.message, hint=error.hint)
    return identity


async def _enrol(config: AgentConfig, token: EnrolmentToken, clock: Clock, stop: asyncio.Event) -> NodeIdentity | None:
    """Enrol; while the cluster cannot be reached, again and again until it can or `stop` is set."""
    wait, longest = _ENROL_WAITS
    while not stop.is_set():
        try:
            identity = await asyncio.to_thread(enrolment.enrol, config.data_dir, token, clock.now())
        except Unavailable as error:
            log.warning("not enrolled yet", error=error.message, hint=error.hint)
        else:
            log.info("enrolled", node=str(identity.svid.id), server=str(identity.server_id))
            return identity
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), wait * (0.5 + _chance() / 2))
        wait = min(wait * 2, longest)
    return None


def _allow_descriptors() -> None:
    """Two per connection: the socket and its process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
