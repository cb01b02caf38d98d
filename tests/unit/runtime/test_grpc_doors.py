"""grpcio's server and grpclib's client with identities of ours: who gets through, and how errors travel."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.fakes.world import DomainWorld
from trustfed.errors import Conflict, Denied, Invalid, Unavailable
from trustfed.proto import node_pb2 as pb
from trustfed.runtime.grpc_client import MAX_MESSAGE, VerifiedChannel, receive, stream, unary
from trustfed.runtime.grpc_server import OPTIONS, ServerIdentity, answering, peer_certificate
from trustfed.runtime.tls import client_context
from trustfed.spiffe.ids import SpiffeId
from trustfed.spiffe.verify import verify_x509_svid
from trustfed.spiffe.x509svid import parse_leaf

PATH = "/test.Door/Knock"
SYNC = "/test.Door/Sync"


class Door:
    @answering
    async def knock(self, request: pb.RenewNodeRequest, context: Any) -> pb.RenewNodeResponse:
        if request.command_id == "conflict":
            raise Conflict("not now", hint="later")
        if request.command_id == "bug":
            raise RuntimeError("a detail for nobody")
        if request.command_id == "slow":
            await asyncio.sleep(5)
        return pb.RenewNodeResponse(chain=[peer_certificate(context)])

    @answering
    async def sync(self, requests: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            if message.WhichOneof("message") == "heartbeat":
                raise Denied("no heartbeats here")
            await context.write(pb.FromCluster(position=7))


async def serve(world: DomainWorld) -> tuple[Any, int, ServerIdentity]:
    identity = ServerIdentity(await world.svid("/trustfed/cluster"), [world.twin])
    server = grpc.aio.server(options=OPTIONS)
    door = Door()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "test.Door",
                {
                    "Knock": grpc.unary_unary_rpc_method_handler(
                        door.knock, pb.RenewNodeRequest.FromString, pb.RenewNodeResponse.SerializeToString
                    ),
                    "Sync": grpc.stream_stream_rpc_method_handler(
                        door.sync, pb.FromAgent.FromString, pb.FromCluster.SerializeToString
                    ),
                },
            ),
        )
    )
    port = server.add_secure_port("127.0.0.1:0", identity.credentials())
    await server.start()
    return server, port, identity


async def dial(world: DomainWorld, port: int, path: str = "/trustfed/node/n1") -> VerifiedChannel:
    expected = SpiffeId.of(world.trust_domain, "/trustfed/cluster")

    def verify(chain: tuple[bytes, ...]) -> None:
        verify_x509_svid(chain, world.bundle, world.now, expected=expected)

    context = client_context(await world.svid(path, chain="leaf"), [world.twin], alpn=("h2",))
    return VerifiedChannel("127.0.0.1", port, context, verify)


async def test_both_sides_see_who_the_other_is_and_errors_keep_their_kind() -> None:
    world = await DomainWorld.make("west")
    server, port, _ = await serve(world)
    channel = await dial(world, port)
    answer = await unary(channel, PATH, pb.RenewNodeRequest(), pb.RenewNodeResponse, 5)
    assert str(parse_leaf(answer.chain[0]).id) == "spiffe://west/trustfed/node/n1"
    with pytest.raises(Conflict, match="not now"):
        await unary(channel, PATH, pb.RenewNodeRequest(command_id="conflict"), pb.RenewNodeResponse, 5)
    with pytest.raises(Exception) as caught:
        await unary(channel, PATH, pb.RenewNodeRequest(command_id="bug"), pb.RenewNodeResponse, 5)
    assert "a detail for nobody" not in str(caught.value)
    with pytest.raises(Unavailable, match="in time"):
        await unary(channel, PATH, pb.RenewNodeRequest(command_id="slow"), pb.RenewNodeResponse, 0.2)
    async with stream(channel, SYNC, pb.FromAgent, pb.FromCluster) as opened:
        await opened.send_message(pb.FromAgent(hello=pb.AgentHello()))
        assert (await receive(opened, 5, SYNC)).position == 7
    with pytest.raises(Denied, match="no heartbeats"):
        async with stream(channel, SYNC, pb.FromAgent, pb.FromCluster) as opened:
            await opened.send_message(pb.FromAgent(heartbeat=pb.Heartbeat()))
            await receive(opened, 5, SYNC)
    channel.close()
    await server.stop(0)


async def test_a_server_that_is_not_the_one_meant_gets_no_call() -> None:
    world = await DomainWorld.make("west")
    server, port, identity = await serve(world)
    identity.replace(await world.svid("/shop/api"))
    channel = await dial(world, port)
    with pytest.raises(Denied):
        await unary(channel, PATH, pb.RenewNodeRequest(), pb.RenewNodeResponse, 5)
    channel.close()
    await server.stop(0)


async def test_a_client_of_another_domain_or_without_certificate_is_refused_by_tls() -> None:
    world, other = await DomainWorld.make("west"), await DomainWorld.make("east")
    server, port, _ = await serve(world)
    for keypair in (await other.svid("/trustfed/node/n1", chain="leaf"), None):
        channel = VerifiedChannel(
            "127.0.0.1", port, client_context(keypair, [world.twin], alpn=("h2",)), lambda _: None
        )
        with pytest.raises(Unavailable):
            await unary(channel, PATH, pb.RenewNodeRequest(), pb.RenewNodeResponse, 3)
        channel.close()
    await server.stop(0)


async def test_anchors_and_certificate_are_replaced_while_it_serves() -> None:
    world, other = await DomainWorld.make("west"), await DomainWorld.make("west")
    server, port, identity = await serve(world)
    identity.replace(await other.svid("/trustfed/cluster"), [other.twin])
    channel = await dial(other, port)
    assert (await unary(channel, PATH, pb.RenewNodeRequest(), pb.RenewNodeResponse, 5)).chain
    channel.close()
    channel = await dial(world, port)
    with pytest.raises(Unavailable):
        await unary(channel, PATH, pb.RenewNodeRequest(), pb.RenewNodeResponse, 3)
    channel.close()
    await server.stop(0)


class Liar:
    """A server that announces more than it should, or sends what is no message."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    async def knock(self, request: bytes, context: Any) -> bytes:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"\x0a\xff\xff\xff\x7f", "no message"), (b"x" * (MAX_MESSAGE + 1), "at most")],
    ids=["junk", "large"],
)
async def test_what_a_server_sends_is_bounded_and_must_be_a_message(answer: bytes, words: str) -> None:
    world = await DomainWorld.make("west")
    identity = ServerIdentity(await world.svid("/trustfed/cluster"), [world.twin])
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    handler = grpc.unary_unary_rpc_method_handler(Liar(answer).knock)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Door", {"Knock": handler}),))
    port = server.add_secure_port("127.0.0.1:0", identity.credentials())
    await server.start()
    channel = await dial(world, port)
    with pytest.raises(Invalid, match=words):
        await unary(channel, PATH, pb.RenewNodeRequest(), pb.RenewNodeResponse, 5)
    channel.close()
    await server.stop(0)
