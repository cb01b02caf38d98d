"""A cluster with its real doors on loopback, in this process or in one of its own, beside a hub that says what we want."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.keys.open import KeysConfig
from ca.lifecycle import Kind
from tests.fakes.hub import HUB, FakeHub
from tests.unit.cluster.cluster_parts import NodeKey, spki
from trustfed.cluster import compose, enrolment
from trustfed.cluster import events as e
from trustfed.cluster.config import ClusterConfig, Door, Policy
from trustfed.cluster.parts import close_parts, open_parts
from trustfed.federation.names import cluster_id, hub_id
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.grpc_client import VerifiedChannel, stream, unary
from trustfed.runtime.https_client import exactly
from trustfed.runtime.tls import KeyPair, client_context
from trustfed.spiffe.ids import TrustDomain

TD = "td-a"
NODE = "/trustfed.node.v1.Node/"
TOML = """
data_dir = "data"
admin_socket = "{folder}/admin.sock"
[grpc]
listen = "127.0.0.1:0"
[bundle_spiffe]
listen = "127.0.0.1:0"
[keys]
workers = 0
[policy]
polled_readers = false
"""


async def enrolled(config: ClusterConfig, hub: FakeHub) -> None:
    """Fill a data directory as an enrolment with this hub leaves it."""
    parts = await open_parts(config)
    try:
        await enrolment.make_keys(parts.fold, parts.keys, parts.authorities, TrustDomain(TD), parts.clock)
        documents, now = tuple(hub.root_documents), parts.clock.now()
        event = e.Enrolled(HUB.name, str(hub_id(HUB)), hub.address, "https://127.0.0.1:1", (), documents, now)
        await parts.fold.execute(lambda s: [event], command_id="enrol", actor="test", now=now)
        (authority,) = [a for a in parts.fold.state.authorities.values() if a.kind is Kind.X509]

        class Root:
            async def certify(self, authority: str, csr: bytes) -> bytes:
                return await hub.intermediate(TD, authority, csr)

        await parts.authorities.certify_one(authority, Root())
    finally:
        await close_parts(parts)


class Cluster:
    """What people and nodes do at a cluster's doors."""

    def __init__(self, socket: Path, hub: FakeHub) -> None:
        self.socket, self.hub = socket, hub

    async def admin(self, method: str, path: str, body: object = None, **given: Any) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), verify=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://cluster", timeout=10) as client:
            return await client.request(method, path, json=body, **given)

    async def ok(self, method: str, path: str, body: object = None) -> Any:
        answer = await self.admin(method, path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def status(self) -> Any:
        return await self.ok("GET", "/status")

    async def until(self, condition: Any, seconds: float = 10) -> Any:
        """Wait until the status is as wanted."""
        async with asyncio.timeout(seconds):
            while not condition(found := await self.status()):
                await asyncio.sleep(0.02)
        return found

    async def entry(self, name: str, **fields: Any) -> str:
        given = {
            "id": name,
            "spiffe_id": f"spiffe://{TD}/{name}",
            "parent": "group/default",
            "selectors": ["unix:uid:1"],
            **fields,
        }
        return str((await self.ok("POST", "/entries", given))["id"])

    async def node(self, name: str = "n1") -> Node:
        token = (await self.ok("POST", "/nodes/tokens", {"name": name}))["token"]
        address = (await self.status())["addresses"]
        key = NodeKey()
        async with httpx.AsyncClient(verify=False) as client:
            answer = await client.post(
                f"https://{address['bundle_spiffe']}/v1/node/attest", content=key.attestation(token)
            )
        assert answer.status_code == 200, answer.text
        key.answer = answer.json()
        return Node(self, KeyPair((key.leaf,), key.key), address["grpc"], token)


class Node:
    """An agent's side of the gRPC door, by the client that agents use."""

    def __init__(self, cluster: Cluster, keypair: KeyPair, address: str, token: str = "") -> None:
        self.cluster, self.keypair, self.address, self.token = cluster, keypair, address, token

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[VerifiedChannel]:
        host, port = self.address.rsplit(":", 1)
        context = client_context(self.keypair, [r.certificate for r in self.cluster.hub.roots], alpn=("h2",))
        channel = VerifiedChannel(host, int(port), context, exactly(cluster_id(TrustDomain(TD))))
        try:
            yield channel
        finally:
            channel.close()

    async def call(self, method: str, request: Any, answer: Any) -> Any:
        async with self.channel() as channel:
            return await unary(channel, NODE + method, request, answer, 10)

    async def issue(self, *entries: str) -> pb.IssueX509Response:
        request = pb.IssueX509Request(slots=[slot(entry) for entry in entries])
        return await self.call("IssueX509", request, pb.IssueX509Response)  # type: ignore[no-any-return]

    @asynccontextmanager
    async def stream(self, **hello: Any) -> AsyncIterator[Stream]:
        async with self.channel() as channel, stream(channel, NODE + "Sync", pb.FromAgent, pb.FromCluster) as opened:
            said = {"protocol_min": 1, "protocol_max": 1, **hello}
            await opened.send_message(pb.FromAgent(hello=pb.AgentHello(**said)))
            yield Stream(opened)


class Stream:
    def __init__(self, opened: Any) -> None:
        self.opened, self.position, self.seen = opened, 0, list[pb.FromCluster]()

    async def next(self) -> pb.FromCluster:
        message = await asyncio.wait_for(self.opened.recv_message(), 10)
        assert message is not None, "the stream has ended"
        self.position = message.position or self.position
        self.seen.append(message)
        return message  # type: ignore[no-any-return]

    async def until(self, kind: str) -> Any:
        while (message := await self.next()).WhichOneof("message") != kind:
            pass
        return getattr(message, kind)

    async def end(self) -> None:
        """Read to the end; raises what ended the stream."""
        while await asyncio.wait_for(self.opened.recv_message(), 10) is not None:
            pass


@asynccontextmanager
async def running(folder: Path, hub: FakeHub, health: str = "", **policy: Any) -> AsyncIterator[Cluster]:
    """A cluster in this process, enrolled at first use of the folder."""
    config = ClusterConfig(
        folder / "data",
        Door("127.0.0.1:0"),
        Door("127.0.0.1:0"),
        admin_socket=folder / "admin.sock",
        health=health,
        keys=KeysConfig(workers=0),
        policy=Policy(polled_readers=False, **policy),
    )
    if not (folder / "data").exists():
        await enrolled(config, hub)
    stop = asyncio.Event()
    serving = asyncio.create_task(compose.serve(config, stop))
    cluster = Cluster(config.admin_path, hub)
    try:
        await _up(cluster, serving)
        yield cluster
    finally:
        stop.set()
        await asyncio.wait_for(serving, 10)


async def _up(cluster: Cluster, serving: asyncio.Task[None]) -> None:
    async with asyncio.timeout(20):
        while True:
            if serving.done():
                serving.result()
            try:
                if (await cluster.admin("GET", "/ready")).status_code == 200:
                    return
            except (httpx.TransportError, FileNotFoundError):
                pass
            await asyncio.sleep(0.02)


class Process:
    """`python -m trustfed.cluster` in a folder of its own."""

    def __init__(self, folder: Path, hub: FakeHub, extra: str = "") -> None:
        self.folder, self.config, self.log = folder, folder / "cluster.toml", folder / "log"
        self.config.write_text(TOML.format(folder=folder) + extra)
        self.cluster = Cluster(folder / "admin.sock", hub)
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, command: str, *more: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "trustfed.cluster", command, "--config", str(self.config), *more]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    def start(self) -> None:
        argv = [sys.executable, "-m", "trustfed.cluster", "serve", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)

    async def ready(self) -> None:
        end = time.monotonic() + 30
        while True:
            assert self.process is not None and self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < end, self.log.read_text()[-2000:]
            try:
                if (await self.cluster.admin("GET", "/ready")).status_code == 200:
                    return
            except (httpx.TransportError, FileNotFoundError):
                pass
            await asyncio.sleep(0.05)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)

    def messages(self) -> list[Any]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def slot(entry: str) -> pb.X509Slot:
    return pb.X509Slot(entry_id=entry, slot="x509", public_key=spki(ec.generate_private_key(ec.SECP256R1())))


def serial(der: bytes) -> str:
    return f"{x509.load_der_x509_certificate(der).serial_number:032x}"


def now() -> datetime:
    return datetime.now(UTC)
