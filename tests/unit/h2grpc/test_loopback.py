"""The server on a TCP port: loopback only, bounded like the Unix socket, closed in order."""

from __future__ import annotations

import asyncio
import socket

import grpc
import grpc.aio
import pytest

from trustfed.errors import Invalid
from trustfed.h2grpc.limits import Limits
from trustfed.h2grpc.server import GrpcServer
from trustfed.h2grpc.service import Call, Unary
from trustfed.runtime.sockets import address_of, listen_tcp


class _Peer:
    def close(self) -> None: ...


def echo(call: Call, message: bytes) -> bytes:
    return message


async def test_calls_over_loopback_are_answered_and_connections_are_bounded() -> None:
    limits = Limits(connections_per_user=1)
    server = GrpcServer({"/test.Echo/Unary": Unary(echo)}, accept=lambda _: _Peer(), limits=limits)
    listener = listen_tcp("127.0.0.1:0")
    address = address_of(listener)
    await server.serve_tcp(listener)
    async with grpc.aio.insecure_channel(address) as channel:
        assert await channel.unary_unary("/test.Echo/Unary")(b"hello", timeout=20) == b"hello"
        assert server.connections == 1
        # All peers of TCP count as one user: the second connection is one too many.
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await asyncio.wait_for(reader.read(1), 20) == b""
        writer.close()
        assert await channel.unary_unary("/test.Echo/Unary")(b"again", timeout=20) == b"again"
    await server.close(1)
    with pytest.raises(OSError):
        await asyncio.open_connection(*address.split(":"))


async def test_an_address_that_others_can_reach_is_refused() -> None:
    server = GrpcServer({}, accept=lambda _: _Peer())
    listener = socket.socket()
    listener.bind(("0.0.0.0", 0))
    listener.listen()
    with pytest.raises(Invalid, match="no way to know its callers"):
        await server.serve_tcp(listener)
    assert listener.fileno() == -1
