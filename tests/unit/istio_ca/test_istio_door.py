"""The door itself: server-only TLS on loopback, its certificate renewed under open connections, one address taken."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest
import pytest_asyncio
from cryptography import x509

from tests.fakes.istio_mesh import request_for
from tests.unit.cluster.cluster_parts import TD, ClusterParts
from tests.unit.istio_ca.test_istio_service import WEB, World
from trustfed.cluster.istio_ca.door import PATH, Door, DoorIdentity
from trustfed.errors import Conflict, Invalid
from trustfed.proto import istio_ca_pb2 as pb
from trustfed.spiffe.ids import TrustDomain
from trustfed.spiffe.x509svid import pem

NAME = "trustfed-ca.istio-system.svc"


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    parts = await ClusterParts.make()
    yield World(parts)
    await parts.close()


def identity(world: World, *names: str) -> DoorIdentity:
    parts = world.parts
    return DoorIdentity(
        TrustDomain(TD), parts.issuance, timedelta(hours=1), parts.clock, names or (NAME,), lambda: ("svc.example",)
    )


@contextlib.asynccontextmanager
async def opened(world: World, own: DoorIdentity) -> AsyncIterator[Door]:
    door = Door("127.0.0.1:0", own, world.ca.handlers())
    task = asyncio.create_task(door.run())
    async with asyncio.timeout(20):
        while not door.address or not await asyncio.to_thread(_listens, door.address):
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
    try:
        yield door
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def served(address: str, roots: bytes, name: str = NAME) -> x509.Certificate:
    """The certificate that a client which verifies chain and host name is shown."""
    context = ssl.create_default_context(cadata=roots.decode())
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 10) as raw,
        context.wrap_socket(raw, server_hostname=name) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


async def test_the_certificate_is_of_the_home_authority_and_is_replaced_while_calls_go_on(world: World) -> None:
    own, roots = identity(world, NAME, "ca.svc.example"), pem(world.anchors())
    async with opened(world, own) as door:
        first = await asyncio.to_thread(served, door.address, roots)
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{TD}{PATH}"]
        assert names.get_values_for_type(x509.DNSName) == [NAME, "ca.svc.example"]
        options = [("grpc.ssl_target_name_override", NAME)]
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        async with grpc.aio.secure_channel(door.address, credentials, options=options) as channel:
            call = channel.unary_unary(
                "/istio.v1.auth.IstioCertificateService/CreateCertificate",
                request_serializer=pb.IstioCertificateRequest.SerializeToString,
                response_deserializer=pb.IstioCertificateResponse.FromString,
            )
            metadata = (("authorization", "Bearer shop/web"),)
            request = pb.IstioCertificateRequest(csr=request_for(WEB))
            await call(request, metadata=metadata, timeout=20)
            await own.renew()
            assert (await asyncio.to_thread(served, door.address, roots)).serial_number != first.serial_number
            await call(request, metadata=metadata, timeout=20)
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(served, door.address, roots, "istiod.istio-system.svc")


async def test_while_nobody_may_sign_the_door_waits(world: World) -> None:
    from trustfed.cluster import authority_commands

    parts, own = world.parts, identity(world)
    (active,) = [a for a in parts.all() if a.twin]
    await parts.decide(lambda s: authority_commands.taint(s, active.id, False, parts.now))
    task = asyncio.create_task(own.begin())
    await parts.clock.advance(11)
    assert not task.done()
    await parts.round()
    (new,) = [a for a in parts.all() if a.twin and a.id != active.id]
    await parts.authorities.certify_one(new, parts)
    await parts.round()
    await parts.clock.advance(6)
    async with asyncio.timeout(20):
        await task
    assert own.keypair.chain


async def test_a_taken_address_is_one_clear_error(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Conflict, match=f"istio_ca cannot listen at {address}"):
            await Door(address, identity(world), world.ca.handlers()).run()


async def test_a_name_that_leads_elsewhere_is_never_certified(world: World) -> None:
    for name in ("google.com", "istiod.example"):
        with pytest.raises(Invalid, match="neither a Kubernetes Service"):
            await identity(world, name).renew()
