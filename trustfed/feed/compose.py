"""The feed put together: the only place that reads its configuration and builds its parts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from trustfed.feed.admin import Admin
from trustfed.feed.announcing import Announcing, connect
from trustfed.feed.config import FeedConfig
from trustfed.feed.directory import Directory
from trustfed.feed.follow import Follow
from trustfed.feed.identity import IdentitySource
from trustfed.feed.served import Output, Served
from trustfed.feed.state_file import StateFile
from trustfed.runtime import logs, process, unix_http
from trustfed.runtime.clock import Clock, SystemClock
from trustfed.runtime.files import DirectoryLock, private_directory
from trustfed.runtime.health import open_health
from trustfed.runtime.memory import keep_small, one_arena
from trustfed.runtime.metrics import Registry
from trustfed.runtime.sockets import address_of, listen_tcp, listen_unix
from trustfed.runtime.waiting import together

if TYPE_CHECKING:
    from trustfed.feed.mcp import Mcp

log = logs.get("feed")


async def serve(config: FeedConfig, stop: asyncio.Event) -> None:
    """Run until `stop`. What was kept is handed over first; only then are the agent and the cluster asked.

    Raises Invalid, Denied, Conflict (another process has the folder, the output or an address), Unavailable.
    """
    logs.configure(config.log.level)
    one_arena()
    # What blocks is done in turn anyway: each thread more would keep memory of its own.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2, "feed"))
    with DirectoryLock(private_directory(config.data_dir)):
        async with contextlib.AsyncExitStack() as doors:
            await _run(config, stop, doors)


async def _run(config: FeedConfig, stop: asyncio.Event, doors: contextlib.AsyncExitStack) -> None:
    clock, registry, chance = SystemClock(), Registry(), random.SystemRandom().random
    outputs: list[Output] = []
    directory: Directory | None = None
    if config.output.directory is not None:
        directory = Directory(config.output.directory)
        await asyncio.to_thread(directory.open)
        doors.callback(directory.close)
        outputs.append(directory)
    mcp: Mcp | None = None
    if config.output.mcp:
        from trustfed.feed.mcp import Mcp  # noqa: PLC0415 - 2 MB that a feed which writes files does without

        mcp = Mcp(config.output.mcp)
        outputs.append(mcp)
    file = StateFile(config.data_dir, config.trust_domain.name)
    await asyncio.to_thread(file.clean)
    served = Served(file, outputs, clock, registry)
    source = IdentitySource(config.workload_socket, config.trust_domain, config.spiffe_id, clock, chance)
    follow = Follow(config.cluster, config.trust_domain, source, served, clock, chance)
    registry.gauge("feed_cluster_connected", "1 while the stream from the cluster is up").read(
        lambda: float(follow.status.connected_since is not None)
    )
    readers = registry.gauge("feed_readers", "istiods connected over MCP")
    readers.read(lambda: float(mcp.readers if mcp else 0))
    announcing = _announcing(directory, config.output.istiod, served, clock)

    def istiod_up() -> bool:
        return announcing is not None and announcing.up

    registry.gauge("feed_istiod_up", "1 while the port output.istiod is open; 0 as well where it is not watched").read(
        lambda: float(istiod_up())
    )
    await served.load()
    used = asyncio.Event()  # memory was, for a moment

    def changed() -> None:
        follow.tell()
        used.set()

    served.on_change(changed)
    if mcp is not None:
        mcp.on_readers(changed)
        await mcp.open()
        doors.push_async_callback(mcp.close)
        log.info("MCP listens", address=config.output.mcp)
    admin = Admin(config, served, follow, source, lambda: mcp.readers if mcp else 0, istiod_up, clock)
    door = await unix_http.serve(listen_unix(config.admin_path, 0o600), admin.routes())
    doors.push_async_callback(door.close)
    if config.health:
        listener = listen_tcp(config.health)
        health = await open_health(listener, admin.missing, registry)
        doors.push_async_callback(health.close)
        log.info("health and metrics listen", address=address_of(listener))
    log.info("feed is up", trust_domain=config.trust_domain.name, admin=str(config.admin_path))
    process.settle()
    jobs = [source.run(), follow.run(), served.run(), keep_small(clock, used)]
    await together([*jobs, announcing.run()] if announcing is not None else jobs, stop)


def _announcing(directory: Directory | None, istiod: str, served: Served, clock: Clock) -> Announcing | None:
    if directory is None or not istiod:
        return None

    async def announce() -> None:
        directory.announce()
        await served.mend()

    return Announcing(lambda: connect(istiod), announce, clock)
