"""gRPC's own Python client against our server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.fakes.waiting import until
from tests.unit.h2grpc.client import Echo, serving
from trustfed.h2grpc.limits import Limits
from trustfed.h2grpc.server import GrpcServer


@asynccontextmanager
async def channel(
    directory: Path, limits: Limits | None = None
) -> AsyncIterator[tuple[GrpcServer, Echo, grpc.aio.Channel]]:
    async with (
        serving(directory, limits) as (server, echo, path),
        grpc.aio.insecure_channel(f"unix:{path}") as opened,
    ):
        yield server, echo, opened


async def test_unary_with_metadata_and_errors(tmp_path: Path) -> None:
    async with channel(tmp_path) as (_, echo, opened):
        unary = opened.unary_unary("/test.Echo/Unary")
        more = (("workload.spiffe.io", "true"), ("trace-bin", b"\x00\xff"))
        assert await unary(b"hello", metadata=more, timeout=30) == b"hello"
        assert await unary(b"") == b""
        call = echo.calls[0]
        assert call.metadata["workload.spiffe.io"] == ["true"]
        assert call.binary("trace-bin") == [b"\x00\xff"]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(b"denied")
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert refused.value.details() == "no identity for you\nhint: ask for 50 % more"
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await unary(b"broken")
        assert broken.value.code() is grpc.StatusCode.INTERNAL
        with pytest.raises(grpc.aio.AioRpcError) as nothing:
            await opened.unary_unary("/test.Echo/Nothing")(b"")
        assert nothing.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_messages_up_to_the_limit(tmp_path: Path) -> None:
    async with channel(tmp_path, Limits(message=100_000)) as (_, _, opened):
        unary = opened.unary_unary("/test.Echo/Unary")
        big = os.urandom(100_000)
        for _ in range(5):
            assert await unary(big) == big
        assert await asyncio.gather(*[unary(big[:50_000]) for _ in range(5)]) == [big[:50_000]] * 5
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(big + b"x")
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await unary(b"still here") == b"still here"


async def test_compression_is_refused(tmp_path: Path) -> None:
    async with channel(tmp_path) as (_, _, opened):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await opened.unary_unary("/test.Echo/Unary")(b"x" * 1000, compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_streams(tmp_path: Path) -> None:
    async with channel(tmp_path) as (_, echo, opened):
        counted = [message async for message in opened.unary_stream("/test.Echo/Count")(b"300")]
        assert [message.rstrip(b".") for message in counted] == [b"%d" % number for number in range(300)]
        talk = opened.stream_stream("/test.Echo/Bidi")()
        for word in (b"one", b"two", b"x" * 60_000):
            await talk.write(word)
            assert await talk.read() == word[::-1]
        await talk.done_writing()
        assert await talk.read() is grpc.aio.EOF
        assert await talk.code() is grpc.StatusCode.OK
        watched = opened.unary_stream("/test.Echo/Watch")(b"first")
        assert await watched.read() == b"first"
        echo.feeds[0].send(b"second")
        assert await watched.read() == b"second"
        echo.feeds[0].end()
        assert await watched.read() is grpc.aio.EOF
        assert echo.feeds == []


async def test_cancellation_and_deadline(tmp_path: Path) -> None:
    async with channel(tmp_path) as (_, echo, opened):
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await opened.unary_unary("/test.Echo/Slow")(b"60", timeout=0.05)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        call = opened.unary_unary("/test.Echo/Slow")(b"60")
        watched = opened.unary_stream("/test.Echo/Watch")(b"first")
        assert await watched.read() == b"first"
        call.cancel()
        watched.cancel()
        await until(lambda: (echo.cancelled, echo.released) == (2, 1))


async def test_many_calls_at_once_on_one_connection(tmp_path: Path) -> None:
    async with channel(tmp_path) as (server, _, opened):
        unary = opened.unary_unary("/test.Echo/Unary")
        answers = await asyncio.gather(*[unary(b"%d" % number) for number in range(500)])
        assert answers == [b"%d" % number for number in range(500)]
        assert server.connections == 1


async def test_the_end_of_the_server_is_unavailable(tmp_path: Path) -> None:
    async with channel(tmp_path) as (server, _, opened):
        watched = opened.unary_stream("/test.Echo/Watch")(b"first")
        assert await watched.read() == b"first"
        await server.close(0.2)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await watched.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
