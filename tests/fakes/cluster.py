"""A cluster for agents under test: the Node service and the HTTPS door on loopback TLS, with faults on demand.

It keeps no journal and no ledger; what it signs is real, and so are its TLS, its envelopes and its root set. As a
program (`python -m tests.fakes.cluster DIRECTORY ENTRIES`) it writes DIRECTORY/token and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpclib.const
import grpclib.server
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import NameOID
from grpclib.exceptions import GRPCError

from tests.fakes.domain import Authority, Domain, Key, ca_certificate, leaf, new_key, usage
from tests.fakes.evidence_intake import EvidenceIntake
from trustfed.errors import Denied, TrustfedError
from trustfed.federation import enrolment, roots
from trustfed.federation.dsse import Signature
from trustfed.federation.names import cluster_id, hub_id, node_id
from trustfed.federation.token import EnrolmentToken
from trustfed.proto import evidence_pb2 as evidence_pb
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.errors import answer
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.tls import KeyPair, peer_chain, server_context
from trustfed.spiffe import jwtsvid
from trustfed.spiffe.ids import SpiffeId, TrustDomain
from trustfed.spiffe.verify import verify_x509_svid
from trustfed.spiffe.x509svid import parse_leaf

HEARTBEAT_SECONDS = 15.0

__all__ = [
    "Domain",
    "FakeCluster",
    "Faults",
    "Hangup",
    "Key",
    "bundle_message",
    "ca_certificate",
    "leaf",
    "new_key",
    "usage",
]


@dataclass
class Faults:
    """What goes wrong next. A callable in `issue` or `attest` is called once with the request and may raise or wait."""

    issue: list[Callable[[Any], Any]] = field(default_factory=list)
    jwt: list[Callable[[Any], Any]] = field(default_factory=list)
    renew: list[Callable[[Any], Any]] = field(default_factory=list)
    attest: list[Callable[[dict[str, str]], Any]] = field(default_factory=list)
    after_attest: list[Callable[[dict[str, str]], Any]] = field(default_factory=list)
    envelope: list[Callable[[], Any]] = field(default_factory=list)
    nonce_renew: list[Callable[[dict[str, str]], Any]] = field(default_factory=list)


async def _fault(faults: list[Callable[..., Any]], *arguments: Any) -> None:
    if faults:
        waiting = faults.pop(0)(*arguments)
        if waiting is not None:
            await waiting


class Hangup(Exception):
    """The door closes the connection without an answer."""


class FakeCluster:
    """`async with FakeCluster() as cluster`: then `token()`, `put`, `remove`, `publish`, `ban`, ... at any time."""

    def __init__(self, name: str = "east.test", node: str = "n1") -> None:
        self.root_key = new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        self.root = ca_certificate(subject, self.root_key, subject, self.root_key, None, timedelta(days=30))
        self.home = Domain(name)
        self.home.authorities = [self.new_authority("a1")]
        self.node = node
        self.id = cluster_id(self.home.trust_domain)
        self.node_ttl = timedelta(hours=1)
        self.svid_ttl = timedelta(hours=1)
        self.jwt_ttl = timedelta(minutes=5)
        self.faults = Faults()
        self.entries: dict[str, pb.Entry] = {}
        self.foreign: dict[str, Domain] = {}
        self.secret_uses: dict[bytes, str] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, datetime] = {}
        self.banned = ""
        self.reserve_ttl = timedelta(0)
        self.grpc_addresses: list[str] = []
        self.https_addresses: list[str] = []
        self.clock_ahead = timedelta(0)
        self.confirmed: dict[str, datetime] = {}
        self.stale_limits: dict[str, timedelta] = {}
        self.reserves: list[str] = []
        self.position = 1
        self.instance = "instance-1"
        self.resumable = True
        self.log: list[str] = []
        self.hellos: list[pb.AgentHello] = []
        self.acknowledged: list[tuple[str, int, int]] = []
        self.loaded: list[pb.SecretLoaded] = []
        self.refused: list[pb.SecretRefused] = []
        self.issued: list[str] = []
        self.evidence = EvidenceIntake()
        self.streams: list[asyncio.Queue[pb.FromCluster | Exception]] = []
        self.missed: list[pb.FromCluster] = []
        self._grpc: grpclib.server.Server | None = None
        self._door: asyncio.Server | None = None
        self.root_documents = [self._root_document(1)]

    def new_authority(self, id_: str) -> Authority:
        return self.home.authority(id_, root=(self.root_key, self.root))

    def _root_document(self, version: int) -> bytes:
        root_set = roots.RootSet.of(version, [self.root], hub_id(TrustDomain("hub.test")))
        signature = self.root_key.sign(root_set.payload_to_sign(), ec.ECDSA(hashes.SHA256()))
        return roots.assemble(root_set, [Signature(next(iter(root_set.key_ids)), signature)])

    # Its life.

    async def __aenter__(self) -> FakeCluster:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, ports: tuple[int, int] = (0, 0)) -> None:
        """Listen; `ports` (gRPC, HTTPS) to come back where it was."""
        key = new_key()
        signer = self.home.authorities[-1]
        own = leaf(signer, self.id, key.public_key(), timedelta(hours=1))
        pair = KeyPair((own, signer.intermediate), key)
        anchors = [a.twin for a in self.home.authorities]
        self._grpc = grpclib.server.Server([_Node(self)])
        context = server_context(pair, anchors, "required", ["h2"])
        await self._grpc.start("127.0.0.1", ports[0], ssl=context)
        assert self._grpc._server is not None
        self.grpc_port = self._grpc._server.sockets[0].getsockname()[1]
        self._door = await asyncio.start_server(
            self._request, "127.0.0.1", ports[1], ssl=server_context(pair, [], "none")
        )
        self.door_port = self._door.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.cut()
        while self.streams:  # each agent hears of it
            await asyncio.sleep(0.01)
        if self._grpc is not None:
            self._grpc.close()
            await self._grpc.wait_closed()
        if self._door is not None:
            self._door.close()

    async def restart(self) -> None:
        """The same addresses again, with whatever authority is newest."""
        ports = (self.grpc_port, self.door_port)
        await self.stop()
        await self.start(ports)

    # What a test does.

    def token(self, life: timedelta = timedelta(minutes=10), **changed: Any) -> str:
        secret = os.urandom(32)
        root_set = roots.reopen(self.root_documents[0])
        values: dict[str, Any] = {
            "kind": "node",
            "address": f"https://127.0.0.1:{self.door_port}",
            "name": self.home.trust_domain,
            "server_id": cluster_id(self.home.trust_domain),
            "newcomer": self.node,
            "root_version": 1,
            "root_hash": root_set.hash,
            "secret": secret,
            "expires_at": (datetime.now(UTC) + life).replace(microsecond=0),
            "publication_key": enrolment.text(self.home.publication_key.spki),
        }
        token = EnrolmentToken(**{**values, **changed})
        self.tokens[token.secret_hash()] = token.expires_at
        return token.encode()

    def put(self, id_: str, path: str, selectors: list[str], **more: Any) -> None:
        """Create or change an entry, and tell every agent."""
        entry = pb.Entry(
            id=id_,
            spiffe_id=f"{self.home.trust_domain.id}{path}",
            selectors=selectors,
            created_at_ms=more.pop("created_at_ms", len(self.entries) + 1),
            **more,
        )
        self.entries[id_] = entry
        self.tell(pb.FromCluster(entries=pb.Entries(upsert=[entry])))

    def remove(self, id_: str) -> None:
        del self.entries[id_]
        self.tell(pb.FromCluster(entries=pb.Entries(remove=[id_])))

    def grant(self, domain: Domain) -> None:
        """Hand a foreign domain's bundle to every agent."""
        self.foreign[domain.name] = domain
        self.tell(self._foreign_message(domain))

    def end_grant(self, name: str) -> None:
        del self.foreign[name]
        self.tell(pb.FromCluster(bundle_removed=pb.BundleRemoved(trust_domain=name)))

    def publish(self) -> None:
        """A new home envelope."""
        self.home.sequence += 1
        self.tell(bundle_message(self.home, home=True))

    def ban(self, reason: str = "stolen") -> None:
        self.banned = reason
        for stream in self.streams:
            stream.put_nowait(pb.FromCluster(bans=pb.Bans(banned=True, reason=reason)))
            stream.put_nowait(GRPCError(grpclib.const.Status.PERMISSION_DENIED, f"node {self.node} is banned"))

    def tell(self, message: pb.FromCluster) -> None:
        self.position += 1
        message.position = self.position
        self.missed.append(message)
        for stream in self.streams:
            stream.put_nowait(message)

    def confirm(self, name: str, at: datetime) -> None:
        """A foreign domain has confirmed its bundle: told in a heartbeat, at once."""
        self.confirmed[name] = at
        self.beat(pb.Confirmed(trust_domain=name, at_ms=to_ms(at)))

    def beat(self, *confirmed: pb.Confirmed) -> None:
        """A heartbeat to every agent."""
        beat = pb.Heartbeat(time_ms=to_ms(datetime.now(UTC) + self.clock_ahead), confirmed=confirmed)
        for stream in self.streams:
            stream.put_nowait(pb.FromCluster(heartbeat=beat))

    def _foreign_message(self, domain: Domain) -> pb.FromCluster:
        message = bundle_message(domain, home=False)
        if domain.name in self.confirmed:
            message.bundle.confirmed_at_ms = to_ms(self.confirmed[domain.name])
        if domain.name in self.stale_limits:
            message.bundle.stale_limit_seconds = int(self.stale_limits[domain.name].total_seconds())
        return message

    def cut(self) -> None:
        """Every stream breaks."""
        for stream in self.streams:
            stream.put_nowait(GRPCError(grpclib.const.Status.UNAVAILABLE, "cut"))

    # Nodes' requests.

    async def sync(self, stream: Any) -> None:
        self._caller(stream)
        first = await stream.recv_message()
        assert first.WhichOneof("message") == "hello"
        hello = first.hello
        self.hellos.append(hello)
        snapshot = not (self.resumable and hello.cluster_instance == self.instance and hello.position)
        queue: asyncio.Queue[pb.FromCluster | Exception] = asyncio.Queue()
        self.streams.append(queue)
        now = to_ms(datetime.now(UTC) + self.clock_ahead)
        await stream.send_message(
            pb.FromCluster(
                hello=pb.ClusterHello(
                    grpc_addresses=self.grpc_addresses,
                    https_addresses=self.https_addresses,
                    reserve_seconds=int(self.reserve_ttl.total_seconds()),
                    protocol=1,
                    snapshot=snapshot,
                    cluster_instance=self.instance,
                    time_ms=now,
                    trust_domain=self.home.name,
                    position=self.position,
                )
            )
        )
        await stream.send_message(pb.FromCluster(bans=pb.Bans(banned=bool(self.banned), reason=self.banned)))
        if self.banned:
            self.streams.remove(queue)
            with contextlib.suppress(TimeoutError):  # what is sent just before a stream's end can be lost with it
                await asyncio.wait_for(stream.recv_message(), 5)
            raise Denied(f"node {self.node} is banned: {self.banned}")
        if snapshot:
            messages = [
                bundle_message(self.home, home=True),
                *(self._foreign_message(d) for d in self.foreign.values()),
            ]
            messages += [pb.FromCluster(entries=pb.Entries(upsert=list(self.entries.values())))]
            messages += [pb.FromCluster(snapshot_end=pb.SnapshotEnd())]
            messages[-1].position = self.position
        else:
            messages = [message for message in self.missed if message.position > hello.position]
        reader, waiting = asyncio.create_task(self._read(stream)), None
        try:
            for message in messages:
                await stream.send_message(message)
            while True:
                waiting = asyncio.ensure_future(queue.get())
                done, _ = await asyncio.wait(
                    {waiting, reader}, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    waiting.cancel()
                    beat = pb.Heartbeat(time_ms=to_ms(datetime.now(UTC) + self.clock_ahead))
                    await stream.send_message(pb.FromCluster(heartbeat=beat))
                    continue
                if waiting not in done:
                    waiting.cancel()
                    return
                item = waiting.result()
                if isinstance(item, Exception):
                    raise item
                await stream.send_message(item)
        finally:
            reader.cancel()
            if waiting is not None:
                waiting.cancel()
            self.streams.remove(queue)

    async def _read(self, stream: Any) -> None:
        while (message := await stream.recv_message()) is not None:
            if message.WhichOneof("message") == "acknowledge":
                level = message.acknowledge
                self.acknowledged.append((level.trust_domain, level.epoch, level.sequence))
            self.loaded.extend(message.proxies.loaded)
            self.refused.extend(message.proxies.refused)

    async def issue_x509(self, request: pb.IssueX509Request) -> pb.IssueX509Response:
        await _fault(self.faults.issue, request)
        response = pb.IssueX509Response()
        signer = self.home.authorities[-1]
        for slot in request.slots:
            result = response.results.add(entry_id=slot.entry_id)
            entry = self.entries.get(slot.entry_id)
            if entry is None:
                result.error, result.error_code = "no such entry", "not_found"
                continue
            key = load_der_public_key(slot.public_key)
            assert isinstance(key, ec.EllipticCurvePublicKey)
            life = timedelta(seconds=entry.x509_ttl_seconds) or self.svid_ttl
            if slot.slot == "reserve":
                life = self.reserve_ttl
                self.reserves.append(slot.entry_id)
            der = leaf(signer, SpiffeId.parse(entry.spiffe_id), key, life, tuple(entry.dns_names))
            result.chain.append(der)
            result.authority_id = signer.id
            result.not_after_ms = to_ms(parse_leaf(der).not_after)
            self.issued.append(slot.entry_id)
        return response

    async def issue_jwt(self, request: pb.IssueJwtRequest) -> pb.IssueJwtResponse:
        await _fault(self.faults.jwt, request)
        response, now = pb.IssueJwtResponse(), datetime.now(UTC)
        for slot in request.slots:
            entry = self.entries.get(slot.entry_id)
            result = response.results.add(entry_id=slot.entry_id)
            if entry is None:
                result.error, result.error_code = "no such entry", "not_found"
                continue
            end = now + (timedelta(seconds=entry.jwt_ttl_seconds) or self.jwt_ttl)
            result.token = jwtsvid.sign(
                SpiffeId.parse(entry.spiffe_id),
                list(slot.audience),
                now,
                end,
                self.home.jwt_key,
                kid="j1",
                claims={"jti": os.urandom(8).hex()},
            )
            result.issued_at_ms, result.expires_at_ms, result.authority_id = to_ms(now), to_ms(end), "j1"
        return response

    async def renew_node(self, request: pb.RenewNodeRequest) -> pb.RenewNodeResponse:
        await _fault(self.faults.renew, request)
        self.log.append("renew")
        der = self._node_leaf(request.public_key)
        return pb.RenewNodeResponse(chain=[der], not_after_ms=to_ms(parse_leaf(der).not_after))

    def _node_leaf(self, public_key: bytes) -> bytes:
        key = load_der_public_key(public_key)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return leaf(self.home.authorities[-1], node_id(self.home.trust_domain, self.node), key, self.node_ttl)

    def _caller(self, stream: Any) -> None:
        chain = peer_chain(stream.peer._transport.get_extra_info("ssl_object"))
        svid = verify_x509_svid(chain[:1], self.home.bundle(), datetime.now(UTC))
        if svid.id != node_id(self.home.trust_domain, self.node):
            raise Denied(f"{svid.id} is no node of this cluster")

    # The door.

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split("\r\n")[0].split(" ")
            length = next(
                (int(v.split(":")[1]) for v in head.split("\r\n") if v.lower().startswith("content-length")), 0
            )
            body = await reader.readexactly(length)
            self.log.append(f"{method} {path}")
            try:
                status, content = 200, json.dumps(await self._answer(path, body)).encode()
            except TrustfedError as error:
                said = answer(error)
                status, content = said.http_status, said.problem()
            if path == "/envelope" and status == 200:
                content = self.home.envelope().data
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content)
            await writer.drain()
        except (Hangup, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, body: bytes) -> object:
        if path == "/v1/roots":
            return {"documents": [document.decode() for document in self.root_documents]}
        if path == "/v1/nonce":
            return {"nonce": "nonce-1", "expires_ms": 0}
        if path == "/envelope":
            await _fault(self.faults.envelope)
            return {}
        request = json.loads(body)
        public_key = base64.b64decode(request["public_key"])
        if path == "/v1/node/renew":
            await _fault(self.faults.nonce_renew, request)
            old = x509.load_der_x509_certificate(base64.b64decode(request["leaf"])).public_key()
            assert isinstance(old, ec.EllipticCurvePublicKey)
            enrolment.check_proof(enrolment.RENEW, request, old, "the renewal request")
            if self.banned:
                raise Denied(f"node {self.node} is banned: {self.banned}")
            return self._admitted(public_key)
        await _fault(self.faults.attest, request)
        key = load_der_public_key(public_key)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        enrolment.check_proof(enrolment.ATTEST, request, key, "the attestation request")
        token = EnrolmentToken.decode(request["payload"], "node")
        if self.tokens.get(token.secret_hash(), datetime.min.replace(tzinfo=UTC)) <= datetime.now(UTC):
            raise Denied("the join token is not known here, or has expired", hint="make a new one: trustfed node token")
        if self.secret_uses.setdefault(token.secret, request["public_key"]) != request["public_key"]:
            raise Denied("the join token was used by another key")
        admitted = self.answers.setdefault(request["public_key"], self._admitted(public_key))
        await _fault(self.faults.after_attest, request)
        return admitted

    def _admitted(self, public_key: bytes) -> dict[str, Any]:
        return {
            "node": self.node,
            "trust_domain": self.home.name,
            "node_id": str(node_id(self.home.trust_domain, self.node)),
            "chain": [enrolment.text(self._node_leaf(public_key))],
            "grpc": f"127.0.0.1:{self.grpc_port}",
            "grpc_addresses": self.grpc_addresses,
            "https_addresses": self.https_addresses,
            "server_id": str(cluster_id(self.home.trust_domain)),
            "envelope": enrolment.text(self.home.envelope().data),
            "publication_key": enrolment.text(self.home.publication_key.spki),
            "root_documents": [document.decode() for document in self.root_documents],
        }


def bundle_message(domain: Domain, *, home: bool) -> pb.FromCluster:
    return pb.FromCluster(
        bundle=pb.Bundle(
            trust_domain=domain.name,
            envelope=domain.envelope().data,
            publication_key=domain.publication_key.spki,
            home=home,
        )
    )


class _Node:
    """The methods of Node, and of NodeEvidence, for grpclib."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster

    def __mapping__(self) -> dict[str, grpclib.const.Handler]:
        cluster, prefix = self._cluster, "/trustfed.node.v1.Node/"
        unary = grpclib.const.Cardinality.UNARY_UNARY

        def one(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
            async def handler(stream: Any) -> None:
                request = await stream.recv_message()
                await stream.send_message(await _ours(cluster, stream, method, request))

            return handler

        async def sync(stream: Any) -> None:
            try:
                await cluster.sync(stream)
            except TrustfedError as error:
                raise _status(error) from None

        return {
            prefix + "Sync": grpclib.const.Handler(
                sync, grpclib.const.Cardinality.STREAM_STREAM, pb.FromAgent, pb.FromCluster
            ),
            prefix + "IssueX509": grpclib.const.Handler(
                one(cluster.issue_x509), unary, pb.IssueX509Request, pb.IssueX509Response
            ),
            prefix + "IssueJwt": grpclib.const.Handler(
                one(cluster.issue_jwt), unary, pb.IssueJwtRequest, pb.IssueJwtResponse
            ),
            prefix + "RenewNode": grpclib.const.Handler(
                one(cluster.renew_node), unary, pb.RenewNodeRequest, pb.RenewNodeResponse
            ),
            "/trustfed.evidence.v1.NodeEvidence/Report": grpclib.const.Handler(
                one(cluster.evidence.report), unary, evidence_pb.NodeReport, evidence_pb.NodeReportAnswer
            ),
        }


async def _ours(cluster: FakeCluster, stream: Any, method: Callable[[Any], Any], request: Any) -> Any:
    try:
        cluster._caller(stream)
        if cluster.banned:
            raise Denied(f"node {cluster.node} is banned: {cluster.banned}")
        return await method(request)
    except TrustfedError as error:
        raise _status(error) from None


def _status(error: TrustfedError) -> GRPCError:
    said = answer(error)
    return GRPCError(grpclib.const.Status(said.grpc_code), said.grpc_message())


async def _program(directory: Path, count: int) -> None:
    async with FakeCluster() as cluster:
        for number in range(count):
            cluster.put(f"e{number}", f"/w/{number}", [f"unix:uid:{number}"])
        (directory / "token").write_text(cluster.token(timedelta(hours=1)))
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_program(Path(sys.argv[1]), int(sys.argv[2])))
