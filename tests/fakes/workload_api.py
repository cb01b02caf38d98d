"""An agent's Workload API of which a test says who calls: one X509-SVID, pushed anew when the test says so."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fakes.world import DomainWorld
from trustfed.errors import Denied
from trustfed.h2grpc.server import GrpcServer
from trustfed.h2grpc.service import Call, Feed, Watch
from trustfed.proto import workload_pb2 as pb


class _Caller:
    def close(self) -> None: ...


class FakeWorkloadApi:
    """`await open(path)`, `await push(PATH)`, `await close()`."""

    def __init__(self, world: DomainWorld) -> None:
        self._world = world
        self._answer = b""
        self._feeds: list[Feed] = []
        self._server = GrpcServer({"/SpiffeWorkloadAPI/FetchX509SVID": Watch(self._watch)}, accept=_accept)

    async def open(self, path: Path) -> None:
        await self._server.serve_unix(path, 0o700)

    async def push(self, path: str, ttl: int = 3600) -> None:
        """The caller is `path` of the domain from now on."""
        pair = await self._world.svid(path, chain="leaf", ttl=ttl)
        private = pair.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        svid = pb.X509SVID(
            spiffe_id=f"spiffe://{self._world.trust_domain}{path}",
            x509_svid=b"".join(pair.chain),
            x509_svid_key=private,
            bundle=self._world.twin,
        )
        self._answer = pb.X509SVIDResponse(svids=[svid]).SerializeToString()
        for feed in self._feeds:
            feed.send(self._answer)

    async def close(self) -> None:
        await self._server.close(0.1)

    def _watch(self, call: Call, request: bytes, feed: Feed) -> Callable[[], None]:
        if call.metadata.get("workload.spiffe.io") != ["true"]:
            raise Denied("the security header is missing")
        if not self._answer:
            raise Denied("no identity issued")
        self._feeds.append(feed)
        feed.send(self._answer)
        return lambda: self._feeds.remove(feed)


def _accept(_: socket.socket) -> _Caller:
    return _Caller()
