"""Two readers that behave as istiod 1.29 does, so that what would hurt a mesh is seen: what was read from its source and run.

`Istiod` reads MCP-over-xDS (pkg/adsc): it asks for MeshConfig and 14 kinds in one order, first requests carry a date as nonce
and no version; whatever an answer lacks is deleted at once; a resource is applied only if its version differs; nothing is ever
refused; until every kind was answered once it is not synced; a disconnect keeps the store, and it comes back after 0.5 s.

`Directory` reads `fs://` (pilot/pkg/config/kube/file): every .yaml file, and one that cannot be read rejects the whole reload.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from trustfed.proto import envoy_pb2, istio_pb2
from trustfed.proto.istio_kinds import ASKED, MESH_CONFIG, RESOURCE_URL

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
RECONNECT_SECONDS = 0.5
TYPES = (MESH_CONFIG, *ASKED)


@dataclass(frozen=True)
class Config:
    """One resource as istiod keeps it."""

    version: str
    created_ms: int
    body_url: str
    body: bytes
    labels: dict[str, str] = field(default_factory=dict)


class Istiod:
    """One istiod in this process; `start()` … `stop()`. `stop` and a new one are a restart: its store is in memory."""

    def __init__(self, address: str, types: tuple[str, ...] = TYPES) -> None:
        self._address, self._types = address, types
        self.store: dict[str, dict[str, Config]] = {name: {} for name in types}
        self.answered: set[str] = set()
        self.emptied: list[str] = []
        """Kinds that went from something to nothing."""
        self.applied: list[str] = []
        self.pushes: list[str] = []
        self.errors: list[str] = []
        self.connections = 0
        self.changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def synced(self) -> bool:
        """Every kind was answered, MeshConfig exempt: from here on it serves proxies."""
        return {name for name in self._types if name != MESH_CONFIG} <= self.answered

    @property
    def names(self) -> dict[str, set[str]]:
        """What it holds: kind → NAMESPACE/NAME, kinds with nothing left out."""
        return {name.rpartition("/")[2]: set(held) for name, held in self.store.items() if held}

    def start(self) -> Istiod:
        self._task = asyncio.create_task(self._run())
        return self

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, look: Any, what: str, seconds: float = 30.0) -> None:
        """Return once `look(self)` is true."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not look(self):
                    self.changed.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await self.changed.wait()
        assert look(self), f"{what} did not come: {self.names}, {self.errors[-3:]}"

    async def _run(self) -> None:
        while True:
            options = [("grpc.max_receive_message_length", -1), ("grpc.keepalive_time_ms", 30_000)]
            async with grpc.aio.insecure_channel(self._address, options=options) as channel:
                call = channel.stream_stream(
                    METHOD,
                    request_serializer=envoy_pb2.DiscoveryRequest.SerializeToString,
                    response_deserializer=envoy_pb2.DiscoveryResponse.FromString,
                )
                requests: asyncio.Queue[envoy_pb2.DiscoveryRequest] = asyncio.Queue()
                for name in self._types:
                    # The junk nonce of a first request is a date.
                    requests.put_nowait(self._request(name, nonce=datetime.now(UTC).isoformat()))
                self.connections += 1
                answers = call(_endless(requests))
                try:
                    async for response in answers:
                        self._take(response)
                        requests.put_nowait(self._request(response.type_url, response.version_info, response.nonce))
                        self.changed.set()
                except grpc.aio.AioRpcError as error:
                    self.errors.append(f"{error.code().name}: {error.details()}")
                finally:
                    answers.cancel()
            await asyncio.sleep(RECONNECT_SECONDS)

    def _request(self, name: str, version: str = "", nonce: str = "") -> envoy_pb2.DiscoveryRequest:
        request = envoy_pb2.DiscoveryRequest(version_info=version, type_url=name, response_nonce=nonce)
        request.node.id = "sidecar~127.0.0.1~istiod-0.istio-system~istio-system.svc.cluster.local"
        request.node.metadata["GENERATOR"] = "api"
        return request

    def _take(self, response: envoy_pb2.DiscoveryResponse) -> None:
        held, seen = self.store[response.type_url], set()
        self.pushes.append(response.type_url)
        for wrapped in response.resources:
            assert wrapped.type_url == RESOURCE_URL
            resource = istio_pb2.McpResource.FromString(wrapped.value)
            name, version = resource.metadata.name, resource.metadata.version
            seen.add(name)
            if name in held and version and held[name].version == version:
                continue
            created = resource.metadata.create_time.ToMilliseconds()
            labels = dict(resource.metadata.labels)
            held[name] = Config(version, created, resource.body.type_url, resource.body.value, labels)
            self.applied.append(name)
        for name in held.keys() - seen:
            del held[name]
            if not held:
                self.emptied.append(response.type_url)
        self.answered.add(response.type_url)


async def _endless(requests: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while True:
        yield await requests.get()


class Directory:
    """Reads a folder again and again in a thread of its own, as istiod does after each change; `stop()` ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.resources: dict[str, dict[str, Any]] = {}
        self.rejected: list[str] = []
        """Reloads that one bad file would have rejected."""
        self.emptied = 0
        self.reloads = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(10)

    def until(self, look: Any, what: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not look(self):
            assert time.monotonic() < end, f"{what} did not come: {sorted(self.resources)} {self.rejected[-3:]}"
            time.sleep(0.02)

    def _run(self) -> None:
        while not self._end.wait(0.01):
            found: dict[str, dict[str, Any]] = {}
            try:
                for path in sorted(self._folder.rglob("*")):
                    if path.suffix in (".yaml", ".yml"):
                        document = json.loads(path.read_bytes())
                        meta = document["metadata"]
                        found[f"{document['kind']}/{meta['namespace']}/{meta['name']}"] = document
            except FileNotFoundError:
                continue  # removed while it was listed: the next round sees that
            except (ValueError, KeyError) as error:
                self.rejected.append(f"{path.name}: {error}")
                continue
            if self.resources and not found:
                self.emptied += 1
            self.resources = found
            self.reloads += 1
