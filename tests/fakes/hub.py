"""A hub that speaks the production port (trustfed/proto/federation.proto over mTLS) and says what a test wants it to say.

    hub = await FakeHub.make(); await hub.start()
    hub.say(pb.FromHub(...))        # on the open stream, or on the next one
    await hub.cut()                 # closes the stream, now
    hub.root_documents, await hub.intermediate(domain, authority, csr), await hub.next_roots(by="old"|"new"|"both", skip=1)

It owns the root, so it can also lie with good signatures; what it cannot have is another domain's publication key.
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority import make_authority_csr, make_twin, new_authority_id
from ca.issuance import Issued, Issuer, LeafRequest, issue_x509
from ca.keys.memory import MemoryKeys
from ca.profiles import SYSTEM_SVID
from ca.root import IntermediateRequest, Root, make_root, sign_intermediate
from tests.unit.hub.newcomer import Kept
from trustfed.federation import dsse, roots
from trustfed.federation.names import hub_id
from trustfed.federation.roots import RootSet, key_id
from trustfed.proto import federation_pb2 as pb
from trustfed.runtime.grpc_server import OPTIONS, ServerIdentity
from trustfed.runtime.timestamps import to_ms
from trustfed.runtime.tls import KeyPair
from trustfed.spiffe.ids import TrustDomain

HUB = TrustDomain("fake-hub.example")
_SERVICE = "trustfed.federation.v1.Federation"


class FakeHub:
    """`await FakeHub.make()`, `await start()`, `await stop()`."""

    def __init__(self) -> None:
        self.keys = MemoryKeys()
        self.roots: list[Root] = []
        self.root_documents: list[bytes] = []
        self.instance, self.position, self.snapshot = "hub-1", 10, True
        self.heard: list[pb.FromCluster] = []
        self.decisions: list[pb.DecideGrantRequest] = []
        self.refuse_decisions = False
        self.intermediate_ttl = timedelta(days=2)
        self.dns_suffixes: tuple[str, ...] = ()
        self.spoil: Any = None
        """Turns an intermediate into what is answered instead."""
        self.hellos = 0
        self.raw: bytes | None = None
        """Instead of the next message, these bytes."""
        self.address = ""
        self._say: asyncio.Queue[pb.FromHub | bytes | None] = asyncio.Queue()
        self._server: Any = None

    @classmethod
    async def make(cls) -> FakeHub:
        made = cls()
        made.roots = [await made._root(1)]
        first = RootSet.of(1, [made.roots[0].certificate], hub_id(HUB))
        made.root_documents = [await made._signed(first, [made.roots[0]])]
        await made.keys.create("hub")
        return made

    # What it signs

    async def intermediate(self, domain: str, authority: str, csr: bytes, ttl: timedelta | None = None) -> bytes:
        not_after = (datetime.now(UTC) + (ttl or self.intermediate_ttl)).replace(microsecond=0)
        request = IntermediateRequest(TrustDomain(domain), authority, csr, self.dns_suffixes, not_after)
        return await sign_intermediate(
            self.roots[-1], request, self.keys, Kept(), now=datetime.now(UTC), randomness=os.urandom
        )

    async def next_roots(self, *, by: str = "both", skip: int = 0) -> bytes:
        """The document of a following root set, signed as told; only a rightful one is kept."""
        present = RootSet.parse(roots.reopen(self.root_documents[-1]).data)
        new = await self._root(len(self.roots) + 1 + skip)
        # Without the old root in it: with it, and a threshold of one, the old root alone could vouch for both versions.
        kept = present.roots if by == "both" else ()
        following = RootSet.of(present.version + 1 + skip, [*kept, new.certificate], present.hub)
        signers = {"both": [self.roots[-1], new], "old": [self.roots[-1]], "new": [new]}[by]
        document = await self._signed(following, signers)
        if by == "both" and not skip:
            self.root_documents.append(document)
            self.roots.append(new)
        return document

    async def _root(self, number: int) -> Root:
        name = f"root-{number}-{os.urandom(4).hex()}"
        await self.keys.create(name)
        return await make_root(HUB.name, number, name, self.keys, now=datetime.now(UTC), randomness=os.urandom)

    async def _signed(self, root_set: RootSet, signers: list[Root]) -> bytes:
        signatures = []
        for root in signers:
            (signature,) = await self.keys.sign(root.key_name, [root_set.payload_to_sign()])
            signatures.append(dsse.Signature(key_id(await self.keys.public_key(root.key_name)), signature))
        return dsse.encode(roots.PAYLOAD_TYPE, root_set.data, signatures)

    async def _keypair(self) -> KeyPair:
        authority, now = new_authority_id(os.urandom), datetime.now(UTC)
        end = (now + timedelta(days=1)).replace(microsecond=0)
        twin = await make_twin(HUB, authority, "hub", self.keys, not_after=end, now=now, randomness=os.urandom)
        csr = await make_authority_csr(HUB, authority, "hub", self.keys)
        issuer = Issuer.load(
            HUB, authority, "hub", twin, intermediate=await self.intermediate(HUB.name, authority, csr)
        )
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        request = LeafRequest(hub_id(HUB), public, 3600, chain="root", profile=SYSTEM_SVID)
        (issued,) = await issue_x509(issuer, [request], self.keys, Kept(), now=now, randomness=os.urandom)
        assert isinstance(issued, Issued), issued
        return KeyPair(issued.chain, key)

    # What it says

    async def start(self, address: str = "127.0.0.1:0") -> None:
        identity = ServerIdentity(await self._keypair(), [root.certificate for root in self.roots])
        self._server = grpc.aio.server(options=OPTIONS)
        raw = {"request_deserializer": pb.FromCluster.FromString, "response_serializer": bytes}
        handlers = {
            "Sync": grpc.stream_stream_rpc_method_handler(self._sync, **raw),
            "SignIntermediate": grpc.unary_unary_rpc_method_handler(
                self._sign, pb.SignIntermediateRequest.FromString, pb.SignIntermediateResponse.SerializeToString
            ),
            "DecideGrant": grpc.unary_unary_rpc_method_handler(
                self._decide, pb.DecideGrantRequest.FromString, pb.DecideGrantResponse.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        port = self._server.add_secure_port(address, identity.credentials())
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            self._say.put_nowait(None)
            await self._server.stop(0)
            self._server = None
            self._say = asyncio.Queue()

    def say(self, *messages: pb.FromHub | bytes) -> None:
        for message in messages:
            self._say.put_nowait(message)

    def cut(self) -> None:
        """Close the open stream after what was said before."""
        self._say.put_nowait(None)

    async def until(self, condition: Any, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    async def _sync(self, requests: Any, context: Any) -> None:
        self.heard.append(await context.read())
        self.hellos += 1
        hello = pb.HubHello(
            protocol=1,
            position=self.position,
            snapshot=self.snapshot,
            hub_instance=self.instance,
            time_ms=to_ms(datetime.now(UTC)),
        )
        await context.write(pb.FromHub(hello=hello).SerializeToString())
        reading = asyncio.create_task(self._read(context))
        try:
            while (message := await self._say.get()) is not None:
                await context.write(message if isinstance(message, bytes) else message.SerializeToString())
        finally:
            reading.cancel()

    async def _read(self, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            self.heard.append(message)

    async def _sign(self, request: pb.SignIntermediateRequest, context: Any) -> pb.SignIntermediateResponse:
        from cryptography import x509

        peer = x509.load_pem_x509_certificate(context.auth_context()["x509_pem_cert"][0])
        names = peer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        domain = names.get_values_for_type(x509.UniformResourceIdentifier)[0].split("/")[2]
        made = await self.intermediate(domain, request.authority_id, request.csr)
        return pb.SignIntermediateResponse(intermediate=self.spoil(made) if self.spoil else made)

    async def _decide(self, request: pb.DecideGrantRequest, context: Any) -> pb.DecideGrantResponse:
        if self.refuse_decisions:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
        self.decisions.append(request)
        return pb.DecideGrantResponse()
