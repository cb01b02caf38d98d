"""The proxy does to connections what it is told, holds nothing without bound, and ends by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.system.faults.proxy import HOLD, PASS, Fault, Proxy


@asynccontextmanager
async def echoed() -> AsyncIterator[Proxy]:
    """A proxy before a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()) as proxy:
        yield proxy


async def dial(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = proxy.address.split(":")
    return await asyncio.open_connection(host, int(port))


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes = b"x", wait: float = 2
) -> float:
    """Seconds until `said` is back."""
    began = time.monotonic()
    writer.write(said)
    assert await asyncio.wait_for(reader.readexactly(len(said)), wait) == said
    return time.monotonic() - began


async def test_without_a_fault_everything_passes_and_so_does_the_end() -> None:
    async with echoed() as proxy:
        reader, writer = await dial(proxy)
        await answer(reader, writer, b"abc" * 50_000)
        writer.write_eof()
        assert await reader.read() == b""
        assert proxy.accepted == 1


async def test_cut_resets_what_is_open_and_what_comes_and_heals() -> None:
    async with echoed() as proxy:
        reader, writer = await dial(proxy)
        await answer(reader, writer)
        proxy.fault = Fault(cut=True)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(reader.readexactly(1), 2)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await answer(*await dial(proxy))
        proxy.fault = PASS
        await answer(*await dial(proxy))


async def test_reset_leaves_new_connections_alone() -> None:
    async with echoed() as proxy:
        reader, writer = await dial(proxy)
        await answer(reader, writer)
        proxy.reset()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(reader.readexactly(1), 2)
        await answer(*await dial(proxy))


@pytest.mark.parametrize("fault", [Fault(up=HOLD), Fault(down=HOLD)])
async def test_one_way_is_silent_without_an_error_and_arrives_late(fault: Fault) -> None:
    async with echoed() as proxy:
        reader, writer = await dial(proxy)
        await answer(reader, writer)
        proxy.fault = fault
        with pytest.raises(TimeoutError):
            await answer(reader, writer, b"held", 0.1)
        proxy.fault = PASS
        assert await asyncio.wait_for(reader.readexactly(4), 2) == b"held"


async def test_delay_is_kept_each_way() -> None:
    async with echoed() as proxy:
        reader, writer = await dial(proxy)
        proxy.fault = Fault(up=0.05, down=0.05)
        assert 0.1 <= await answer(reader, writer) < 1.0


async def test_drip_is_slow_and_complete() -> None:
    async with echoed() as proxy:
        reader, writer = await dial(proxy)
        proxy.fault = Fault(drip=20)
        assert await answer(reader, writer, bytes(100)) >= 0.08


async def test_what_is_held_is_bounded_by_the_sender_having_to_wait() -> None:
    async with echoed() as proxy:
        _, writer = await dial(proxy)
        proxy.fault = Fault(up=HOLD)
        writer.write(bytes(64 << 20))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.2)
        writer.transport.abort()


async def test_it_ends_by_itself() -> None:
    proxy = await Proxy(("127.0.0.1", 1), life=0.05).start()
    await asyncio.sleep(0.1)
    with pytest.raises(OSError):
        await dial(proxy)
