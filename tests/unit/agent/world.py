"""An agent in this process against a fake cluster, and a client of its Workload API."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod

from agent.cache import Cache
from agent.compose import serve
from agent.config import AgentConfig
from tests.fakes.cluster import FakeCluster
from trustfed.proto import workload_pb2 as pb

SERVICE = "/SpiffeWorkloadAPI/"
HEADER = {"workload.spiffe.io": "true"}
ME = f"unix:uid:{os.getuid()}"


class Workload:
    """A Workload API client over one connection."""

    def __init__(self, socket: Path) -> None:
        self.channel = Channel(path=str(socket))

    @asynccontextmanager
    async def watch(self, method: str, request: Any, answer: Any, metadata: Any = None) -> AsyncIterator[Any]:
        call: Any = UnaryStreamMethod(self.channel, SERVICE + method, type(request), answer)
        async with call.open(timeout=20, metadata=HEADER if metadata is None else metadata) as stream:
            await stream.send_message(request, end=True)
            yield stream
            with suppress(Exception):  # it has ended
                await stream.cancel()

    async def x509(self, metadata: Any = None) -> pb.X509SVIDResponse:
        async with self.watch("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse, metadata) as stream:
            return await self.first(stream)

    async def x509_bundles(self) -> pb.X509BundlesResponse:
        async with self.watch("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse) as stream:
            return await self.first(stream)

    async def jwt_bundles(self) -> pb.JWTBundlesResponse:
        async with self.watch("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse) as stream:
            return await self.first(stream)

    async def jwt(self, *audience: str, spiffe_id: str = "") -> pb.JWTSVIDResponse:
        request = pb.JWTSVIDRequest(audience=audience, spiffe_id=spiffe_id)
        return await self.unary("FetchJWTSVID", request, pb.JWTSVIDResponse)

    async def validate(self, audience: str, svid: str) -> pb.ValidateJWTSVIDResponse:
        request = pb.ValidateJWTSVIDRequest(audience=audience, svid=svid)
        return await self.unary("ValidateJWTSVID", request, pb.ValidateJWTSVIDResponse)

    async def unary(self, method: str, request: Any, answer: Any, metadata: Any = None) -> Any:
        call: Any = UnaryUnaryMethod(self.channel, SERVICE + method, type(request), answer)
        return await call(request, timeout=20, metadata=HEADER if metadata is None else metadata)

    @staticmethod
    async def first(stream: Any) -> Any:
        """The next message; the stream's status is raised where there is none."""
        message = await asyncio.wait_for(stream.recv_message(), 30)
        if message is None:
            await stream.recv_trailing_metadata()
            raise AssertionError("the stream ended with OK")
        return message

    def close(self) -> None:
        self.channel.close()


class Agent:
    """A running agent's sockets."""

    def __init__(self, folder: Path, health: str = "") -> None:
        self.config = AgentConfig(data_dir=folder / "data", socket=folder / "w.sock", health=health)

    async def admin(self, path: str) -> tuple[int, Any]:
        return await admin(self.config.admin_path, path)

    async def status(self) -> Any:
        return (await self.admin("/status"))[1]


async def admin(socket: Path, path: str) -> tuple[int, Any]:
    """(status, body) of a GET at an admin socket."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    raw = await reader.read()
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if b"json" in head else body.decode()


@asynccontextmanager
async def running(
    cluster: FakeCluster,
    folder: Path,
    *,
    ready: bool = True,
    join: str | None = None,
    health: str = "",
    cache: Cache | None = None,
) -> AsyncIterator[tuple[Agent, Workload]]:
    """An enrolled agent; `ready` waits until it serves every entry."""
    agent, stop = Agent(folder, health), asyncio.Event()
    task = asyncio.create_task(serve(agent.config, join or cluster.token(), stop, cache))
    try:
        await until(lambda: task.done() or agent.config.admin_path.exists())
        if task.done():
            task.result()

        async def is_ready() -> bool:
            return (await agent.admin("/ready"))[0] == 200

        if ready:
            await eventually(is_ready)
        workload = Workload(agent.config.socket)
        try:
            yield agent, workload
        finally:
            workload.close()
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    async def check() -> bool:
        return bool(condition())

    await eventually(check, seconds)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)
