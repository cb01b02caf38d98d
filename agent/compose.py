"""The agent put together: the only place that reads its configuration and builds its parts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import resource
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from agent import bootstrap
from agent.admin import Admin
from agent.attestors.unix import UnixAttestor
from agent.cache import Cache
from agent.cache.open import open_cache
from agent.closing import Closing
from agent.config import AgentConfig
from agent.evidence.evidence import Evidence
from agent.gauges import measure
from agent.identification import Identification
from agent.identity import IdentityFile, Node, NodeIdentity
from agent.intake import Intake
from agent.jwt import JwtSvids
from agent.keeping import Keeping
from agent.link import Link
from agent.own_svid import OwnSvid, Restart
from agent.peer import Caller
from agent.renewal import Renewal
from agent.reserves import Reserves
from agent.sds.door import SdsDoor
from agent.sds.reports import Reports
from agent.store import Store
from agent.store_fallback import store_fallback
from agent.streams import Streams
from agent.sync import Sync
from agent.trusted_time import TrustedTime
from agent.workload_api import WorkloadApi
from trustfed.errors import Unavailable
from trustfed.federation.token import EnrolmentToken
from trustfed.h2grpc.limits import Limits
from trustfed.h2grpc.server import GrpcServer
from trustfed.proto import node_pb2 as pb
from trustfed.reading.fallback import StoreFallback
from trustfed.runtime import logs, unix_http
from trustfed.runtime.clock import SystemClock
from trustfed.runtime.files import DirectoryLock, private_directory
from trustfed.runtime.memory import keep_small
from trustfed.runtime.metrics import Registry
from trustfed.runtime.sockets import address_of, listen_tcp, listen_unix
from trustfed.runtime.timestamps import from_ms, to_ms
from trustfed.runtime.unix_http import Door
from trustfed.runtime.waiting import together

log = logs.get("agent")

MAX_REQUEST = 256 * 1024
"""Bytes of one request: an Envoy 1.40 tells of itself in 61 kB (a list of its extensions), in Istio in some more."""
MAX_STREAMS = 256
"""Calls under way on one connection: Envoy opens a stream for each secret, all before it has heard of any bound."""
_CLOSE_SECONDS = 2.0
_USED_SECONDS = 0.3
"""From a batch of evidence, or its call, to giving back what that needed: one before the other."""
_ENROL_WAITS = (0.2, 10.0)
_BANS_SECONDS = 0.3
"""How long the doors of an agent that has something to serve stay shut for the cluster's bans."""
Anew = Callable[[], Awaitable[NodeIdentity]]
_chance = random.SystemRandom().random


async def serve(config: AgentConfig, join_text: str | None, stop: asyncio.Event, cache: Cache | None = None) -> None:
    """Run until `stop`. `join_text` is an enrolment token, ignored once this node is enrolled and may renew.
    `cache` takes the place of the one that the configuration describes.

    Nothing outside of this machine is waited for once the node is enrolled: identity from disk, then what the cache kept,
    then the stream begins, and at most 0.3 s later the doors open. An SVID of the node that has ended heals meanwhile.

    Raises Invalid, Denied, Conflict (another process has the folder or the socket), Unavailable.
    """
    logs.configure(config.log.level)
    _allow_descriptors()
    time = TrustedTime(SystemClock())
    folder = private_directory(config.data_dir)
    with DirectoryLock(folder):
        identity = IdentityFile(config.data_dir).load()
        anew = _anew(config, join_text, time, identity)
        if identity is None:
            identity = await _enrol(config, join_text, time, stop)
        if identity is not None:
            await _Running(config, identity, cache, time, anew).run(stop)


class _Running:
    """Every part of an enrolled agent."""

    def __init__(
        self, config: AgentConfig, identity: NodeIdentity, cache: Cache | None, time: TrustedTime, anew: Anew | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self._config, self._clock = config, time
        registry = Registry()
        node = Node(identity, IdentityFile(config.data_dir), registry)
        self._store = store = Store(identity.trust_domain, loop.call_soon)
        link = Link(node, time)
        limits = config.limits
        self._renewal = Renewal(store, link, time, _chance, registry, limits.prefetch, self._start_over)
        self._reserves = Reserves(store, link, self._renewal.slots, time, _chance, registry)
        self._jwt = JwtSvids(store, link, limits.jwt_svids, time, registry)
        intake = Intake(store, node, limits.entries, time, registry)
        self._evidence = evidence = Evidence(
            config.data_dir,
            config.cache,
            (limits.evidence_bytes, limits.evidence_facts),
            config.probe,
            lambda: (node.identity.svid.id, node.identity.svid.serial),
            store,
            link,
            time,
            _chance,
            registry,
        )
        reports = Reports(time, registry, evidence.holders.loaded)
        self._sync = Sync(store, node, link, self, intake, time, _chance, registry, reports, evidence.moments.told)
        self._own = OwnSvid(node, link, time, _chance, self._sync.banned, anew)
        self._closing = Closing(store, time, registry)
        kept = cache or open_cache(config.cache, identity.svid.id, config.data_dir, registry, time)
        self._keeping = Keeping(kept, store, self._jwt, self._sync, node, time)
        # After the parts that follow the store, so that they see what is loaded.
        self._keeping.load()
        self._replace(store.retired, timedelta(0))
        attestors = [UnixAttestor(time.monotonic, limits.hashed_bytes)]
        identification = Identification(store, attestors, lambda ids: store.use(ids, time.now()))
        streams = Streams(store, identification, time, evidence.holders)
        api = WorkloadApi(store, identification, streams, self._jwt, time)
        sds = SdsDoor(store, identification, config.sds, time, reports, registry, evidence.holders)
        self._server = GrpcServer(
            {**api.routes(), **sds.routes()},
            accept=Caller.of,
            limits=Limits(
                message=MAX_REQUEST,
                concurrent_streams=MAX_STREAMS,
                connections=limits.connections,
                connections_per_user=limits.connections_per_user,
            ),
        )
        self._fallback: StoreFallback | None = None
        if config.store is not None:
            self._fallback = store_fallback(
                config.store,
                config.data_dir,
                store,
                intake,
                lambda: self._sync.status.connected_since is not None,
                lambda: node.identity.issued_at,
                time,
                _chance,
                registry,
            )
        self._admin = Admin(
            node=node,
            store=store,
            sync=self._sync,
            intake=intake,
            own=self._own,
            renewal=self._renewal,
            reserves=self._reserves,
            closing=self._closing,
            keeping=self._keeping,
            jwt=self._jwt,
            streams=streams,
            server=self._server,
            registry=registry,
            clock=time,
            socket=str(config.socket),
            started_at=time.wall(),
            fallback=self._fallback,
            sds=sds,
            evidence=evidence,
        )
        measure(self._admin)

    async def run(self, stop: asyncio.Event) -> None:
        """Begin to synchronise, open the doors, keep everything alive, close the doors."""
        async with contextlib.AsyncExitStack() as doors:
            jobs = [
                self._serve(doors),
                self._sync.run(),
                self._renewal.run(),
                self._reserves.run(),
                self._own.run(),
                self._closing.run(),
                self._keeping.run(),
                self._evidence.run(),
                keep_small(self._clock, self._evidence.used, _USED_SECONDS),
                *([self._fallback.run()] if self._fallback is not None else []),
            ]
            try:
                await together(jobs, stop)
            finally:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._keeping.close(), _CLOSE_SECONDS)
                await self._evidence.close()

    async def _serve(self, doors: contextlib.AsyncExitStack) -> None:
        """Open the doors: at once if there is nothing to serve yet, else once the bans are known, or cannot be soon."""
        if self._store.synced:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BANS_SECONDS):
                    await self._sync.tried.wait()
        await self._open(doors)
        # What was loaded by now stays: the collector need not walk through it ever again.
        gc.collect()
        gc.freeze()
        await asyncio.Event().wait()

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

    # What follows from news of the cluster (agent.sync.Followers).

    def reissue(self, said: pb.Reissue) -> None:
        """SVIDs of these authorities are replaced; what of theirs would live on is dropped."""
        authorities = [one[:64] for one in said.authorities]
        if not authorities:
            return
        spread = timedelta(seconds=min(said.spread_seconds, 24 * 3600))
        log.warning("SVIDs are to be replaced", reason=said.reason[:200], spread_seconds=said.spread_seconds)
        self._replace(authorities, spread)
        if said.drop_jwts:
            self._jwt.drop(authorities)

    def renew(self, said: pb.Renew) -> None:
        """SVIDs that began before a moment are replaced; they are served until then."""
        before = from_ms(min(max(said.issued_before_ms, 0), to_ms(self._clock.now())))
        spread = timedelta(seconds=min(said.spread_seconds, 24 * 3600))
        log.warning("SVIDs are to be renewed", reason=said.reason[:200], spread_seconds=said.spread_seconds)
        self._renewal.renew(said.entries, said.authorities, before, spread)
        if not said.entries:
            self._own.ordered(said.authorities, before, spread)

    def _replace(self, authorities: Sequence[str], spread: timedelta) -> None:
        self._renewal.reissue(authorities, spread)
        self._reserves.reissue(authorities)
        self._own.reissue(authorities, spread)

    def connected(self, hello: pb.ClusterHello) -> None:
        """What waited for the cluster is tried now."""
        self._renewal.connected()
        self._reserves.ordered(hello.reserve_seconds)
        self._evidence.connected()

    def _start_over(self) -> None:
        self._sync.start_over()

    def urgent(self) -> None:
        """What was taken away must not come back after a restart."""
        self._keeping.urgent()


async def _door(doors: contextlib.AsyncExitStack, door: Door) -> None:
    doors.push_async_callback(door.close)


def _anew(config: AgentConfig, join_text: str | None, time: TrustedTime, held: NodeIdentity | None) -> Anew | None:
    """How this node enrols again when its cluster does not renew it any more; None if nobody said that it may."""
    if held is None or (join_text is None and not bootstrap.possible(config)):
        return None

    async def enrol() -> NodeIdentity:
        token = EnrolmentToken.decode(join_text, "node") if join_text is not None else None
        identity = await bootstrap.enrol(config, token, time.now())
        log.info("enrolled anew", node=str(identity.svid.id), server=str(identity.server_id))
        if (identity.svid.id, identity.publication_key) != (held.svid.id, held.publication_key):
            # All that is held belongs to another node, or is another cluster's: it is left behind.
            raise Restart(f"this node is {identity.svid.id} from now on", hint="start the agent again")
        return identity

    return enrol


async def _enrol(
    config: AgentConfig, join_text: str | None, time: TrustedTime, stop: asyncio.Event
) -> NodeIdentity | None:
    """Enrol; while the cluster cannot be reached, again and again until it can or `stop` is set."""
    if join_text is None and not bootstrap.possible(config):
        raise Unavailable(
            "this node is not enrolled", hint="make a token (trustfed node token), then agent serve --join @FILE"
        )
    token = EnrolmentToken.decode(join_text, "node") if join_text is not None else None
    wait, longest = _ENROL_WAITS
    made: list[NodeIdentity] = []

    async def attempt() -> None:
        made.append(await bootstrap.enrol(config, token, time.now()))

    while not stop.is_set():
        try:
            await together([attempt()], stop)
        except Unavailable as error:
            log.warning("not enrolled yet", error=error.message, hint=error.hint)
        for identity in made:
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
