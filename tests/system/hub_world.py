"""A real hub process and a small hand-made cluster that speaks to its doors: for tests/system/test_hub.py."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.unit.hub.newcomer import Newcomer
from trustfed.federation import roots
from trustfed.federation.token import EnrolmentToken
from trustfed.hub.rpc import SERVICE
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.tls import KeyPair, client_context

CONFIG = """
trust_domain = "trustfed-hub.example"
data_dir = "data"
health = "127.0.0.1:0"
dns_names = ["localhost"]
[grpc]
listen = "127.0.0.1:0"
[https]
listen = "127.0.0.1:0"
[publication]
directory = "public"
[keys]
workers = 0
"""


class HubProcess:
    """`python -m trustfed.hub` in a folder of its own."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.folder = folder
        self.config = folder / "hub.toml"
        self.config.write_text(CONFIG + extra)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"
        self.addresses: dict[str, str] = {}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "trustfed.hub", command, "--config", str(self.config)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        argv = [sys.executable, "-m", "trustfed.hub", "serve", "--config", str(self.config)]
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        end = time.monotonic() + 30
        while not any(line.get("message") == "ready" for line in self.lines()):
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < end, self.log.read_text()[-2000:]
            time.sleep(0.02)
        self.addresses = {line["door"]: line["address"] for line in self.lines() if line["message"] == "listening"}

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def admin(self, method: str, path: str, body: object = None, timeout: float = 10) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=self.addresses["admin_socket"], verify=False)
        with httpx.Client(transport=transport, base_url="http://hub", timeout=timeout) as client:
            return client.request(method, path, json=body)

    def https(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """The HTTPS door, the server verified against the federation's roots."""
        context = client_context(None, self.root_certificates())
        with httpx.Client(verify=context, base_url=f"https://{self.addresses['https']}", timeout=10) as client:
            return client.request(method, path, json=body, headers=headers)

    def root_documents(self) -> list[bytes]:
        answer = httpx.get(f"https://{self.addresses['https']}/v1/roots", verify=False, timeout=10).json()
        return [document.encode() for document in answer["documents"]]

    def root_certificates(self) -> list[bytes]:
        documents = self.root_documents()
        payload = json.loads(base64.b64decode(json.loads(documents[-1])["payload"]))
        return [base64.b64decode(root) for root in payload["roots"]]

    def invite(self, name: str, ttl: str = "1h", suffixes: list[str] | None = None) -> str:
        order = {"name": name, "owner": f"team-{name}", "ttl": ttl, "dns_suffixes": suffixes or []}
        answer = self.admin("POST", "/domains", order)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def grant(self, importer: str, exporter: str, until: str = "2036-01-01T00:00:00Z") -> str:
        order = {"importer": importer, "exporter": exporter, "until": until, "reason": "they call each other"}
        answer = self.admin("POST", "/grants", order)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


class Cluster:
    """What a cluster does at the hub's doors."""

    def __init__(self, hub: HubProcess, domain: Newcomer) -> None:
        self.hub, self.domain = hub, domain
        self.pinned: roots.RootSet | None = None
        self.position, self.instance = 0, ""

    @classmethod
    async def enrolled(cls, hub: HubProcess, name: str) -> Cluster:
        cluster = cls(hub, await Newcomer.make(name))
        token = hub.invite(name)
        answer = await cluster.enrol(token)
        assert answer.status_code == 200, answer.text
        return cluster

    async def enrol(self, token: str) -> httpx.Response:
        """Pin the root set by the token's hash, then enrol over TLS verified by it."""
        read = EnrolmentToken.decode(token, "cluster")
        documents = await asyncio.to_thread(self.hub.root_documents)
        pinned = roots.pin(documents[read.root_version - 1], read.root_version, read.root_hash)
        self.pinned = roots.advance(pinned, documents[read.root_version :], datetime.now(UTC))
        request = await self.domain.enrolment(token)
        answer = await asyncio.to_thread(self.hub.https, "POST", "/v1/enrol", request)
        if answer.status_code == 200:
            self.domain.intermediate = base64.b64decode(answer.json()["intermediate"])
        return answer

    @asynccontextmanager
    async def channel(self, keypair: KeyPair | None = None) -> AsyncIterator[grpc.aio.Channel]:
        assert self.pinned is not None
        pair = keypair or await self.domain.svid()
        anchors = b"".join(pem(root) for root in self.pinned.roots)
        credentials = grpc.ssl_channel_credentials(anchors, pair.key_pem(), pair.chain_pem())
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.max_receive_message_length", 4 << 20)]
        async with grpc.aio.secure_channel(self.hub.addresses["grpc"], credentials, options) as channel:
            yield channel

    @asynccontextmanager
    async def stream(self, keypair: KeyPair | None = None, **hello: Any) -> AsyncIterator[Stream]:
        async with self.channel(keypair) as channel:
            call = channel.stream_stream(f"/{SERVICE}/Sync", pb.FromCluster.SerializeToString, pb.FromHub.FromString)(
                timeout=30
            )
            stream = Stream(call)
            said = {"protocol_min": 1, "protocol_max": 1, "position": self.position, "hub_instance": self.instance}
            await stream.send(hello=pb.ClusterHello(**{**said, **hello}))
            try:
                yield stream
            finally:
                call.cancel()
                await stream.pump

    async def sign(self, request: pb.SignIntermediateRequest, keypair: KeyPair | None = None) -> bytes:
        async with self.channel(keypair) as channel:
            method = channel.unary_unary(
                f"/{SERVICE}/SignIntermediate",
                pb.SignIntermediateRequest.SerializeToString,
                pb.SignIntermediateResponse.FromString,
            )
            return bytes((await method(request, timeout=10)).intermediate)

    async def decide(
        self, grant: str, decision: str, fingerprint: str = "", reason: str = "agreed", keypair: KeyPair | None = None
    ) -> pb.Grant:
        request = pb.DecideGrantRequest(
            grant_id=grant, decision=decision, reason=reason, actor="uid:1000", exporter_key_fingerprint=fingerprint
        )
        async with self.channel(keypair) as channel:
            method = channel.unary_unary(
                f"/{SERVICE}/DecideGrant",
                pb.DecideGrantRequest.SerializeToString,
                pb.DecideGrantResponse.FromString,
            )
            return (await method(request, timeout=10)).grant


class Stream:
    """One open Sync stream; what was read is kept in `seen`. A task of its own reads: a cancelled read ends the call."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.seen: list[pb.FromHub] = []
        self._came: asyncio.Queue[pb.FromHub | None] = asyncio.Queue()
        self.pump = asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        try:
            while (message := await self.call.read()) is not grpc.aio.EOF:
                self._came.put_nowait(message)
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        self._came.put_nowait(None)

    async def until(self, kind: str, **fields: Any) -> Any:
        """Read until a message of this kind (with these fields) comes; its payload."""
        while True:
            message = await asyncio.wait_for(self._came.get(), 30)
            assert message is not None, (await self.call.code(), await self.call.details())
            self.seen.append(message)
            if message.WhichOneof("message") == kind:
                found = getattr(message, kind)
                if all(getattr(found, name) == value for name, value in fields.items()):
                    return found

    async def quiet(self, seconds: float = 0.3) -> list[str]:
        """The kinds of what comes within this time."""
        await asyncio.sleep(seconds)
        kinds = []
        while not self._came.empty():
            message = self._came.get_nowait()
            assert message is not None
            self.seen.append(message)
            kinds.append(str(message.WhichOneof("message")))
        return kinds

    async def send(self, **message: Any) -> None:
        # The hub may have ended the call before this is written: what it said then is what `until` and `refused` give.
        with suppress(grpc.aio.AioRpcError):
            await self.call.write(pb.FromCluster(**message))

    async def refused(self) -> tuple[grpc.StatusCode, str]:
        """The status that ends the stream."""
        code = await asyncio.wait_for(self.call.code(), 30)
        return code, await self.call.details()


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
