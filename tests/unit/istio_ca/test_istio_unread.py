"""Callers that open calls at the door and send no request: their own calls lapse, everybody else's are answered."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from h2.config import H2Configuration
from h2.connection import H2Connection

from tests.fakes.istio_mesh import request_for
from tests.unit.cluster.cluster_parts import ClusterParts
from tests.unit.istio_ca.test_istio_door import NAME, identity, opened
from tests.unit.istio_ca.test_istio_service import WEB, World
from trustfed.cluster.istio_ca import door as doors
from trustfed.cluster.istio_ca.unread import AT_ONCE, AT_ONCE_SLOW, SLOW_SECONDS, Unread
from trustfed.errors import Invalid, Unavailable
from trustfed.proto import istio_ca_pb2 as pb
from trustfed.spiffe.x509svid import pem

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    parts = await ClusterParts.make()
    yield World(parts)
    await parts.close()


async def silent(address: str, roots: str, calls: int) -> asyncio.StreamWriter:
    """A connection with so many calls of which only the headers were sent."""
    context = ssl.create_default_context(cadata=roots)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=NAME)
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "https"), (":path", METHOD), (":authority", NAME)]
    headers += [("content-type", "application/grpc"), ("te", "trailers")]
    for at in range(calls):
        connection.send_headers(2 * at + 1, headers)
    connection.ping(b"answered")
    writer.write(connection.data_to_send())
    seen = b""
    while b"answered" not in seen:  # once its answer is here, so are the headers there
        seen += await reader.read(65_536)
    return writer


async def test_calls_without_a_request_do_not_take_the_door(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "MAX_CALLS", 4)
    world.ca._unread = Unread(world.parts.clock.monotonic, 0.2)
    roots = pem(world.anchors())
    async with opened(world, identity(world)) as door:
        held = await silent(door.address, roots.decode(), 6)
        credentials = grpc.ssl_channel_credentials(roots)
        options = [("grpc.ssl_target_name_override", NAME)]
        async with grpc.aio.secure_channel(door.address, credentials, options) as channel, asyncio.timeout(20):
            call = channel.unary_unary(
                METHOD,
                request_serializer=pb.IstioCertificateRequest.SerializeToString,
                response_deserializer=pb.IstioCertificateResponse.FromString,
            )
            while True:
                try:
                    request = pb.IstioCertificateRequest(csr=request_for(WEB))
                    assert (await call(request, metadata=(("authorization", "Bearer shop/web"),))).cert_chain
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    await asyncio.sleep(0.05)
        held.close()


async def test_an_address_that_let_requests_lapse_has_few_calls_for_a_while() -> None:
    time = [0.0]

    async def never() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    async def at_once() -> AsyncIterator[str]:
        yield "request"

    async def ended() -> AsyncIterator[str]:
        nothing: tuple[str, ...] = ()
        for one in nothing:
            yield one

    unread = Unread(lambda: time[0], 0.05)
    for most in (AT_ONCE, AT_ONCE_SLOW):
        waiting = [asyncio.create_task(unread.request(never(), "a")) for _ in range(most)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="have sent no request yet"):
            await unread.request(at_once(), "a")
        assert await unread.request(at_once(), "b") == "request"
        assert all(isinstance(one, Invalid) for one in await asyncio.gather(*waiting, return_exceptions=True))
        assert await unread.request(at_once(), "a") == "request"
    time[0] += SLOW_SECONDS + 1
    waiting = [asyncio.create_task(unread.request(never(), "a")) for _ in range(AT_ONCE_SLOW)]
    await asyncio.sleep(0)
    assert await unread.request(at_once(), "a") == "request"
    await asyncio.gather(*waiting, return_exceptions=True)
    with pytest.raises(Invalid, match="ended without a request"):
        await unread.request(ended(), "b")
